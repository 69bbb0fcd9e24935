"""The small tables beside a vector table that are named by their content: rotations, and codebooks of funnels.

A version of the table refers to them: to a rotation by its space, to codebooks by its funnels. Owns how they are
written, which of them no version refers to, and the check that one that is about to be referred to stays: as with data
files (`fencing.py`), a cleaner says first up to when it gives up what nothing refers to. Owns no content
(`rotations.py`, `pipelines.funnel.codebooks`).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import re
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
from botocore.exceptions import BotoCoreError, ClientError
from lance import LanceDataset

from pipelines.storage.addresses import sibling, split_s3
from pipelines.storage.retry import retry_transient
from pipelines.storage.s3 import s3_client
from pipelines.tables.companion_commits import overwrite, write_once
from pipelines.tables.companions import Owner
from pipelines.tables.fencing import given_up_before
from pipelines.tables.opening import open_dataset
from schemas.cards import TunedFunnel
from schemas.columns import space_of
from schemas.config import StorageConfig
from schemas.errors import RunExpired, TableNotFound
from schemas.plans import FUNNEL_KEY

_KINDS = ("rotation", "codebook")
_NAME = re.compile(r"(?:rotation|codebook)-[0-9a-f]{16}(?=\.lance(?:/|$))")
_OPENED_AT_ONCE = 16


@dataclass(frozen=True)
class StoredFile:
    """A file of a table that is named by its content.

    Attributes:
        name: Name of that table, such as `codebook-17c0c0311b5b2c70`.
        address: Address of the file.
        nbytes: Its size.
        written_at: When the store says that it was written, UTC.
    """

    name: str
    address: str
    nbytes: int
    written_at: dt.datetime


def rotation_name(fingerprint: str) -> str:
    """Return the name of the table that holds a rotation."""
    return f"rotation-{fingerprint}"


def save_fingerprinted(name: str, rows: pa.Table, table_uri: str, storage: StorageConfig) -> None:
    """Write a table named by its content, once; anew where a cleaner has given up the one that is there."""
    uri = sibling(table_uri, name)
    if write_once(uri, rows, storage):
        return
    try:
        table = open_dataset(table_uri, storage)
    except TableNotFound:
        return
    if not _stays(name, table, table_uri, storage):
        overwrite(uri, rows.to_reader, rows.schema, storage)


def check_fingerprinted(name: str, dataset: LanceDataset, table: Owner) -> None:
    """Refuse to refer to a table that a cleaner has deleted, or may delete at any moment.

    Args:
        name: Its name.
        dataset: The vector table at the version that a commit is compared with, or, for a commit that does not conflict
            with that of a cleaner, after it.
        table: Says where both are.

    Raises:
        RunExpired: It is gone or given up.
    """
    if not _stays(name, dataset, table.uri, table.storage):
        raise RunExpired(
            f"{sibling(table.uri, name)} is gone or was given up: the run that wrote it was not seen for 15 minutes, "
            "so `mlake clean` took it for dead; run the same command again"
        )


def find_unreferred(table: Owner, before: dt.datetime) -> list[StoredFile]:
    """List the files of rotations and codebooks to which no version of the table refers, without their newer ones.

    Every version counts, so what a tag or a publication shows keeps what it refers to.

    Args:
        table: The table; local or on S3, of another store nothing is listed.
        before: Files that were written at this time or later are left out.
    """
    files = [file for file in _list(table.uri, table.storage) if file.written_at < before]
    unreferred = {file.name for file in files} - _referred_at(table, None)
    if not unreferred or has_twin(table.uri, table.storage):
        return []
    versions = [version["version"] for version in open_dataset(table.uri, table.storage).versions()]
    with ThreadPoolExecutor(_OPENED_AT_ONCE, "references") as pool:
        for referred in pool.map(partial(_referred_at, table), versions):
            unreferred -= referred
    return [file for file in files if file.name in unreferred]


def _stays(name: str, dataset: LanceDataset, table_uri: str, storage: StorageConfig) -> bool:
    """Tell whether a table is there, and its newest file is not given up."""
    written = [file.written_at for file in _list(table_uri, storage) if file.name == name]
    before = given_up_before(dataset)
    is_listed = "://" not in table_uri or table_uri.startswith("s3://")
    return not is_listed or (bool(written) and (before is None or max(written) >= before))


def _referred_at(table: Owner, version: int | None) -> set[str]:
    """Return the names that a version refers to; None is the newest."""
    try:
        return _referred(open_dataset(table.uri, table.storage, version), table.uri)
    except TableNotFound:  # it was expired meanwhile
        return set()


def _referred(dataset: LanceDataset, uri: str) -> set[str]:
    """Return the names that a version refers to."""
    rotation = space_of(dataset.schema, uri).rotation
    funnels = (text for key, text in dataset.config().items() if key.startswith(FUNNEL_KEY))
    names = {TunedFunnel.from_json(text, uri).plan.codebook for text in funnels}
    return names - {""} | ({rotation_name(rotation)} if rotation is not None else set())


def has_twin(uri: str, storage: StorageConfig) -> bool:
    """Tell whether `x` and `x.lance` are both tables: what is beside them has the same names."""
    bare = uri.rstrip("/")
    other = bare.removesuffix(".lance") if bare.endswith(".lance") else f"{bare}.lance"
    try:
        open_dataset(other, storage)
    except TableNotFound:
        return False
    return True


def _list(table_uri: str, storage: StorageConfig) -> Iterator[StoredFile]:
    """List the files of all rotations and codebooks beside a table."""
    for kind in _KINDS:
        start = sibling(table_uri, kind).removesuffix(".lance") + "-"
        if start.startswith("s3://"):
            yield from retry_transient(start, partial(_list_s3, start, storage))
        elif "://" not in start:
            yield from _list_local(Path(start))


def _list_local(start: Path) -> Iterator[StoredFile]:
    at = start.name.rindex(".") + 1
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for folder in start.parent.iterdir():
            name = _NAME.match(folder.name, at) if folder.name.startswith(start.name) else None
            for path in folder.rglob("*") if name is not None else ():
                with contextlib.suppress(FileNotFoundError):
                    found = path.lstat()
                    if name is not None and not stat.S_ISDIR(found.st_mode):
                        written_at = dt.datetime.fromtimestamp(found.st_mtime, dt.UTC)
                        yield StoredFile(name[0], str(path), found.st_size, written_at)


def _list_s3(start: str, storage: StorageConfig) -> list[StoredFile]:
    bucket, prefix = split_s3(start)
    at, files = prefix.rindex(".") + 1, []
    try:
        for page in s3_client(storage).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for each in page.get("Contents", ()):
                if (name := _NAME.match(each["Key"], at)) is not None:
                    address = f"s3://{bucket}/{each['Key']}"
                    files.append(StoredFile(name[0], address, each["Size"], each["LastModified"]))
    except (BotoCoreError, ClientError) as error:
        raise OSError(f"{start}: {error}") from error
    return files
