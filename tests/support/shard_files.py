"""Write small shards, and read a shard to its end."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.shards import list_shards, read_blocks
from schemas.config import InputConfig, LimitsConfig, StorageConfig
from schemas.records import Reject, Shard

Member = tuple[str, bytes]


def tar_bytes(members: Iterable[Member], format: int = tarfile.USTAR_FORMAT) -> bytes:
    """Return a tar archive of members, in order."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


@dataclass
class ReadShard:
    """Everything that was read from one shard."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    schemas: list[pa.Schema] = field(default_factory=list)

    @property
    def inputs(self) -> dict[str, Any]:
        """Inputs by id."""
        return {row["id"]: row["input"] for row in self.rows}

    @property
    def reasons(self) -> dict[str, str]:
        """Reasons of the rejects by key."""
        return {reject.key: reject.reason for reject in self.rejects}


def shard_at(path: Path | str, storage: StorageConfig = StorageConfig()) -> Shard:
    """Return the one shard at a path."""
    (shard,) = list_shards([str(path)], storage=storage)
    return shard


def read(
    shard: Shard | Path,
    config: InputConfig,
    limits: LimitsConfig = LimitsConfig(),
    **options: Any,
) -> ReadShard:
    """Read a shard to its end; check what must hold for every block."""
    shard = shard_at(shard) if isinstance(shard, Path) else shard
    got = ReadShard()
    for block in read_blocks(shard, config, limits, **options):
        block.rows.validate(full=True)
        assert block.rows.num_rows <= 1024
        assert block.rows["input"].null_count == block.rows["id"].null_count == 0
        got.rows += block.rows.to_pylist()
        got.rejects += block.rejects
        got.schemas.append(block.rows.schema)
    assert all(schema == got.schemas[0] for schema in got.schemas)
    ids = [row["id"] for row in got.rows]
    assert len(set(ids)) == len(ids)
    assert all(reject.shard == shard.id for reject in got.rejects)
    positions = [row["position"] for row in got.rows] + [reject.position for reject in got.rejects]
    assert len(set(positions)) == len(positions)
    return got


def text_members(keys: Sequence[str]) -> list[Member]:
    """Return a text and a JSON member for each key."""
    return [
        member
        for key in keys
        for member in ((f"{key}.txt", f"text of {key}".encode()), (f"{key}.json", b'{"n": "%s"}' % key.encode()))
    ]
