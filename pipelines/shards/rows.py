"""Samples that come one by one, gathered into Stretches; what a JSON value is as a text, an image or a vector."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import orjson
import pyarrow as pa

from pipelines.shards.blocks import BLOCK_BYTES, BLOCK_ROWS, INPUT_TYPES, Stretch
from pipelines.shards.streams import Damage
from schemas.config import InputConfig
from schemas.records import Modality, Reject, Shard

Value = str | bytes | list[float] | None


class Rows:
    """The samples of one stretch while it fills."""

    def __init__(self, shard: Shard, config: InputConfig, value_type: pa.DataType, has_ids: bool) -> None:
        """Start empty.

        Args:
            shard: Where the samples are from.
            config: Which columns are kept.
            value_type: string or binary: what texts and kept values are handed in as.
            has_ids: Whether the samples bring their own ids.
        """
        self._shard, self._value_type, self._has_ids = shard, value_type, has_ids
        self._input_type = value_type if config.modality == "text" else INPUT_TYPES[config.modality]
        self._width = len(config.keep)
        self._clear()

    def _clear(self) -> None:
        self._positions: list[int] = []
        self._ids: list[str | None] = []
        self._inputs: list[Value] = []
        self._kept: list[Sequence[str | bytes | None]] = []
        self._rejects: list[Reject] = []
        self._input_bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether it is time to take the stretch."""
        return len(self._positions) + len(self._rejects) >= BLOCK_ROWS or self._input_bytes >= BLOCK_BYTES

    def add(self, position: int, sample_id: str | None, value: Value, kept: Sequence[str | bytes | None]) -> None:
        """Add a sample."""
        self._positions.append(position)
        self._ids.append(sample_id)
        self._inputs.append(value)
        self._kept.append(kept)
        self._input_bytes += len(value) if value is not None else 0

    def reject(self, position: int, key: str, reason: str, message: str) -> None:
        """Add a sample that cannot be read."""
        self._rejects.append(Reject(self._shard.id, position, key, reason, message))

    def take(self) -> Stretch:
        """Return the stretch and start the next."""
        columns = zip(*self._kept, strict=True) if self._kept else [()] * self._width
        stretch = Stretch(
            positions=pa.array(self._positions, pa.int64()),
            ids=pa.array(self._ids, pa.string()) if self._has_ids else None,
            inputs=pa.array(self._inputs, self._input_type),
            kept=[pa.array(column, self._value_type) for column in columns],
            rejects=self._rejects,
        )
        self._clear()
        return stretch


def from_json(value: Any, modality: Modality) -> Value:
    """Return a JSON value as an input: a string, the bytes of a base64 string or data URL, or a list of numbers.

    Raises:
        Damage: It is none; reason `not_text`, `not_base64` or `not_vector`.
    """
    if value is None:
        return None
    if modality == "vector":
        if not isinstance(value, list) or not all(isinstance(number, int | float | None) for number in value):
            raise Damage("not_vector", "is not a list of numbers")
        return value
    if not isinstance(value, str):
        reason = "not_text" if modality == "text" else "not_base64"
        raise Damage(reason, f"is a {type(value).__name__}, not a string")
    if modality == "text":
        return value
    try:
        return base64.b64decode(value.partition(",")[2] if value.startswith("data:") else value, validate=True)
    except ValueError as error:
        raise Damage("not_base64", f"is not base64: {error}") from None


def as_text(value: Any) -> str | None:
    """Return a JSON value as text: strings as they are, null as None, everything else as JSON."""
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()
