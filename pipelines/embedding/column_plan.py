"""Plan the columns of a run: what its shards give, compared by name with what the table holds.

A run may go on with a table if it is made from the same fields. Kept columns may come and go: a new one is null in the
rows that are there, and one that a run does not fill is null in its rows, whoever added it. Everything else is refused
before anything is read. Owns this rule; the types that two shards share are decided in `pipelines.shards.kept_types`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from pipelines.embedding.reuse import plan_hashes
from pipelines.shards import sample_schemas
from pipelines.shards.kept_types import has_null, widen, widen_shards
from pipelines.shards.kept_values import check_convertible
from pipelines.shards.raw_blocks import input_field
from pipelines.tables.commits import add_columns, allow_nulls, replace_columns
from pipelines.tables.runs import recorded_source
from pipelines.tables.table import VectorTable
from schemas.columns import FIELD_KEY
from schemas.config import EmbedConfig
from schemas.errors import ChunkMismatch, ColumnMismatch
from schemas.records import Shard
from schemas.source import TableSource, passage_fields
from schemas.templates import is_template


@dataclass(frozen=True)
class ColumnPlan:
    """The kept columns of a run.

    Attributes:
        kept: The columns that the run fills and that were planned: all of a new table's, else those that are added or
            replaced; the hashes of inputs are among them.
        replaced: Those of them that the table has with a type of nulls only.
        without_nulls: Columns of the table that another tool made to take no nulls, and that may be null in new rows.
        notes: What the run changes or leaves out, a sentence each.
    """

    kept: pa.Schema
    replaced: tuple[str, ...] = ()
    without_nulls: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def source_of(config: EmbedConfig) -> TableSource:
    """Return what the rows of a run are made from."""
    fields = config.input
    return TableSource(
        id=fields.id,
        id_prefix=fields.id_prefix,
        modality=fields.modality,
        field=input_field(fields),
        side=config.encoder.side,
        chunk=None if config.chunk is None else str(config.chunk),
    )


def plan_columns(config: EmbedConfig, shards: Sequence[Shard], table: VectorTable | None) -> ColumnPlan:
    """Compare the columns that shards give with those of a table.

    Args:
        config: The job.
        shards: The shards to embed.
        table: The table; None if it does not exist yet.

    Raises:
        InputError: No shard has all fields, or two shards have types of a field that are not alike.
        ColumnMismatch: The rows would not fit the table's.
    """
    if table is not None:
        _check_source(config, table)
    found = sample_schemas(shards, config.input, config.storage, config.limits)
    types = widen_shards(found)
    fields = {name: _kept_field(name, kind.type, config) for name, kind in zip(types.names, types, strict=True)}
    held = {} if table is None else {field.name: field for field in table.kept}
    for shard, schema in found:
        for field in schema:
            known = held.get(field.name, fields[field.name])
            check_convertible(field.type, known.type, field.name, shard.uri)
    hashes, note = plan_hashes(config, table)
    if table is None:
        passages = [] if config.chunk is None else passage_fields()
        return ColumnPlan(
            pa.schema([*fields.values(), *passages, *hashes]), notes=tuple(_only_nulls([*fields.values()]))
        )
    plan = _compare(table, fields, config)
    notes = (*plan.notes, note) if note and shards else plan.notes
    return replace(plan, kept=pa.schema([*plan.kept, *hashes]), notes=notes)


def apply_columns(table: VectorTable, columns: ColumnPlan) -> VectorTable:
    """Add the columns of a plan to its table, and return the table with them."""
    replaced = [field for field in columns.kept if field.name in columns.replaced]
    added = [field for field in columns.kept if field.name not in columns.replaced]
    if replaced:
        replace_columns(table.uri, replaced, table.storage)
    if added:
        add_columns(table.uri, added, table.storage)
    if columns.without_nulls:
        allow_nulls(table.uri, columns.without_nulls, table.storage)
    return table.refresh() if len(columns.kept) or columns.without_nulls else table


def run_columns(table: VectorTable, config: EmbedConfig) -> pa.Schema:
    """Return the kept columns that a run fills, with the types that the table has for them.

    Raises:
        ColumnMismatch: The table lacks one; it was dropped since the run was planned.
    """
    if lost := [name for name in config.input.columns if name not in table.kept.names]:
        raise ColumnMismatch(f"{table.uri} has no column {lost[0]!r} any more; run the same command again to add it")
    return pa.schema([table.kept.field(name) for name in config.input.columns])


def _kept_field(name: str, kind: pa.DataType, config: EmbedConfig) -> pa.Field:
    return pa.field(name, kind, metadata={FIELD_KEY: config.input.columns[name].encode()})


def _compare(table: VectorTable, fields: dict[str, pa.Field], config: EmbedConfig) -> ColumnPlan:
    """Compare the columns of a run with those of its table."""
    own = {field.name for field in passage_fields()} if config.chunk is not None else set()
    held = {field.name: field for field in table.kept if field.name not in own}
    added, replaced, notes = [], [], []
    for name, field in fields.items():
        if name not in held:
            added.append(field)
            notes.append(f"column {name!r} is new: it is added as {field.type}, null in the rows that are there")
            continue
        was = held[name].type
        wide = widen(was, field.type)
        if has_null(was) and wide not in (None, was):
            _check_only_nulls(table, name, was, field.type)
            replaced.append(field.with_type(wide))
            notes.append(f"column {name!r} holds only nulls so far: it becomes {wide}")
        elif wide != was:
            notes.append(
                f"column {name!r} is {was}, and {field.type} in the shards: values that do not fit are rejected"
            )
    names = config.input.columns
    unseen = [name for name in names if name not in held and name not in fields]
    notes += [f"column {name!r} is new: it is added when there are shards to embed, and not before" for name in unseen]
    for name, field in held.items():
        if name in names:
            _check_field(table, field, names[name])
        else:
            notes.append(f"column {name!r} is not in input.keep: it is null in new rows")
    without_nulls = tuple(name for name, field in held.items() if not field.nullable)
    notes += [f"column {name!r} takes no nulls: it is made to take them" for name in without_nulls]
    return ColumnPlan(
        pa.schema([*added, *replaced]), tuple(field.name for field in replaced), without_nulls, tuple(notes)
    )


def _check_source(config: EmbedConfig, table: VectorTable) -> None:
    """Refuse a run that is made from other fields than the table.

    Raises:
        ColumnMismatch: The fields differ; the message names every difference.
    """
    was, asked = recorded_source(table), source_of(config)
    if was is None:
        return
    differing = []
    if was.id != asked.id:
        differing.append(f"input.id is {_named(asked.id)}, and was {_named(was.id)}")
    if was.id_prefix != asked.id_prefix:
        differing.append(f"input.id_prefix is {asked.id_prefix!r}, and was {was.id_prefix!r}")
    alternatives = _alternatives(was.field)
    goes_on = _alternatives(asked.field)[: len(alternatives)] == alternatives
    if was.modality != asked.modality or not goes_on:
        differing.append(f"input.{asked.modality} is {asked.field!r}, and input.{was.modality} was {was.field!r}")
    if was.side != asked.side:
        differing.append(f"encoder.side is {asked.side!r}, and was {was.side!r}")
    chunk = f"[chunk] is {asked.chunk or 'not there'}, and was {was.chunk or 'not there'}"
    if was.chunk != asked.chunk:
        differing.append(chunk)
    if not differing:
        return
    message = f"{table.uri} was made from other fields: {'; '.join(differing)}; use those{_or_further(was)}"
    if differing == [chunk]:
        raise ChunkMismatch(message, chunk)
    raise ColumnMismatch(message)


def _alternatives(field: str) -> list[str]:
    return [field] if is_template(field) else field.split(";")


def _or_further(was: TableSource) -> str:
    if is_template(was.field):
        return ", or write to another table"
    further = f'input.{was.modality} = "{was.field};OTHER"'
    return f", write to another table, or name the further field behind the first one, as in {further}"


def _check_field(table: VectorTable, field: pa.Field, asked: str) -> None:
    """Refuse another field for a column that is there."""
    was = (field.metadata or {}).get(FIELD_KEY, asked.encode()).decode()
    if was != asked:
        raise ColumnMismatch(
            f"the column {field.name!r} of {table.uri} is taken from the field {was!r}, and the config takes it from "
            f'{asked!r}; store that in a column of its own: keep = ["{asked} as NAME"]'
        )


def _check_only_nulls(table: VectorTable, name: str, was: pa.DataType, asked: pa.DataType) -> None:
    if not pa.types.is_null(was) and table.dataset.count_rows(f"`{name}` IS NOT NULL"):
        raise ColumnMismatch(
            f"the column {name!r} of {table.uri} is {was}, which holds no {asked}; store the field in a column of its "
            f'own: keep = ["{name} as NAME"]'
        )


def _only_nulls(fields: Sequence[pa.Field]) -> list[str]:
    return [
        f"column {field.name!r} is {field.type}: the shards that were looked at hold no value there"
        for field in fields
        if has_null(field.type)
    ]


def _named(field: str | None) -> str:
    return "not set" if field is None else repr(field)
