"""WebDataset: neighbouring tar members of one name are a sample, their extensions its fields.

Owns what belongs together. A member is handed on as text or bytes and never interpreted, except `json`, whose keys are
fields as well; pickles and their like stay bytes.

Reasons of the rejects made here: `truncated_shard`, `corrupt_shard`, `interleaved`, `duplicate_member`, `duplicate_id`,
`too_large`, `bad_json`, `not_text`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import orjson
import pyarrow as pa

from pipelines.shards.blocks import Stretch
from pipelines.shards.columnar import missing
from pipelines.shards.rows import Rows, as_text
from pipelines.shards.store import open_shard
from pipelines.shards.streams import ByteStream, Damage, decompressed
from pipelines.shards.tar_stream import Shift, TarStream
from schemas.config import InputConfig, LimitsConfig, StorageConfig
from schemas.records import Shard

_PEEK_SAMPLES = 1000
# A sample waits for so many behind it, so that a member of it that comes late is noticed while it can be held back.
_WAIT_SAMPLES = 32
_WAIT_BYTES = 4 << 20
_BINARY = re.compile(
    r"(.*\.)?(jpe?g|png|webp|gif|bmp|tiff?|npy|npz|ten|pth?|pyd|pkl|pickle|mp[34]|webm|wav|flac|ogg|bin|gz)"
)


@dataclass(slots=True)
class _Sample:
    """Members of one key that stand together.

    Attributes:
        key: What their names have in common; empty for a damage that took no sample known by its key.
        position: Place of the sample in the archive.
        members: Extension to data; None for those that nobody asked for or that are too large.
        held_bytes: Bytes of data held.
        fault: Reason and message, if the sample cannot be used.
        doubt: Damage just before the sample, that may have taken members of it.
    """

    key: str
    position: int
    members: dict[str, bytes | None] = field(default_factory=dict)
    held_bytes: int = 0
    fault: tuple[str, str] | None = None
    doubt: Damage | None = None


def kept_schema(shard: Shard, config: InputConfig, limits: LimitsConfig, storage: StorageConfig) -> pa.Schema:
    """Return the kept fields after looking for them in the first thousand samples; images and the like are binary.

    Raises:
        FieldNotFound: None of those samples has a field that the config names.
    """
    known: dict[str, None] = {}
    with open_shard(shard, storage) as file:
        for sample in islice(_samples(decompressed(file, shard.uri), config, limits), _PEEK_SAMPLES):
            known.update(dict.fromkeys([*sample.members, *(_json(sample) or ())]))
    asked = [config.text or config.image or "", *config.keep, *([config.id] if config.id else [])]
    for name in asked:
        if known and not any(alternative in known for alternative in name.split(";")):
            raise missing(name, list(known), shard.uri)
    return pa.schema([pa.field(name, pa.binary() if _BINARY.fullmatch(name) else pa.string()) for name in config.keep])


def stretches(shard: Shard, config: InputConfig, limits: LimitsConfig, storage: StorageConfig) -> Iterator[Stretch]:
    """Read an archive in order; a sample's position is its place in the archive, lost ones counted."""
    rows = Rows(shard, config, pa.binary(), has_ids=True)
    waiting: dict[str, _Sample] = {}
    waiting_bytes = 0
    with open_shard(shard, storage) as file:
        for sample in _samples(decompressed(file, shard.uri), config, limits):
            name = sample.key or f"\0{sample.position}"
            if name in waiting:
                if _is_rest_of(waiting[name], sample):
                    continue
                sample.fault = sample.fault or ("duplicate_id", "an earlier sample of this shard has the same key")
                name = f"\0{sample.position}"
            waiting[name] = sample
            waiting_bytes += sample.held_bytes
            while len(waiting) > _WAIT_SAMPLES or waiting_bytes > _WAIT_BYTES:
                oldest = waiting.pop(next(iter(waiting)))
                waiting_bytes -= oldest.held_bytes
                _add(rows, oldest, config)
                if rows.is_full:
                    yield rows.take()
    for sample in waiting.values():
        _add(rows, sample, config)
    yield rows.take()


