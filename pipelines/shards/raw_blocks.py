"""Samples as read, before they are checked: RawBlock, and building one sample by sample.

Owns the limits of a block, and the input of a JSON value. Which samples are good is decided in
`pipelines.shards.block_checks`.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.shards.decompression import Damage
from pipelines.shards.json_values import Scalar, json_type
from schemas.config import InputConfig
from schemas.errors import FieldNotFound, nearest
from schemas.records import Modality, Reject, Shard

_INT64 = 1 << 63
BLOCK_ROWS = 1024
BLOCK_BYTES = 8 << 20

INPUT_TYPES: dict[Modality, pa.DataType] = {
    "text": pa.string(),
    "image": pa.binary(),
    "vector": pa.list_(pa.float64()),
}

Value = str | bytes | list[float] | list[float | None] | None


def input_field(config: InputConfig) -> str:
    """Return the name of the field that is embedded; `;` separates alternatives."""
    return config.text or config.image or config.vector or ""


def input_fields(config: InputConfig) -> list[str]:
    """Return the fields of which the first that a sample has is embedded; none where a template makes the text."""
    return [] if config.has_template else input_field(config).split(";")


@dataclass
class RawBlock:
    """Neighbouring samples of one shard as read, before they are checked.

    Attributes:
        positions: int64, 0-based positions of the samples in their shard.
        ids: Ids of the samples, string or integer; None where they have none.
        inputs: string, binary, or lists of numbers for vectors; null where the field is missing.
        kept: The kept columns by name, as the shard holds them.
        are_scalars: For kept columns of JSON, which of their texts were numbers or truth values.
        rejects: Samples between these that could not be read.
    """

    positions: pa.Array
    ids: pa.Array | None
    inputs: pa.Array
    kept: Mapping[str, pa.Array]
    rejects: list[Reject] = field(default_factory=list)
    are_scalars: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)


class RawBlockBuilder:
    """Builds raw blocks sample by sample, for the formats that are not columnar."""

    def __init__(self, shard: Shard, config: InputConfig, value_type: pa.DataType, has_ids: bool) -> None:
        """Start empty.

        Args:
            shard: The shard that is read.
            config: The fields to read.
            value_type: string or binary: the type of texts and kept values.
            has_ids: Whether the samples have ids of their own.
        """
        self._shard, self._value_type, self._has_ids = shard, value_type, has_ids
        self._input_type = value_type if config.modality == "text" else INPUT_TYPES[config.modality]
        self._columns = list(config.columns)
        self._clear()

    def _clear(self) -> None:
        self._positions: list[int] = []
        self._ids: list[str | None] = []
        self._inputs: list[Value] = []
        self._kept: list[Sequence[str | bytes | None]] = []
        self._rejects: list[Reject] = []
        self._nbytes = 0

    @property
    def is_full(self) -> bool:
        """Whether the block has reached its limit."""
        return len(self._positions) + len(self._rejects) >= BLOCK_ROWS or self._nbytes >= BLOCK_BYTES

    def add(self, position: int, sample_id: str | None, value: Value, kept: Sequence[str | bytes | None]) -> None:
        """Add a sample; `kept` has its kept values in the order of the config."""
        self._positions.append(position)
        self._ids.append(sample_id)
        self._inputs.append(value)
        self._kept.append(kept)
        self._nbytes += sum(len(each) for each in (value, *kept) if each is not None)

    def reject(self, position: int, key: str, reason: str, message: str) -> None:
        """Add a sample that cannot be read."""
        self._rejects.append(Reject(self._shard.id, position, key, reason, message))

    def take(self) -> RawBlock:
        """Return the block and start the next one."""
        values = [*zip(*self._kept, strict=True)] if self._kept else [()] * len(self._columns)
        block = RawBlock(
            positions=pa.array(self._positions, pa.int64()),
            ids=pa.array(self._ids, pa.string()) if self._has_ids else None,
            inputs=pa.array(self._inputs, self._input_type),
            kept={name: pa.array(some, self._value_type) for name, some in zip(self._columns, values, strict=True)},
            rejects=self._rejects,
            are_scalars={
                name: np.fromiter((type(value) is Scalar for value in some), bool, len(some))
                for name, some in zip(self._columns, values, strict=True)
            },
        )
        self._clear()
        return block


def from_json(value: Any, modality: Modality) -> Value:
    """Convert a JSON value to an input: a string, the bytes of a base64 string or data URL, or a list of numbers.

    Raises:
        Damage: It is not; the reason is `not_text`, `not_base64` or `not_vector`.
    """
    if value is None:
        return None
    if modality == "vector":
        if not isinstance(value, list) or not all(_is_number(number) for number in value):
            raise Damage("not_vector", "is not a list of numbers")
        if any(isinstance(number, int) and not -_INT64 <= number < _INT64 for number in value):
            try:
                return [number if number is None else float(number) for number in value]
            except OverflowError:
                raise Damage("not_vector", "holds an integer beyond the range of a float") from None
        return value
    if not isinstance(value, str):
        reason = "not_text" if modality == "text" else "not_base64"
        raise Damage(reason, f"is {json_type(value)}, not a string")
    if modality == "text":
        return value
    try:
        return base64.b64decode(value.partition(",")[2] if value.startswith("data:") else value, validate=True)
    except ValueError as error:
        raise Damage("not_base64", f"is not base64: {error}") from None


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def require_fields(config: InputConfig, known: Sequence[str], uri: str) -> None:
    """Check that each field of a config is among the fields that were found.

    Raises:
        FieldNotFound: A field is missing.
    """
    if known and (missing := missing_fields(config, known)):
        raise missing_field(missing[0], known, uri)


def missing_fields(config: InputConfig, known: Collection[str]) -> list[str]:
    """Return the fields of a config that are not among those that were found."""
    inputs = input_fields(config)
    missing = [input_field(config)] if inputs and not any(name in known for name in inputs) else []
    asked = [*config.columns.values(), *([config.id] if config.id else [])]
    return missing + [name for name in asked if name not in known]


def missing_field(name: str, known: Sequence[str], uri: str) -> FieldNotFound:
    """Make the error for a missing field, with the fields that exist and the nearest one."""
    return FieldNotFound(f"{uri} has no field {name!r}{nearest(name, known)}; it has: {', '.join(known)}")
