"""WebDataset archives: neighbouring tar members of one name are a sample, their extensions its fields.

Owns the grouping of members into samples. Members stay bytes: no pickle is loaded. Only `json` is parsed, and its keys
are fields as well.

Reasons of the rejects made here: `truncated_shard`, `corrupt_shard`, `interleaved`, `duplicate_member`, `duplicate_id`,
`no_field`, `too_large`, `broken_link`, `not_a_file`, `bad_json`, `not_text`, `not_base64`, `not_vector`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pyarrow as pa

from pipelines.shards.decompression import ByteStream, Damage, decompress
from pipelines.shards.json_values import MARK, as_text, json_type, parse_json
from pipelines.shards.raw_blocks import (
    RawBlock,
    RawBlockBuilder,
    Value,
    from_json,
    input_field,
    input_fields,
    missing_fields,
    require_fields,
)
from pipelines.shards.stores import open_shard
from pipelines.shards.tar_links import Link, NoFile
from pipelines.shards.tar_stream import Shift, TarStream
from schemas.config import InputConfig, LimitsConfig, StorageConfig
from schemas.records import IMAGE_SUFFIXES, Shard

_PEEK_SAMPLES = 1000
# A sample waits behind this many others, so that a late member of it is noticed before it is yielded.
_WAIT_SAMPLES = 32
_WAIT_BYTES = 4 << 20
_BINARY_SUFFIXES = IMAGE_SUFFIXES.union(
    (".bin", ".gz", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth", ".pyd", ".ten"),
    (".flac", ".mp3", ".mp4", ".ogg", ".wav", ".webm"),
)


_NO_FIELD = "is a member without an extension, so it is no field of a sample; name it KEY.FIELD, or leave it out"


@dataclass(slots=True)
class _Sample:
    """Neighbouring members of one key.

    Attributes:
        key: The common part of their names; empty for a damage that belongs to no known sample.
        position: Place of the sample in the archive.
        members: Extension to data; None where no field needs it, or where it is too large.
        unread: Extension to reason and message of the members that a field may need and that cannot be read.
        held_bytes: Bytes of data in memory.
        fault: Reason and message, if the sample cannot be used.
        doubt: Damage just before the sample, which may have destroyed members of it.
    """

    key: str
    position: int
    members: dict[str, bytes | None] = field(default_factory=dict)
    unread: dict[str, tuple[str, str]] = field(default_factory=dict)
    held_bytes: int = 0
    fault: tuple[str, str] | None = None
    doubt: Damage | None = None


class WebDatasetFormat:
    """WebDataset archives."""

    def kept_schema(self, shard: Shard, config: InputConfig, limits: LimitsConfig, storage: StorageConfig) -> pa.Schema:
        """Return the kept fields as strings, or binary by their extension, if the first thousand samples have each."""
        known: dict[str, None] = {}
        with open_shard(shard, storage) as file:
            for sample in islice(_Grouping(config, limits).samples(decompress(file, shard.uri)), _PEEK_SAMPLES):
                known.update(dict.fromkeys([*sample.members, *_keys(sample)]))
                if not missing_fields(config, known):
                    break
        require_fields(config, list(known), shard.uri)
        kinds = {True: pa.binary(), False: pa.string()}
        return pa.schema([pa.field(name, kinds[_is_binary(member)]) for name, member in config.columns.items()])

    def read(
        self, shard: Shard, config: InputConfig, limits: LimitsConfig, storage: StorageConfig
    ) -> Iterator[RawBlock]:
        """Read an archive in order; a sample's position is its place in the archive, lost samples counted."""
        builder = RawBlockBuilder(shard, config, pa.binary(), has_ids=True)
        grouping = _Grouping(config, limits)
        with open_shard(shard, storage) as file:
            for sample in _hold_back(grouping.samples(decompress(file, shard.uri))):
                grouping.add(sample, builder)
                if builder.is_full:
                    yield builder.take()
        yield builder.take()


