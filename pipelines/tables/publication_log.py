"""The log of publications: `<table>/_publications/<number>.json`, each record written once.

A record is published by making the file of the next number, which only one writer can do: that is the one
compare-and-swap of publishing, of rolling back, and of fencing off an older run. The file with the highest number is
the truth. Later generations of a table stand beside it: `news.g2.lance` is generation 2 of `news.lance`.

Owns the addresses of generations and the reading and writing of records. Opens no table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipelines.storage.addresses import absolute
from pipelines.storage.small_files import create_file, list_files, read_file
from schemas.config import StorageConfig
from schemas.errors import PublicationConflict, TableError
from schemas.publications import Publication, PublishedState

_NAME = re.compile(r"(\d{8,12})\.json")
_GENERATION = re.compile(r"(.+)\.g([1-9]\d{0,5})\.lance")
_READ_AT_ONCE = 16


@dataclass(frozen=True)
class Published:
    """Where a publication's table is.

    Attributes:
        uri: Address of its generation.
        publication: The record.
        state: What it shows.
    """

    uri: str
    publication: Publication
    state: PublishedState


def generation_uri(table: str, generation: int) -> str:
    """Return the address of a generation: 1 is the table's own, 2 of `x/news.lance` is `x/news.g2.lance`."""
    uri = table.rstrip("/")
    return uri if generation == 1 else f"{uri.removesuffix('.lance')}.g{generation}.lance"


def table_of(uri: str, storage: StorageConfig) -> tuple[str, int]:
    """Return the table and number of the generation at an address.

    An address that is named like a later generation is one only if its table has a log of publications or of nights.
    """
    named = _GENERATION.fullmatch(uri := absolute(uri).rstrip("/"))
    if named and int(named[2]) > 1 and (has_log(table := f"{named[1]}.lance", storage)):
        return table, int(named[2])
    return uri, 1


def has_log(table: str, storage: StorageConfig) -> bool:
    """Tell whether anything was ever published of a table, or a night ran on it."""
    if "://" in table and not table.startswith("s3://"):
        return False
    return bool(list_files(_folder(table), storage) or list_files(nights_folder(table), storage))


def nights_folder(table: str) -> str:
    """Return the folder of a table's lock and of its nights' states."""
    return f"{table.rstrip('/')}/_nights"


def read_numbers(table: str, storage: StorageConfig) -> list[int]:
    """Return the numbers of all records, ascending; none where nothing was published."""
    if "://" in table and not table.startswith("s3://"):
        return []
    names = (_NAME.fullmatch(file.name) for file in list_files(_folder(table), storage))
    return sorted(int(name[1]) for name in names if name)


def read_log(table: str, storage: StorageConfig, numbers: Sequence[int] | None = None) -> list[Publication]:
    """Return all records, or those of some numbers, the oldest first.

    Raises:
        TableError: A record is of a newer format, or malformed.
    """
    wanted = read_numbers(table, storage) if numbers is None else list(numbers)
    with ThreadPoolExecutor(_READ_AT_ONCE, "publications") as pool:
        return list(pool.map(lambda number: _read(table, number, storage), wanted))


def read_head(table: str, storage: StorageConfig) -> Publication | None:
    """Return the latest record; None where nothing was published."""
    numbers = read_numbers(table, storage)
    return _read(table, numbers[-1], storage) if numbers else None


def resolve_prod(table: str, storage: StorageConfig) -> Published | None:
    """Return what `prod` of a table is now; None where nothing was published."""
    head = read_head(table := absolute(table), storage)
    if head is None or head.state is None:
        return None
    return Published(generation_uri(table, head.state.generation), head, head.state)


def holding_rollback(base: str, storage: StorageConfig) -> Publication | None:
    """Return the rollback that nights must not publish over; None where there is none.

    It lasts until somebody publishes, or rolls back to what was published last.
    """
    log = [each for each in read_log(base, storage) if each.action != "fence"]
    if not log or log[-1].action != "rollback" or (shown := log[-1].state) is None:
        return None
    last = next((each.state for each in reversed(log) if each.action == "publish"), None)
    return None if shown.is_same_content(last) else log[-1]


def earlier_publication(base: str, storage: StorageConfig, to: int | None = None) -> Publication:
    """Return the publication that `rollback` shows again; its `state` is not None.

    Raises:
        TableError: There is no such publication, or nothing earlier.
    """
    log = read_log(base, storage)
    if all(each.state is None for each in log):
        raise TableError(f"{base}: nothing is published, so there is nothing to roll back; run: mlake publish {base}")
    shown, present = [each for each in log if each.state is not None], log[-1].state
    if to is None:
        earlier = [each for each in shown if each.state is not None and not each.state.is_same_content(present)]
    else:
        earlier = [each for each in shown if each.number == to]
    if not earlier:
        which = "earlier publication" if to is None else f"publication {to}"
        raise TableError(f"{base}: there is no {which}; see: mlake history {base}")
    return earlier[-1]


def append_record(table: str, record: Publication, storage: StorageConfig) -> None:
    """Publish a record: the one compare-and-swap.

    Raises:
        PublicationConflict: Another record has that number.
    """
    data = record.to_json(indent=1).encode()
    uri = _address(table, record.number)
    # Where the answer to a write was lost and it is written again, the file is there, and is this one.
    if not create_file(uri, data, storage) and read_file(uri, storage) != data:
        raise PublicationConflict(
            f"`prod` of {table} was moved by another command meanwhile, so nothing is published; see `mlake history "
            f"{table}`, and run the same command again"
        )


def _read(table: str, number: int, storage: StorageConfig) -> Publication:
    uri = _address(table, number)
    if (data := read_file(uri, storage)) is None:
        raise TableError(f"{uri} is gone; restore it from a copy of the table, or publish again: mlake publish {table}")
    record = Publication.from_json(data, uri)
    if record.number != number:
        raise record.stored_as.malformed(uri, f"says that it is number {record.number}")
    return record


def _address(table: str, number: int) -> str:
    return f"{_folder(table)}/{number:08d}.json"


def _folder(table: str) -> str:
    return f"{table.rstrip('/')}/_publications"
