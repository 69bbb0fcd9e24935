"""Shards in columns are the shards that they were made of, in natural order, and take little memory."""

from __future__ import annotations

import random
import re
import tracemalloc

import pyarrow as pa

from pipelines.shards.shard_table import are_among, collect_shards
from schemas.records import Shard


def natural(uri: str) -> list[list[str | int]]:
    return [[int(p) if n % 2 else p for n, p in enumerate(re.split("([0-9]+)", folder))] for folder in uri.split("/")]


def test_shards_come_back_as_they_were_in_natural_order() -> None:
    rng = random.Random(0)
    parts = ("a", "b", "ab", "é", "-", "1", "2", "10", "007", "99999999999999999999", "/", "/d/", "/d2/")
    uris = {f"/{''.join(rng.choices(parts, k=rng.randint(1, 6)))}.tar" for _ in range(3000)}
    shards = [Shard(uri, rng.randrange(1 << 40), f"{rng.random()}", "webdataset") for uri in sorted(uris)]
    shards += [
        Shard("https://u:p@h/x.tar?Signature=s&v=2", 3, "e", "webdataset"),
        Shard("/t.lance#4", 3, "", "lance", known_as="/old.lance#4"),
    ]
    table = collect_shards((shard, shard.name) for shard in rng.sample(shards, len(shards)))
    assert set(table) == set(shards)
    assert [natural(shard.uri) for shard in table] == sorted(natural(shard.uri) for shard in shards)
    assert table.ids.to_pylist() == [shard.id for shard in table]
    assert table.names.to_pylist() == [shard.name for shard in table]
    some = list(table)
    assert (len(table), table[-1], list(table[3:90:7])) == (len(some), some[-1], some[3:90:7])
    again = collect_shards((shard, "behind a link" if "d" in shard.uri else shard.name) for shard in some)
    assert list(again) == [s for n, s in enumerate(some) if "d" not in s.uri or not any("d" in s.uri for s in some[:n])]

    is_chosen = [rng.random() < 0.1 for _ in some]
    chosen = table.filter(pa.array(is_chosen))
    assert list(chosen) == [shard for shard, is_one in zip(some, is_chosen, strict=True) if is_one]
    renamed = [Shard(s.uri, s.size, s.etag, s.format, known_as=f"/other{n}") for n, s in enumerate(chosen)]
    assert [s for s in table.renamed(pa.array(is_chosen), renamed) if s.known_as.startswith("/other")] == renamed


def test_ids_are_looked_up() -> None:
    rng = random.Random(1)
    for size in (0, 1, 5, 100):
        ids, others = ([rng.randrange(-60, 60) for _ in range(n)] for n in (80, size))
        found = are_among(pa.array(ids, pa.int64()), pa.array(others, pa.int64()))
        assert found.to_pylist() == [one in others for one in ids]


def test_many_shards_take_little_memory() -> None:
    many = ((shard := Shard(f"/d/{n}.tar", n, str(n), "webdataset"), shard.name) for n in range(30_000))
    tracemalloc.start()
    table = collect_shards(many)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(table) == 30_000
    assert peak < 3e6, "no more `Shard`s are there at once than are turned into columns"
