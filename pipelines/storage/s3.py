"""The one S3 client, and the S3 options of Lance.

Credentials come from the boto3 chain (environment, profile, instance role) and nowhere else. Owns time-outs and retries
of the client. Does not translate its errors: what a missing object means depends on who asks.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import ProfileNotFound

from schemas.config import StorageConfig
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CONNECT_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 20.0
_CONNECTIONS = 64
_TRIES = 5


@cache
def s3_client(storage: StorageConfig, read_timeout_s: float = _READ_TIMEOUT_S, tries: int = _TRIES) -> S3Client:
    """Return the boto3 client of a store; there is one per process and config, and threads may share it.

    Args:
        storage: Where the store is.
        read_timeout_s: Seconds without a byte after which a request fails.
        tries: How often a request is sent before its error is raised.

    Raises:
        ConfigError: The named profile does not exist.
    """
    config = Config(
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=read_timeout_s,
        max_pool_connections=_CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": tries},
        s3={"addressing_style": "path"} if storage.endpoint else None,
        response_checksum_validation="when_required",
    )
    return _session(storage).client("s3", endpoint_url=storage.endpoint, config=config)


def lance_options(storage: StorageConfig) -> dict[str, str] | None:
    """Return Lance's `storage_options` for S3, or None where its defaults are right.

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
    if storage.profile and (found := _session(storage).get_credentials()) is not None:
        frozen = found.get_frozen_credentials()
        options |= {"aws_access_key_id": frozen.access_key or "", "aws_secret_access_key": frozen.secret_key or ""}
        if frozen.token:
            options["aws_session_token"] = frozen.token
    return options or None


def _session(storage: StorageConfig) -> boto3.Session:
    try:
        return boto3.Session(profile_name=storage.profile, region_name=storage.region)
    except ProfileNotFound as error:
        raise ConfigError(f"storage.profile: {error}") from None
