"""The feeder prepares every sample once, in windows of bounded size, and rejects what cannot be prepared."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from pipelines.embedding.feeder import Feeder
from tests.support.corpus import config_for, texts, write_corpus, write_shard
from tests.support.embedding import lease_of

KEPT = pa.schema([pa.field("n", pa.string())])


def test_windows_are_bounded_by_bytes(tmp_path: Path) -> None:
    write_shard(tmp_path / "src" / "a.jsonl", {f"a-{i}": "river " * 500 for i in range(2_000)})
    config = config_for(tmp_path / "src", tmp_path / "t.lance", limits={"buffer_bytes": 1 << 20})
    windows = list(Feeder(config, pa.schema([pa.field("n", pa.string())]), threads=1).feed(lease_of(config)))
    assert sum(len(part) for window in windows for part in window.parts) == 2_000
    assert len(windows) >= 2
    one_call = 4096 * 500 * 4 * 2  # rows prepared at once, tokens of each with room to spare, bytes of a token
    assert max(window.nbytes for window in windows) <= (1 << 20) // 4 + one_call


def test_a_window_spans_shards_and_carries_the_rejects(tmp_path: Path) -> None:
    write_corpus(tmp_path / "src", shards=2, rows=5)
    write_shard(tmp_path / "src" / "z.jsonl", texts("z", 3, 0) | {"z-9": " "})
    config = config_for(tmp_path / "src", tmp_path / "t.lance")
    lease = lease_of(config)
    (window,) = Feeder(config, KEPT, threads=1).feed(lease)
    rows = pa.Table.from_batches(window.rows)
    assert rows["shard"].unique().to_pylist() == [shard.id for shard in lease.shards]
    assert rows.num_rows == sum(len(part) for part in window.parts) == 13
    assert window.units == sum(int(costs.sum()) for costs in window.costs)
    assert [(reject.key, reject.reason) for reject in window.rejects] == [("z-9", "empty_text")]
