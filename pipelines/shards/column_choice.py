"""Columns of Parquet and Lance: choosing those that a config names, and making raw blocks of their batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.shards.kept_types import is_list, is_text, storable
from pipelines.shards.raw_blocks import INPUT_TYPES, RawBlock, input_field, input_fields, missing_field
from schemas.config import InputConfig
from schemas.errors import FieldNotFound
from schemas.records import Modality


@dataclass(frozen=True)
class ColumnChoice:
    """The columns that a config names.

    Attributes:
        inputs: Columns of the input; the first that is not null is used. `image.bytes` is the child of a struct. None
            where a template makes the input of kept columns.
        id: Column of the id, if the config names one.
        kept: Kept columns under the names of the config, with the shard's types as a table can hold them.
        fields: The field of the shard by kept column.
        null_type: Type of an input column that is all null and has no type of its own.
    """

    inputs: tuple[str, ...]
    id: str | None
    kept: pa.Schema
    fields: Mapping[str, str]
    null_type: pa.DataType

    @property
    def columns(self) -> list[str]:
        """Every column to read, once."""
        return list(dict.fromkeys([*self.inputs, *([self.id] if self.id else []), *self.fields.values()]))


def choose_columns(schema: pa.Schema, config: InputConfig, uri: str) -> ColumnChoice:
    """Choose the columns that a config names.

    Raises:
        FieldNotFound: A column is missing or there twice, or has a type that cannot be embedded or kept.
    """
    asked = input_fields(config)
    names = [name for name in asked if name in schema.names]
    if asked and not names:
        raise missing_field(input_field(config), schema.names, uri)
    for name in (*names, *config.columns.values(), *([config.id] if config.id else [])):
        if name not in schema.names:
            raise missing_field(name, schema.names, uri)
        if schema.names.count(name) > 1:
            raise FieldNotFound(
                f"{uri} has {schema.names.count(name)} columns {name!r}; write it with one of that name"
            )
    inputs = tuple(_input_column(schema.field(name), config.modality, uri) for name in names)
    if config.id and not _can_be_id(schema.field(config.id).type):
        raise FieldNotFound(
            f"{uri}: field {config.id!r} is {schema.field(config.id).type}; an id is a text or an integer"
        )
    kept = pa.schema([_kept_field(column, schema.field(name), uri) for column, name in config.columns.items()])
    return ColumnChoice(inputs, config.id, kept, config.columns, INPUT_TYPES[config.modality])


def to_raw_block(batch: pa.RecordBatch, choice: ColumnChoice, start: int) -> RawBlock:
    """Make a raw block of a batch of the chosen columns, whose first row is at position `start` in the shard."""
    inputs = [_plain_array(_column(batch, name)) for name in choice.inputs]
    inputs = [array.cast(choice.null_type) if pa.types.is_null(array.type) else array for array in inputs]
    inputs = inputs or [pa.nulls(len(batch), choice.null_type)]
    return RawBlock(
        positions=pa.array(np.arange(start, start + len(batch))),
        ids=_plain_array(batch[choice.id]) if choice.id else None,
        inputs=inputs[0] if len(inputs) == 1 else pc.coalesce(*[array.cast(inputs[0].type) for array in inputs]),
        kept={column: batch[name] for column, name in choice.fields.items()},
    )


def _kept_field(column: str, field: pa.Field, uri: str) -> pa.Field:
    kind = storable(field.type)
    if kind is None:
        raise FieldNotFound(
            f"{uri}: field {field.name!r} is {field.type}, which a table cannot hold; leave it out of input.keep"
        )
    return pa.field(column, kind)


def _input_column(field: pa.Field, modality: Modality, uri: str) -> str:
    kind = _plain(field.type)
    fits = {
        "text": is_text(kind) or _is_bytes(kind),
        "image": _is_bytes(kind),
        "vector": is_list(kind) and bool(pa.types.is_floating(kind.value_type)),
    }
    if fits[modality] or pa.types.is_null(kind):
        return str(field.name)
    if modality == "image" and pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return f"{field.name}.bytes"
    wanted = {"text": "a string", "image": "binary, or a struct with `bytes`,", "vector": "a list of floats"}[modality]
    raise FieldNotFound(f"{uri}: field {field.name!r} is {field.type}; as {modality} it must be {wanted} in each row")


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    parent, dot, child = name.rpartition(".")
    if dot and name not in batch.schema.names:
        return pc.struct_field(batch[parent], child)
    return batch[name]


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type without dictionaries and views, which not every writer takes."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if kind == pa.string_view():
        return pa.string()
    if kind == pa.binary_view():
        return pa.binary()
    return kind


def _plain_array(array: pa.Array) -> pa.Array:
    kind = _plain(array.type)
    return array if kind == array.type else array.cast(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _can_be_id(kind: pa.DataType) -> bool:
    kind = _plain(kind)
    return is_text(kind) or _is_bytes(kind) or bool(pa.types.is_integer(kind) or pa.types.is_null(kind))