def _hold_back(samples: Iterable[_Sample]) -> Iterator[_Sample]:
    """Hold samples back for a while, so that interleaved samples are noticed before they are yielded."""
    waiting: dict[str, _Sample] = {}
    waiting_bytes = 0
    for sample in samples:
        name = sample.key if sample.members else f"\0{sample.position}"
        if name in waiting:
            if _mark_if_interleaved(waiting[name], sample):
                continue
            sample.fault = sample.fault or ("duplicate_id", "an earlier sample of this shard has the same key")
            name = f"\0{sample.position}"
        waiting[name] = sample
        waiting_bytes += sample.held_bytes
        while len(waiting) > _WAIT_SAMPLES or waiting_bytes > _WAIT_BYTES:
            oldest = waiting.pop(next(iter(waiting)))
            waiting_bytes -= oldest.held_bytes
            yield oldest
    yield from waiting.values()


def _mark_if_interleaved(first: _Sample, late: _Sample) -> bool:
    """Mark a sample as interleaved if late members belong to it; return whether they do."""
    if first.members.keys() & late.members.keys():
        return False
    first.fault = first.fault or (
        "interleaved",
        f"members {', '.join(late.members)} stand apart from {', '.join(first.members)}; "
        "write the members of a sample next to each other",
    )
    first.members |= dict.fromkeys(late.members)
    return True


class _Grouping:
    """Groups the members of one archive into samples and finds their fields."""

    def __init__(self, config: InputConfig, limits: LimitsConfig) -> None:
        self._config, self._max_bytes = config, limits.max_sample_bytes
        self._inputs = [] if config.modality == "vector" else input_fields(config)
        self._others = {*config.columns.values(), *([config.id] if config.id else [])}
        self._wanted = {*self._inputs, *self._others, "json"}

    def samples(self, stream: ByteStream) -> Iterator[_Sample]:
        """Group members by key, and decide which sample each damage destroyed."""
        tar = TarStream(stream)
        sample: _Sample | None = None
        damage: Damage | None = None
        position = 0
        for member in tar.members():
            if isinstance(member, Damage):
                damage = member
                if sample is not None and (isinstance(damage, Shift) or not self._is_whole(sample)):
                    sample.fault = (damage.reason, f"the shard {damage}")
                else:
                    yield _Sample("", position, fault=(damage.reason, f"the shard {damage}"))
                    position += 1
                continue
            name = member[0] if isinstance(member, tuple) else member.name
            key, extension = _split(name)
            if not extension:
                if not _is_ignored(name):
                    yield _Sample(name, position, fault=("no_field", _NO_FIELD))
                    position += 1
                continue
            if sample is None or key != sample.key:
                if sample is not None:
                    yield self._with_doubt(sample)
                sample, damage = _Sample(key, position, doubt=damage), None
                position += 1
            self._take(sample, extension, member, tar)
        if sample is not None:
            yield self._with_doubt(sample)

    def _take(self, sample: _Sample, extension: str, member: tuple[str, int] | Link | NoFile, tar: TarStream) -> None:
        if extension in sample.members:
            sample.fault = sample.fault or ("duplicate_member", f"has more than one member {extension}")
            return
        sample.members[extension] = None
        if extension not in self._wanted:
            return
        try:
            data = self._data(member, tar)
        except Damage as damage:
            sample.unread[extension] = damage.reason, f"{extension} {damage}"
            if extension in (*self._inputs, *self._others):
                sample.fault = sample.fault or sample.unread[extension]
            return
        if data is not None and not _is_binary(extension):
            data = data.removeprefix(MARK)
        sample.members[extension] = data
        sample.held_bytes += len(data or b"")

    def _data(self, member: tuple[str, int] | Link | NoFile, tar: TarStream) -> bytes | None:
        if isinstance(member, Link):
            return tar.follow(member, self._max_bytes)
        if isinstance(member, NoFile):
            raise Damage("not_a_file", f"is {member.what} in the archive")
        if member[1] > self._max_bytes:
            raise Damage("too_large", f"is {member[1]} bytes; limits.max_sample_bytes is {self._max_bytes}")
        return tar.read()

    def _with_doubt(self, sample: _Sample) -> _Sample:
        if sample.doubt is not None and sample.fault is None and not self._is_whole(sample):
            sample.fault = (sample.doubt.reason, f"the shard {sample.doubt}")
        return sample

    def _is_whole(self, sample: _Sample) -> bool:
        there = {extension for extension, data in sample.members.items() if data is not None}
        there.update(_keys(sample))
        inputs = input_fields(self._config)
        return there >= self._others and (not inputs or not there.isdisjoint(inputs))

    def add(self, sample: _Sample, builder: RawBlockBuilder) -> None:
        """Find the fields of a sample and add it to the builder, or to its rejects."""
        if sample.fault is not None:
            builder.reject(sample.position, sample.key, *sample.fault)
            return
        value: Value = None
        for name in self._inputs:
            value = sample.members.get(name)
            if value is not None:
                break
        if value is not None and not self._others:
            builder.add(sample.position, sample.key, value, ())
            return
        config = self._config
        has_input = value is not None or config.has_template
        is_in_members = has_input and all(sample.members.get(name) is not None for name in self._others)
        if not is_in_members and "json" in sample.unread:
            builder.reject(sample.position, sample.key, *sample.unread["json"])
            return
        try:
            record = None if is_in_members else _json(sample, self._others)
            if not has_input and record is not None:
                value = _from_record(record, config)
            sample_id: str | None = sample.key
            if config.id is not None:
                sample_id = _id(_field(sample, record, config.id))
            kept = [_field(sample, record, name) for name in config.columns.values()]
        except Damage as damage:
            builder.reject(sample.position, sample.key, damage.reason, str(damage))
            return
        builder.add(sample.position, sample_id, value, kept)


