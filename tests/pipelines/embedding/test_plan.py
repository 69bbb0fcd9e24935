"""What a run has to do is planned from the listing: leases, samples, the space."""

from __future__ import annotations

from pipelines.embedding.plan import plan_leases
from schemas.records import Shard


def test_shards_are_leased_together_up_to_a_size() -> None:
    shards = [Shard(f"s{i}", size, "1", "jsonl") for i, size in enumerate((30, 30, 30, 200, 10, 10))]
    leases = plan_leases(shards, 60)
    assert [[shard.uri for shard in lease.shards] for lease in leases] == [["s0", "s1"], ["s2"], ["s3"], ["s4", "s5"]]
    assert plan_leases([], 60) == []
