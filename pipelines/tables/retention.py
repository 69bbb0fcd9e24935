"""Keep a lake of many nights small: remove generations and versions that nobody needs.

A generation is removed in three steps, each of which may be the last before a crash. First its config says that it is
retired, so no night goes on with it and no rollback shows it. Then its list of versions goes, so nothing opens it. Then
its files go, and those of the tables beside it. The next call removes what a crash left.

Owns what stays. Owns neither the tags of publications (`generations.py`) nor the removal of orphans (`maintenance.py`).
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.storage.addresses import absolute, companion_stem
from pipelines.storage.folders import list_folders, remove_folder
from pipelines.tables.commits import update_config
from pipelines.tables.fencing import store_now
from pipelines.tables.fingerprinted import has_twin
from pipelines.tables.generations import (
    READER_GRACE,
    RETIRED_KEY,
    generations_of,
    needed_versions,
    repair_tags,
)
from pipelines.tables.maintenance import expire_table
from pipelines.tables.publication_log import generation_uri, read_log
from pipelines.tables.runs import ALIVE_FOR, living_runs
from pipelines.tables.table import VectorTable
from pipelines.tables.tags import read_tags
from schemas.config import StorageConfig


@dataclass(frozen=True)
class Freed:
    """What was removed.

    Attributes:
        nbytes: Bytes that are free again.
        generations: Numbers of the generations that are gone.
    """

    nbytes: int = 0
    generations: tuple[int, ...] = ()


def retain(
    base: str,
    working_on: int,
    storage: StorageConfig,
    *,
    generations: int | None,
    versions: int,
    reader_grace: dt.timedelta = READER_GRACE,
    alive_for: dt.timedelta = ALIVE_FOR,
) -> Freed:
    """Remove generations and versions that are older than the newest few and that nobody needs.

    What stays whatever its age: what is `prod`, what was replaced less than `reader_grace` ago, what has a tag, a
    generation that a run is at work on, and the newest version of generation 1, whose address is that of the table.

    Args:
        base: Address of the table (of its first generation).
        working_on: Number of the generation of the present space.
        storage: Where S3 is.
        generations: Number of the newest generations that stay; None removes none.
        versions: Number of the newest versions of each generation that stay.
        reader_grace: How long a replaced publication lives, and a version that readers may have opened by its number.
        alive_for: How long a run lives without an entry in the journal.
    """
    base = absolute(base)
    repair_tags(base, storage, reader_grace)
    gone, nbytes = list[int](), remove_leftovers(base, storage)
    for generation in _spare(base, working_on, generations, storage, reader_grace):
        if (size := _retire(base, generation, storage, alive_for)) is not None:
            gone.append(generation)
            nbytes += size
    for generation in generations_of(base, storage):
        table = VectorTable.open(generation_uri(base, generation), storage=storage)
        nbytes += expire_table(table, reader_grace, reader_grace, keep=versions)
    return Freed(nbytes, tuple(gone))


def remove_leftovers(base: str, storage: StorageConfig) -> int:
    """Remove what a crash left of generations that were being removed; return the bytes freed."""
    base = absolute(base)
    there = generations_of(base, storage)
    gone = {number for number, _ in _folders(base, storage) if number < there[-1]} - set(there)
    return sum(_remove_files(base, number, storage) for number in gone)


def _spare(
    base: str, working_on: int, newest: int | None, storage: StorageConfig, reader_grace: dt.timedelta
) -> list[int]:
    """Return the generations that are older than the newest few, and that readers do not need."""
    if newest is None or has_twin(base, storage):
        return []
    log = read_log(base, storage)
    needed = needed_versions(log, store_now(base, storage), reader_grace)
    older = generations_of(base, storage)[:-newest]
    return [number for number in older if number not in {1, working_on, *needed}]


def _retire(base: str, generation: int, storage: StorageConfig, alive_for: dt.timedelta) -> int | None:
    """Remove a generation; return the bytes freed, or None if a tag or a run needs it."""
    uri = generation_uri(base, generation)

    def is_needed() -> bool:
        return bool(read_tags(uri, storage)) or bool(
            living_runs(VectorTable.open(uri, storage=storage), None, alive_for)
        )

    if is_needed():
        return None
    update_config(uri, {RETIRED_KEY: "true"}, storage)
    # A rollback that set its tag before is seen here; a later one sees the mark.
    if is_needed():
        update_config(uri, {RETIRED_KEY: ""}, storage)
        return None
    return _remove_files(base, generation, storage)


def _remove_files(base: str, generation: int, storage: StorageConfig) -> int:
    uri = generation_uri(base, generation)
    nbytes = remove_folder(f"{uri}/_versions", storage)
    return nbytes + sum(
        remove_folder(folder, storage) for number, folder in _folders(base, storage) if number == generation
    )


def _folders(base: str, storage: StorageConfig) -> Iterator[tuple[int, str]]:
    """Yield the tables of later generations, and those beside them, with the number of their generation."""
    stem = base.rstrip("/").removesuffix(".lance")
    named = re.compile(rf"{re.escape(stem)}\.g([1-9]\d{{0,5}})")
    for folder in list_folders(f"{stem}.g", storage):
        own, owner = named.fullmatch(folder.removesuffix(".lance")), named.fullmatch(companion_stem(folder) or "")
        found = own if own and folder.endswith(".lance") else owner
        if found and int(found[1]) > 1:
            yield int(found[1]), folder