def _samples(stream: ByteStream, config: InputConfig, limits: LimitsConfig) -> Iterator[_Sample]:
    """Group members by key, and settle what each damage took."""
    tar = TarStream(stream)
    inputs = _inputs(config)
    wanted = {*inputs, *config.keep, config.id, "json"}
    sample: _Sample | None = None
    damage: Damage | None = None
    position = 0
    for member in tar.members():
        if isinstance(member, Damage):
            damage = member
            if sample is not None and (isinstance(damage, Shift) or not _is_whole(sample, config)):
                sample.fault = (damage.reason, f"the shard {damage}")
            else:
                yield _Sample("", position, fault=(damage.reason, f"the shard {damage}"))
                position += 1
            continue
        name, size = member
        key, extension = _split(name)
        if not extension:
            continue
        if sample is None or key != sample.key:
            if sample is not None:
                yield _settled(sample, config)
            sample, damage = _Sample(key, position, doubt=damage), None
            position += 1
        if extension in sample.members:
            sample.fault = sample.fault or ("duplicate_member", f"has more than one member {extension}")
        elif extension not in wanted:
            sample.members[extension] = None
        elif size <= limits.max_sample_bytes:
            sample.members[extension] = tar.read()
            sample.held_bytes += size
        else:
            sample.members[extension] = None
            if extension in inputs:
                message = f"{extension} is {size} bytes; limits.max_sample_bytes is {limits.max_sample_bytes}"
                sample.fault = sample.fault or ("too_large", message)
    if sample is not None:
        yield _settled(sample, config)


def _split(name: str) -> tuple[str, str]:
    """Cut a member's name at the first dot of its last part into key and extension; no extension is no field."""
    dot = name.find(".", name.rfind("/") + 1)
    is_meta = name.startswith("__") and name.partition("/")[0].endswith("__")
    if is_meta or dot <= name.rfind("/") + 1:
        return name, ""
    return name[:dot], name[dot + 1 :].lower()


def _settled(sample: _Sample, config: InputConfig) -> _Sample:
    if sample.doubt is not None and sample.fault is None and not _is_whole(sample, config):
        sample.fault = (sample.doubt.reason, f"the shard {sample.doubt}")
    return sample


def _is_whole(sample: _Sample, config: InputConfig) -> bool:
    """Whether every field that the config names is there."""
    there = {extension for extension, data in sample.members.items() if data is not None}
    names = {*config.keep, *([config.id] if config.id else [])}
    if there >= names and not there.isdisjoint(_inputs(config)):
        return True
    there.update(_json(sample) or ())
    return there >= names and not there.isdisjoint(_inputs(config))


def _is_rest_of(first: _Sample, late: _Sample) -> bool:
    """Whether members that come late belong to an earlier sample, which then cannot be used."""
    if first.members.keys() & late.members.keys():
        return False
    first.fault = first.fault or (
        "interleaved",
        f"members {', '.join(late.members)} stand apart from {', '.join(first.members)}; "
        "write the members of a sample next to each other",
    )
    first.members |= dict.fromkeys(late.members)
    return True


def _add(rows: Rows, sample: _Sample, config: InputConfig) -> None:
    if sample.fault is not None:
        rows.reject(sample.position, sample.key, *sample.fault)
        return
    members = sample.members
    value = next((members[name] for name in _inputs(config) if members.get(name) is not None), None)
    record: dict[str, Any] | None = None
    if (value is None and config.text) or config.id or any(members.get(name) is None for name in config.keep):
        record = _json(sample)
    if value is None and config.text is not None and members.get("json") is not None:
        text = record.get(config.text) if record is not None else None
        if record is None or not isinstance(text, str | None):
            reason = "bad_json" if record is None else "not_text"
            rows.reject(sample.position, sample.key, reason, f"its json member holds no text under {config.text!r}")
            return
        value = None if text is None else text.encode()
    sample_id: str | None = sample.key
    if config.id is not None:
        named = _field(sample, record, config.id)
        sample_id = None if named is None else named.decode(errors="replace")
    rows.add(sample.position, sample_id, value, [_field(sample, record, name) for name in config.keep])


def _field(sample: _Sample, record: dict[str, Any] | None, name: str) -> bytes | None:
    data = sample.members.get(name)
    if data is not None or record is None:
        return data
    text = as_text(record.get(name))
    return None if text is None else text.encode()


def _inputs(config: InputConfig) -> list[str]:
    return (config.text or config.image or "").split(";")


def _json(sample: _Sample) -> dict[str, Any] | None:
    try:
        record = orjson.loads(sample.members.get("json") or b"null")
    except orjson.JSONDecodeError:
        return None
    return record if isinstance(record, dict) else None
