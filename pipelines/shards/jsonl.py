"""JSON lines: one object per line, compressed if the name ends in .gz or .zst.

Reasons of the rejects made here: `bad_json`, `bad_utf8`, `not_text`, `not_base64`, `not_vector`, `too_large`,
`truncated_shard`, `corrupt_shard`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

import pyarrow as pa

from pipelines.shards.contents import foreign
from pipelines.shards.decompression import ByteStream, Damage, decompress
from pipelines.shards.json_values import as_text, json_type, parse_json
from pipelines.shards.raw_blocks import (
    RawBlock,
    RawBlockBuilder,
    from_json,
    input_field,
    input_fields,
    missing_fields,
    require_fields,
)
from pipelines.shards.stores import open_shard
from schemas.config import InputConfig, LimitsConfig, StorageConfig
from schemas.records import Shard

_CHUNK_BYTES = 1 << 20
_PEEK_LINES = 1000


class JsonlFormat:
    """JSON lines."""

    def kept_schema(self, shard: Shard, config: InputConfig, limits: LimitsConfig, storage: StorageConfig) -> pa.Schema:
        """Return the kept fields as strings, if each is in one of the first thousand lines."""
        known: dict[str, None] = {}
        with open_shard(shard, storage) as file:
            for line in islice(_lines(decompress(file, shard.uri), limits.max_sample_bytes), _PEEK_LINES):
                with suppress(Damage):
                    record = None if isinstance(line, Damage) else parse_json(line)
                    known.update(dict.fromkeys(record if isinstance(record, dict) else ()))
                if not missing_fields(config, known):
                    break
        require_fields(config, list(known), shard.uri)
        return pa.schema([pa.field(name, pa.string()) for name in config.columns])

    def read(
        self, shard: Shard, config: InputConfig, limits: LimitsConfig, storage: StorageConfig
    ) -> Iterator[RawBlock]:
        """Read a file line by line; a sample's position is its line, counted from 0. Blank lines are skipped."""
        builder = RawBlockBuilder(shard, config, pa.string(), has_ids=config.id is not None)
        exact = {*config.columns.values(), *([config.id] if config.id else [])}
        with open_shard(shard, storage) as file:
            for position, line in enumerate(_lines(decompress(file, shard.uri), limits.max_sample_bytes)):
                try:
                    if isinstance(line, Damage):
                        raise line
                    if line and not line.isspace():
                        _add(builder, position, parse_json(line, exact), config)
                except Damage as damage:
                    builder.reject(position, "", damage.reason, str(damage))
                if builder.is_full:
                    yield builder.take()
        yield builder.take()


def _add(builder: RawBlockBuilder, position: int, record: Any, config: InputConfig) -> None:
    if not isinstance(record, dict):
        raise Damage("bad_json", f"the line is {json_type(record)}, not an object")
    sample_id = as_text(record.get(config.id)) if config.id else None
    value = next((record[name] for name in input_fields(config) if record.get(name) is not None), None)
    try:
        value = from_json(value, config.modality)
    except Damage as damage:
        builder.reject(position, sample_id or "", damage.reason, f"{input_field(config)} {damage}")
        return
    builder.add(position, sample_id, value, [as_text(record.get(name)) for name in config.columns.values()])


def _lines(stream: ByteStream, max_bytes: int) -> Iterator[bytes | Damage]:
    """Split a stream into lines. A Damage takes the place of a line over `max_bytes`, and of a cut-off end."""
    head, dropped_bytes, is_first = b"", 0, True
    while True:
        try:
            chunk = stream.read(_CHUNK_BYTES)
        except Damage as damage:
            yield damage
            return
        if is_first:
            if said := foreign(chunk, "JSON lines"):
                yield Damage("corrupt_shard", said)
                return
            chunk, is_first = chunk.removeprefix(b"\xef\xbb\xbf"), False
        if not chunk:
            break
        *lines, head = (head + chunk).split(b"\n")
        for line in lines:
            if dropped_bytes or len(line) > max_bytes:
                yield _too_long(dropped_bytes + len(line), max_bytes)
                dropped_bytes = 0
            else:
                yield line
        if dropped_bytes or len(head) > max_bytes:
            dropped_bytes, head = dropped_bytes + len(head), b""
    if dropped_bytes:
        yield _too_long(dropped_bytes, max_bytes)
    elif head:
        yield head


def _too_long(size: int, max_bytes: int) -> Damage:
    return Damage("too_large", f"the line is {size} bytes; limits.max_sample_bytes is {max_bytes}")
