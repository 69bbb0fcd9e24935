"""Publish versions of a table to its readers, roll back, and keep what they need.

    publish    tag the version, append a record to the log (the compare-and-swap), move the Lance tag `prod`
    rollback   append a record that shows an earlier publication again
    repair     make the Lance tags agree with the log; every command that publishes, rolls back or cleans does it

Owns what a publication consists of and which versions its readers need. The log is in `publication_log.py`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lance import LanceDataset

from pipelines.storage.addresses import absolute, sibling
from pipelines.tables.fencing import store_now
from pipelines.tables.ledger import held_shards, rejects_of
from pipelines.tables.opening import open_dataset
from pipelines.tables.publication_log import (
    append_record,
    earlier_publication,
    generation_uri,
    read_head,
    read_log,
    read_numbers,
)
from pipelines.tables.table import VectorTable
from pipelines.tables.tags import read_tags, remove_tag, set_tag
from schemas.cards import TunedFunnel
from schemas.config import StorageConfig
from schemas.errors import PublicationConflict, TableError, TableNotFound
from schemas.plans import FUNNEL_KEY
from schemas.publications import (
    PROD,
    Action,
    GateResult,
    Publication,
    PublishedIndex,
    PublishedLists,
    PublishedState,
)
from schemas.shortlists import shortlist_spec

READER_GRACE = dt.timedelta(days=7)
"""What was published lives at least this long after it was replaced, for the readers that have it open."""
RETIRED_KEY = "lake.retired"
"""Config key of a generation that is being removed; the value is empty if it stays after all."""
_KEEPS = "published-"
_OUR_TAG = re.compile(rf"{_KEEPS}\d+")


@dataclass(frozen=True)
class PublishRequest:
    """What is said about a publication, beside its content.

    Attributes:
        id: Usable once; empty makes a new one.
        run: Id of the run that publishes.
        audit: The checks that were made.
        is_forced: Whether it is published against them.
        note: A sentence for the history.
        expected_head: Number of the latest record when the work began; None takes the one that is there now.
    """

    id: str = ""
    run: str = ""
    audit: tuple[GateResult, ...] = ()
    is_forced: bool = False
    note: str = ""
    expected_head: int | None = None


def describe(table: VectorTable, generation: int, shortlists: Sequence[str] = ()) -> PublishedState:
    """Return what a publication of a table's version consists of.

    Args:
        table: Open at the version.
        generation: Its number.
        shortlists: Addresses of its shortlist tables; the one beside it is found without being named.
    """
    dataset = table.dataset
    indexes = tuple(
        PublishedIndex(name=index.name, column=index.field_names[0], type=str(index.index_type))
        for index in dataset.describe_indices()
    )
    written = {key: text for key, text in dataset.config().items() if key.startswith(FUNNEL_KEY)}
    addresses = dict.fromkeys([*map(absolute, shortlists), sibling(table.uri, "shortlist")])
    lists = (_published_lists(uri, table) for uri in addresses)
    return PublishedState(
        generation=generation,
        version=dataset.version,
        table_id=table.table_id,
        space=table.space.fingerprint,
        encoder=table.space.encoder_name,
        rows=dataset.count_rows(),
        shards=len(held_shards(dataset)),
        rejects=len(rejects_of(table)),
        prefix_dims=table.prefix_dims,
        indexes=indexes,
        shortlists=tuple(each for each in lists if each is not None),
        funnels=tuple(TunedFunnel.from_json(text, table.uri) for _, text in sorted(written.items())),
    )


def publish(base: str, state: PublishedState, storage: StorageConfig, request: PublishRequest) -> Publication:
    """Make a version of a generation what readers of `prod` see.

    Publishing the same id again returns the record that it made, and changes nothing.

    Args:
        base: Address of the table (of its first generation).
        state: What is published, from `describe`.
        storage: Where S3 is.
        request: What is said about it.

    Raises:
        PublicationConflict: `prod` was moved since the work began, or the id was used for something else.
        TableNotFound: The version is gone.
    """
    base = absolute(base)
    if request.id and (used := _with_id(base, request.id, storage)):
        if not state.is_same_content(used.state):
            raise PublicationConflict(f"{base}: the id {request.id!r} was used for publication {used.number} already")
        return used
    return _append(base, state, storage, "publish", request)


def rollback(
    base: str, storage: StorageConfig, to: int | None = None, request: PublishRequest = PublishRequest()
) -> Publication:
    """Show an earlier publication again; the one before the present content if `to` is None.

    Raises:
        TableError: There is no such publication, or nothing earlier.
        TableNotFound: Its version was removed meanwhile.
        PublicationConflict: `prod` was moved at the same moment.
    """
    target = earlier_publication(base := absolute(base), storage, to)
    assert target.state is not None
    return _append(base, target.state, storage, "rollback", request, restores=target.number)


def fence_off(base: str, storage: StorageConfig, run: str, note: str) -> int:
    """Make every run that began before now fail when it publishes; `prod` stays. Return the number of the new head."""
    while True:
        head = read_head(base, storage)
        record = _record(head, None if head is None else head.state, "fence", PublishRequest(run=run, note=note))
        with contextlib.suppress(PublicationConflict):
            return _add(base, record, storage).number


def hide(base: str, storage: StorageConfig, request: PublishRequest) -> Publication:
    """Show readers of `prod` nothing until the next publication; those that have it open keep it.

    Raises:
        PublicationConflict: `prod` was moved at the same moment.
    """
    record = _add(base, _record(read_head(base, storage), None, "hide", request), storage)
    repair_tags(base, storage)
    return record


def needed_versions(
    log: Sequence[Publication], now: dt.datetime, grace: dt.timedelta = READER_GRACE
) -> dict[int, dict[int, int]]:
    """Return by generation the versions that readers may have open, each with the number of its last publication.

    These are those of `prod`, and those that were replaced less than `grace` ago.

    Args:
        log: All records, the oldest first.
        now: Time of the table's store.
        grace: How long a replaced publication lives.
    """
    needed: dict[int, dict[int, int]] = {}
    for record, follower in itertools.zip_longest(log, log[1:]):
        if record.state is not None and (follower is None or follower.at + grace > now):
            needed.setdefault(record.state.generation, {})[record.state.version] = record.number
    return needed


def repair_tags(base: str, storage: StorageConfig, grace: dt.timedelta = READER_GRACE) -> None:
    """Make the Lance tags of all generations agree with the log: `prod`, and one for each version that readers need.

    Tags of other names, and those of a table of which nothing was published, are left alone.
    """
    base = absolute(base)
    log = read_log(base, storage)
    if not log:
        return
    needed = needed_versions(log, store_now(base, storage), grace)
    for uri, wanted in _wanted_tags(base, log, needed).items():
        try:
            there = read_tags(uri, storage)
        except TableNotFound:
            continue  # it was retired
        for name, version in wanted.items():
            if there.get(name) != version:
                with contextlib.suppress(TableNotFound):  # another tool has removed it
                    set_tag(uri, name, version, storage)
        for name in there:
            if name not in wanted and is_our_tag(name) and not _is_ahead(name, log):
                remove_tag(uri, name, storage)


def _wanted_tags(
    base: str, log: Sequence[Publication], needed: Mapping[int, Mapping[int, int]]
) -> dict[str, dict[str, int]]:
    """Return by address of each table that was ever published the tags that it should have."""
    wanted: dict[str, dict[str, int]] = {}
    for record in log:
        if (state := record.state) is None:
            continue
        is_needed = needed.get(state.generation, {}).get(state.version) == record.number
        for uri, version in published_versions(base, state).items():
            tags = wanted.setdefault(uri, {})
            if is_needed:
                tags[f"{_KEEPS}{record.number}"] = version
    if (shown := log[-1].state) is not None:
        wanted[generation_uri(base, shown.generation)][PROD] = shown.version
    return wanted


def published_versions(base: str, state: PublishedState) -> dict[str, int]:
    """Return the versions that a publication shows, by address: its generation, and its shortlist tables."""
    lists = {each.uri: each.version for each in state.shortlists}
    return {generation_uri(base, state.generation): state.version, **lists}


def generations_of(base: str, storage: StorageConfig) -> list[int]:
    """Return 1, which is the table itself, and the numbers of the later generations that are there, ascending."""
    last = max((record.state.generation for record in read_log(base, storage) if record.state is not None), default=1)
    found, number = [1], 2
    while (is_there := _is_there(generation_uri(base, number), storage)) or number <= last:
        found += [number] if is_there else []
        number += 1
    return found


def is_retired(dataset: LanceDataset) -> bool:
    """Tell whether a generation is being removed (`retention.py`)."""
    return bool(dataset.config().get(RETIRED_KEY))


def is_our_tag(name: str) -> bool:
    """Tell whether a Lance tag follows the log of publications."""
    return name == PROD or _OUR_TAG.fullmatch(name) is not None


def _is_there(uri: str, storage: StorageConfig) -> bool:
    try:
        open_dataset(uri, storage)
    except TableNotFound:
        return False
    return True


def _append(
    base: str,
    state: PublishedState,
    storage: StorageConfig,
    action: Action,
    request: PublishRequest,
    restores: int | None = None,
) -> Publication:
    head = read_head(base, storage)
    if request.expected_head is not None and request.expected_head != (0 if head is None else head.number):
        raise PublicationConflict(
            f"`prod` of {base} was moved since this run began, so nothing is published; see `mlake history {base}`, "
            "and run the same command again: it goes on from what is there"
        )
    record = _record(head, state, action, request, restores)
    uri = generation_uri(base, state.generation)
    set_tag(uri, f"{_KEEPS}{record.number}", state.version, storage)
    # The tag keeps the version from now on; if a cleaner was faster, this says so.
    if VectorTable(uri, open_dataset(uri, storage, state.version), storage).table_id != state.table_id:
        raise TableError(f"{uri} is another table than the one that was published; see: mlake history {base}")
    if is_retired(open_dataset(uri, storage)):
        raise TableNotFound(f"{uri} is being removed, as `[retain] generations` says, so it is not published")
    record = _add(base, record, storage)
    repair_tags(base, storage)
    return record


def _add(base: str, record: Publication, storage: StorageConfig) -> Publication:
    record = record.model_copy(update={"at": store_now(base, storage)})
    append_record(base, record, storage)
    return record


def _record(
    head: Publication | None,
    state: PublishedState | None,
    action: Action,
    request: PublishRequest,
    restores: int | None = None,
) -> Publication:
    return Publication(
        number=1 if head is None else head.number + 1,
        id=request.id or uuid.uuid4().hex,
        action=action,
        at=dt.datetime.now(dt.UTC),
        run=request.run,
        state=state,
        restores=restores,
        is_forced=request.is_forced,
        audit=request.audit,
        note=request.note,
    )


def _with_id(base: str, id: str, storage: StorageConfig) -> Publication | None:
    numbers = read_numbers(base, storage)
    return next((record for record in read_log(base, storage, numbers) if record.id == id), None)


def _is_ahead(tag: str, log: Sequence[Publication]) -> bool:
    """Tell whether a tag is of a publication that another process is about to make."""
    return tag != PROD and int(tag.removeprefix(_KEEPS)) > log[-1].number


def _published_lists(uri: str, table: VectorTable) -> PublishedLists | None:
    """Describe a shortlist table; None where there is none, or it is of another table."""
    try:
        dataset = open_dataset(uri, table.storage)
    except TableNotFound:
        return None
    spec = shortlist_spec(dataset.schema, uri)
    if absolute(spec.vectors) != table.uri:
        return None
    return PublishedLists(uri=uri, version=dataset.version, vectors_version=spec.vectors_version)
