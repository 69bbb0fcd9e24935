"""The one S3 client, and the S3 options of Lance.

Credentials come from the boto3 chain (environment, profile, instance role) and nowhere else. Owns time-outs and retries
of the client. Does not translate its errors: what a missing object means depends on who asks.
"""

from __future__ import annotations

import datetime as dt
import re
import uuid
from collections.abc import Sequence
from contextlib import suppress
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.credentials import Credentials, ReadOnlyCredentials, RefreshableCredentials
from botocore.exceptions import BotoCoreError, ClientError, ProfileNotFound

from pipelines.storage.addresses import split_s3
from pipelines.storage.retry import retry_transient
from schemas.config import StorageConfig
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

_CONNECT_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 20.0
_CONNECTIONS = 64
_TRIES = 5
_DELETED_AT_ONCE = 1000
_PASSING = frozenset({"InternalError", "OperationAborted", "RequestTimeout", "ServiceUnavailable", "SlowDown"})
# Lance asks for credentials a minute before they expire.
_RENEW_S = 300.0
_REREAD_S, _MARGIN_S = 240, 60
_FILES = ("shared-credentials-file", "config-file")
_RENEWED_BY_LANCE = ("env", "assume-role-with-web-identity", "container-role", "iam-role")


@cache
def s3_client(
    storage: StorageConfig, read_timeout_s: float = _READ_TIMEOUT_S, tries: int = _TRIES, reread_s: int = _REREAD_S
) -> S3Client:
    """Return the boto3 client of a store; there is one per process and config, and threads may share it.

    Args:
        storage: Where the store is.
        read_timeout_s: Seconds without a byte after which a request fails.
        tries: How often a request is sent before its error is raised.
        reread_s: Seconds after which keys that stand in a file are read again.

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
    return _session(storage, reread_s).client("s3", endpoint_url=storage.endpoint, config=config)


def lance_access(
    uri: str, storage: StorageConfig, renew_s: float = _RENEW_S, reread_s: int = _REREAD_S
) -> dict[str, Any]:
    """Return the keyword arguments with which a Lance call reaches an address; none for a local path.

    Environment, web identity, container and instance role are left to Lance, which renews them. Other credentials, such
    as those of a profile, are handed over for a few minutes. Then Lance asks for them again, so a run outlives them.

    Args:
        uri: Address of a dataset.
        storage: Where S3 is.
        renew_s: Seconds after which Lance asks for credentials again.
        reread_s: Seconds after which keys that stand in a file are read again.

    Raises:
        ConfigError: The named profile does not exist.
    """
    if not uri.startswith("s3://"):
        return {}
    options = lance_options(storage, reread_s)
    if options is None or "aws_access_key_id" not in options:
        return {"storage_options": options}
    from pipelines.storage.renewal import RenewingOptions  # here, since it is slow to import

    renewing = RenewingOptions(uri, partial(lance_options, storage, reread_s), renew_s)
    return {"storage_options": renewing.options(), "namespace_client": renewing, "table_id": [uri]}


def lance_options(storage: StorageConfig, reread_s: int = _REREAD_S) -> dict[str, str] | None:
    """Return Lance's `storage_options` for S3 as of now, or None where its defaults are right.

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
    found = _credentials(storage, reread_s)
    if found is not None and found.method not in _RENEWED_BY_LANCE:
        frozen = found.get_frozen_credentials()
        options |= {"aws_access_key_id": frozen.access_key or "", "aws_secret_access_key": frozen.secret_key or ""}
        if frozen.token:
            options["aws_session_token"] = frozen.token
    return options or None


def check_conditional_writes(uri: str, storage: StorageConfig) -> None:
    """Refuse a store that overwrites an object which it was asked to create only; asked once per process and bucket.

    Every commit is such a write. A store that ignores the condition lets two jobs overwrite each other's commits, and
    none of them notices.

    Args:
        uri: Address of a table; a small object is written to its bucket and deleted. A local path is not asked.
        storage: Where S3 is.

    Raises:
        ConfigError: The store ignores the condition, or does not know it.
        ClientError: The store refuses the write for another reason.
    """
    if uri.startswith("s3://"):
        _check_bucket(split_s3(uri)[0], storage)


def delete_keys(bucket: str, keys: Sequence[str], storage: StorageConfig) -> None:
    """Delete objects, as many in one request as S3 takes; those that are gone do not count.

    Raises:
        ClientError: The store refuses, all of them or some.
        OSError: It fails, also when it is asked again.
    """
    for start in range(0, len(keys), _DELETED_AT_ONCE):
        some = keys[start : start + _DELETED_AT_ONCE]
        retry_transient(f"s3://{bucket}", partial(_delete_some, bucket, some, storage))


