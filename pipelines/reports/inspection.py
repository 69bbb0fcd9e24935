"""Look at a table from all sides: what it is, what it holds, whether its indexes and funnels hold, and what to do.

Owns what is looked at and what is advised. Owns no layout (`inspection_output`). It reads metadata and the companions,
never the vectors.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from pipelines.funnel import Funnel
from pipelines.funnel.search import OUTGROWN
from pipelines.tables.indexes import choose_index
from pipelines.tables.ledger import count_rejects, rejects_of, shards_of
from pipelines.tables.publication_log import resolve_prod, table_of
from pipelines.tables.runs import living_runs, read_journal
from pipelines.tables.table import VectorTable
from pipelines.tables.tags import read_tags
from schemas.errors import LakeError, TableNotFound
from schemas.inspection import (
    ColumnSize,
    FunnelState,
    IndexState,
    Inspection,
    PublishedNow,
    RejectCount,
    RunState,
)
from schemas.printable import counted

_RUNS = 5
_MANY_FRAGMENTS, _SMALL_FRAGMENT = 64, 10_000
_MANY_DELETED = 0.2


def inspect_table(table: VectorTable) -> Inspection:
    """Return what there is to know of a table at the version that it is open at."""
    dataset, space = table.dataset, table.space
    versions: list[dict[str, Any]] = dataset.versions()  # type: ignore[assignment] # its annotation lacks the time
    times = [version["timestamp"].astimezone(dt.UTC) for version in versions if version["version"] <= dataset.version]
    facts = dataset.stats.dataset_stats()
    columns = tuple(_columns(table))
    found = Inspection(
        uri=table.uri,
        version=dataset.version,
        rows=len(table),
        deleted_rows=facts["num_deleted_rows"],
        shards=len(shards_of(dataset)),
        fragments=facts["num_fragments"],
        encoder=space.encoder_name,
        revision=space.revision,
        space=space.fingerprint,
        is_rotated=space.rotation is not None,
        dims=space.ladder.dims,
        prefix_dims=table.prefix_dims,
        bytes=sum(column.bytes for column in columns),
        versions=len(versions),
        first_version_at=min(times),
        last_version_at=max(times),
        tags=read_tags(table.uri, table.storage),
        prod=_prod(table),
        columns=columns,
        indexes=tuple(_indexes(table)),
        funnels=tuple(_funnels(table)),
        rejects=tuple(_rejects(table)),
        runs=tuple(_runs(table)),
        next=(),
    )
    return found.model_copy(update={"next": tuple(_advice(found))})


def _columns(table: VectorTable) -> Iterator[ColumnSize]:
    schema = table.dataset.lance_schema
    fields: list[Any] = table.dataset.stats.data_stats().fields  # type: ignore[assignment] # annotated as one of them
    sizes = {field.id: field.bytes_on_disk for field in fields}
    for field, arrow in zip(schema.fields(), table.schema, strict=True):
        held, inside = sizes.get(field.id(), 0), list(field.children())
        while inside:
            child = inside.pop()
            held += sizes.get(child.id(), 0)
            inside += child.children()
        yield ColumnSize(name=field.name(), type=_type(arrow.type), bytes=held)


def _type(kind: pa.DataType) -> str:
    if pa.types.is_fixed_size_list(kind):
        return f"{kind.list_size} × {kind.value_type}"
    return str(kind)


def _indexes(table: VectorTable) -> Iterator[IndexState]:
    for index in table.dataset.describe_indices():
        facts = table.dataset.stats.index_stats(index.name)
        yield IndexState(
            name=index.name,
            column=index.field_names[0],
            type=facts["index_type"],
            rows=facts["num_indexed_rows"],
            unindexed_rows=facts["num_unindexed_rows"],
        )


def _funnels(table: VectorTable) -> Iterator[FunnelState]:
    rows = len(table)
    for home in Funnel.homes(table):
        try:
            tuned = Funnel.stored(table, home)
        except LakeError as error:
            yield FunnelState(home=home, rows_now=rows, problem=str(error))
            continue
        card, best, then = tuned.card, tuned.card.best, tuned.card.rows_in_table
        yield FunnelState(
            home=home,
            k=card.k,
            recall=best.recall,
            low=best.low,
            high=best.high,
            rows_then=then,
            rows_now=rows,
            problem=f"the table has {rows / then:.1f} times the rows of its card" if rows > OUTGROWN * then else "",
            slower=tuned.slower,
        )


def _rejects(table: VectorTable) -> Iterator[RejectCount]:
    try:
        rejects = rejects_of(table)
    except TableNotFound:
        return
    for reason, samples in count_rejects(rejects).items():
        yield RejectCount(reason=reason, samples=samples)


def _runs(table: VectorTable) -> Iterator[RunState]:
    try:
        journal, living = read_journal(table), set(living_runs(table))
    except TableNotFound:
        return
    for entry in reversed(journal[-_RUNS:]):
        is_dead = entry.state == "running" and entry.run not in living
        yield RunState(
            run=entry.run,
            job=entry.job,
            state="dead" if is_dead else entry.state,
            started_at=entry.started_at,
            rows=_count(entry.summary.get("rows")),
            **_text_counts(entry.summary),
        )


def _text_counts(summary: Mapping[str, Any]) -> dict[str, int | None]:
    """Return what of the texts was cut; a release before this one counted no tokens."""
    names = ("cut_texts", "cut_tokens", "text_tokens")
    is_unknown = summary.get("text_tokens") == 0
    return {name: None if is_unknown else _count(summary.get(name)) for name in names}


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _prod(table: VectorTable) -> PublishedNow | None:
    base, _ = table_of(table.uri, table.storage)
    if (published := resolve_prod(base, table.storage)) is None:
        return None
    record, state = published.publication, published.state
    return PublishedNow(
        number=record.number, at=record.at, generation=state.generation, version=state.version, rows=state.rows
    )


def _advice(found: Inspection) -> Iterator[str]:
    uri = found.uri
    if not found.rows:
        yield "The table is empty. Embed some shards: mlake embed CONFIG"
    for run in found.runs:
        if run.state == "dead":
            yield f"Run {run.run} ({run.job}) died. Start the same command again: it resumes, and nothing is lost."
        if run.cut_texts:
            cut = f"{counted(run.cut_texts, 'text')} of run {run.run}"
            of_all = (
                f" ({run.cut_tokens / run.text_tokens:.1%} of all tokens)" if run.cut_tokens and run.text_tokens else ""
            )
            yield f"{cut} had more tokens than the encoder takes, and were cut{of_all}. See others: mlake encoders"
    for index in found.indexes:
        if index.unindexed_rows:
            share = index.unindexed_rows / (index.rows + index.unindexed_rows)
            yield f"{share:.0%} of the rows are not in index {index.name} and are scanned. Run: mlake shortlist CONFIG"
    indexed = {index.column for index in found.indexes}
    for dim in found.prefix_dims:
        if f"vector_{dim}" not in indexed and choose_index(found.rows) is not None:
            yield f"vector_{dim} has no index, and {found.rows:,} rows are worth one. Run: mlake shortlist CONFIG"
    for funnel in found.funnels:
        if funnel.problem:
            yield f"The funnel in {funnel.home}: {funnel.problem}. Run: mlake funnel {uri} --home {funnel.home}"
        elif funnel.slower:
            yield f"{funnel.slower[0].upper()}{funnel.slower[1:]}."
    if found.fragments > _MANY_FRAGMENTS and found.rows / found.fragments < _SMALL_FRAGMENT:
        yield f"{found.fragments:,} small fragments slow every search. Run: mlake clean {uri} --compact"
    elif found.deleted_rows > _MANY_DELETED * max(1, found.rows):
        yield f"{found.deleted_rows:,} deleted rows are still in the files. Run: mlake clean {uri} --compact"
    if found.rejects:
        total = sum(each.samples for each in found.rejects)
        yield f"Rejected: {counted(total, 'sample')}, most for {found.rejects[0].reason}. See them: mlake rejects {uri}"
    if found.prod is not None and found.prod.generation == 1 and found.prod.version < found.version:
        yield f"prod shows version {found.prod.version}; the newest is {found.version}. Run: mlake publish {uri}"
