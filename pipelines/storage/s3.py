"""S3: the one client, and what Lance's object store wants to know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import boto3
from botocore.exceptions import ProfileNotFound

from schemas.config import StorageConfig
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def lance_options(storage: StorageConfig) -> dict[str, str] | None:
    """Return Lance `storage_options` for S3, or None where the defaults do.

    Without a profile Lance finds credentials by itself (environment, web identity, instance role) and renews them.

    Raises:
        ConfigError: The named profile does not exist.
    """
    options: dict[str, str] = {}
    if storage.endpoint:
        options["aws_endpoint"] = storage.endpoint
        options["aws_virtual_hosted_style_request"] = "false"
        if storage.endpoint.startswith("http://"):
            options["allow_http"] = "true"
    if storage.region:
        options["aws_region"] = storage.region
    if storage.profile:
        try:
            found = boto3.Session(profile_name=storage.profile).get_credentials()
        except ProfileNotFound as error:
            raise ConfigError(f"storage.profile: {error}") from None
        if found is not None:
            frozen = found.get_frozen_credentials()
            options |= {"aws_access_key_id": frozen.access_key or "", "aws_secret_access_key": frozen.secret_key or ""}
            if frozen.token:
                options["aws_session_token"] = frozen.token
    return options or None


def split_s3(uri: str) -> tuple[str, str]:
    """Split `s3://bucket/key` into bucket and key."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key.rstrip("/")


def s3_client(storage: StorageConfig) -> S3Client:
    """Return a boto3 client for the configured store."""
    session = boto3.Session(profile_name=storage.profile, region_name=storage.region)
    return session.client("s3", endpoint_url=storage.endpoint)