def kept_versions(uri: str, names: re.Pattern[str], storage: StorageConfig) -> int | None:
    """Count the earlier versions that a bucket keeps of objects of a folder; None where it may not be asked.

    Args:
        uri: Address of the folder.
        names: Matches the beginnings of the names that count, relative to the folder.
        storage: Where S3 is.
    """
    bucket, prefix = split_s3(f"{uri.rstrip('/')}/")
    client = s3_client(storage)
    try:
        if not dict(client.get_bucket_versioning(Bucket=bucket)).get("Status"):
            return 0
        pages = client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix)
        versions = (version for page in pages for version in page.get("Versions", ()) if not version["IsLatest"])
        return sum(names.match(version["Key"], len(prefix)) is not None for version in versions)
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in ("NotImplemented", "MethodNotAllowed"):
            return 0
        return None


def _delete_some(bucket: str, keys: Sequence[str], storage: StorageConfig) -> None:
    named: list[ObjectIdentifierTypeDef] = [{"Key": key} for key in keys]
    answer = s3_client(storage).delete_objects(Bucket=bucket, Delete={"Objects": named, "Quiet": True})
    # The request succeeds whatever becomes of its objects.
    left = [error for error in answer.get("Errors", ()) if error.get("Code") != "NoSuchKey"]
    if not left:
        return
    refused = [error for error in left if error.get("Code") not in _PASSING]
    first = (refused or left)[0]
    said = (
        f"{first.get('Message', '')}: {len(left)} of {len(keys)} objects of bucket {bucket} are not deleted, such as "
        f"{first.get('Key')}"
    )
    if refused:
        message = f"{said}; the right s3:DeleteObject is needed for each"
        raise ClientError({"Error": {"Code": first.get("Code", ""), "Message": message}}, "DeleteObjects")
    raise OSError(f"s3://{bucket}: {first.get('Code')}: {said}")


@cache
def _check_bucket(bucket: str, storage: StorageConfig) -> None:
    client, key = s3_client(storage), f"_probe-{uuid.uuid4().hex}"
    try:
        is_kept = [_creates(client, bucket, key) for _ in range(2)][1]
    finally:
        with suppress(ClientError, BotoCoreError):
            client.delete_object(Bucket=bucket, Key=key)
    if is_kept:
        where = storage.endpoint or "AWS"
        raise ConfigError(
            f"the store at {where}, bucket {bucket}, has no conditional writes: it ignores If-None-Match, so jobs that "
            "run at the same time would lose each other's rows; use AWS S3, another store that has them, or a local "
            "folder"
        )


def _creates(client: S3Client, bucket: str, key: str) -> bool:
    """Write an object if there is none; tell whether the store accepted it."""
    try:
        client.put_object(Bucket=bucket, Key=key, Body=b"", IfNoneMatch="*")
    except ClientError as error:
        code = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if code in (409, 412):
            return False
        if code == 501:
            return True
        raise
    return True


@cache
def _session(storage: StorageConfig, reread_s: int) -> boto3.Session:
    """Return the session of a store. Keys that stand in a file are read again from time to time.

    Tools that log in for a person write new keys into that file, and boto3 would keep the old ones for ever.
    """
    session = _new_session(storage)
    found = session.get_credentials()
    if found is not None and found.method in _FILES:
        core: Any = session._session  # botocore's; boto3 has no way to give a session credentials that renew themselves
        core._credentials = RefreshableCredentials.create_from_metadata(
            _read_keys(storage, reread_s),
            partial(_read_keys, storage, reread_s),
            found.method,
            advisory_timeout=_MARGIN_S,
            mandatory_timeout=_MARGIN_S,
        )
    return session


@cache
def _credentials(storage: StorageConfig, reread_s: int) -> Credentials | None:
    """Return the credentials of a store, which renew themselves; where there are none, that is found out once."""
    return _session(storage, reread_s).get_credentials()


def _read_keys(storage: StorageConfig, reread_s: int) -> dict[str, str | None]:
    found = _new_session(storage).get_credentials()
    keys = ReadOnlyCredentials("", "", None) if found is None else found.get_frozen_credentials()
    until = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=reread_s + _MARGIN_S)
    return {
        "access_key": keys.access_key,
        "secret_key": keys.secret_key,
        "token": keys.token,
        "expiry_time": until.isoformat(),
    }


def _new_session(storage: StorageConfig) -> boto3.Session:
    try:
        return boto3.Session(profile_name=storage.profile, region_name=storage.region)
    except ProfileNotFound as error:
        raise ConfigError(f"storage.profile: {error}") from None
