"""Samples that come one by one, gathered into Stretches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pyarrow as pa

from pipelines.shards.blocks import BLOCK_BYTES, BLOCK_ROWS, Stretch
from schemas.config import InputConfig
from schemas.records import Reject, Shard


class Rows:
    """The samples of one stretch while it fills."""

    def __init__(self, shard: Shard, config: InputConfig, value_type: pa.DataType, has_ids: bool) -> None:
        """Start empty.

        Args:
            shard: Where the samples are from.
            config: Which columns are kept.
            value_type: string or binary: what inputs and kept values are handed in as.
            has_ids: Whether the samples bring their own ids.
        """
        self._shard, self._value_type, self._has_ids = shard, value_type, has_ids
        self._input_type = value_type if config.text is not None else pa.binary()
        self._width = len(config.keep)
        self._clear()

    def _clear(self) -> None:
        self._positions: list[int] = []
        self._ids: list[str | None] = []
        self._inputs: list[str | bytes | None] = []
        self._kept: list[Sequence[str | bytes | None]] = []
        self._rejects: list[Reject] = []
        self._input_bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether it is time to take the stretch."""
        return len(self._positions) + len(self._rejects) >= BLOCK_ROWS or self._input_bytes >= BLOCK_BYTES

    def add(
        self, position: int, sample_id: str | None, value: str | bytes | None, kept: Sequence[str | bytes | None]
    ) -> None:
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


def as_text(value: Any) -> str | None:
    """Return a JSON value as text: strings as they are, null as None, everything else as JSON."""
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()