def _is_binary(extension: str) -> bool:
    return f".{extension.rpartition('.')[2]}" in _BINARY_SUFFIXES


def _split(name: str) -> tuple[str, str]:
    """Split a member's name at the first dot behind its last slash into key and extension, which may be empty."""
    base = name.rfind("/") + 1
    dot = name.find(".", base)
    if dot <= base or (name.startswith("__") and _is_ignored(name)):
        return name, ""
    return name[:dot], name[dot + 1 :].lower()


def _is_ignored(name: str) -> bool:
    """Return whether a member is none of a sample: a hidden file, or one of a folder `__NAME__` or `__MACOSX`."""
    first, _, rest = name.partition("/")
    is_meta = first.startswith("__") and (first.endswith("__") or (first == "__MACOSX" and rest != ""))
    return is_meta or name[name.rfind("/") + 1 :].startswith(".")


def _from_record(record: dict[str, Any], config: InputConfig) -> Value:
    name = input_field(config)
    try:
        value = from_json(record.get(name), config.modality)
    except Damage as damage:
        raise Damage(damage.reason, f"{name} {damage}") from None
    return value.encode() if isinstance(value, str) else value


def _field(sample: _Sample, record: dict[str, Any] | None, name: str) -> bytes | str | None:
    data = sample.members.get(name)
    return data if data is not None or record is None else as_text(record.get(name))


def _id(named: bytes | str | None) -> str | None:
    """Return an id as text; None if there is none, or it is not valid UTF-8."""
    try:
        return named.decode() if isinstance(named, bytes) else named
    except UnicodeDecodeError:
        return None


def _json(sample: _Sample, exact: Iterable[str] = ()) -> dict[str, Any] | None:
    """Parse the json member, the numbers of some keys with their digits; None if the sample has none.

    Raises:
        Damage: It is not a JSON object.
    """
    data = sample.members.get("json")
    if data is None:
        return None
    try:
        record = parse_json(data, exact)
    except Damage as damage:
        raise Damage("bad_json", f"its json member is {damage}") from None
    if not isinstance(record, dict):
        raise Damage("bad_json", f"its json member is {json_type(record)}, not an object")
    return record


def _keys(sample: _Sample) -> Iterable[str]:
    """Return the keys of the json member; none if there is no such member, or it cannot be parsed."""
    try:
        return _json(sample) or ()
    except Damage:
        return ()
