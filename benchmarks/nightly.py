"""The cost of a night: with nothing to do by the number of known shards, and by the share of shards that changed.

    python -m benchmarks.nightly                      # some ten minutes on 2 cores
    python -m benchmarks.nightly --known 1000         # a minute

Nothing to do: so many small files lie in one folder, and the table holds a row of each. The night runs as a process of
its own; its memory is given above that of a process that only imports it. Growth: after each night that rewrites some
shards, the bytes of the lake, with what a night makes room for and without; readers need nothing older. Changed share:
400 files of 500 vectors each, of which a share is written anew; start-up of Ray included.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from pipelines.encoders import make_space
from pipelines.shards import list_shards
from pipelines.tables.create import create_table
from pipelines.tables.fragments import write_fragments
from pipelines.tables.generations import PublishRequest, describe, publish
from pipelines.tables.ledger import Ledger, commit_leases
from pipelines.tables.maintenance import compact_table, removed_share
from pipelines.tables.retention import retain
from pipelines.vectors.arrays import to_arrow
from schemas.config import EncoderConfig, StorageConfig
from schemas.records import LeaseResult, Shard, ShardCount
from tests.support.small_tables import KEPT, SPACE, a_shard, changed, commit_shards

WIDTH, LEASE, FILES, ROWS = 8, 4096, 400, 500
SHARES = (0.0, 0.0025, 0.01, 0.1, 1.0)


def run(words: list[str]) -> tuple[float, float, float]:
    """Run a process to its end, and return its seconds, those of CPU, and its peak memory in MB."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, words
    return time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def write_config(folder: Path) -> str:
    """Write the config of a lake of precomputed vectors, and return its path."""
    (folder / "model.json").write_text(json.dumps({"model": "benchmark", "revision": "1", "dims": [4, WIDTH]}))
    (folder / "shards").mkdir()
    path = folder / "night.toml"
    path.write_text(
        f'shards = ["{folder}/shards"]\ntable = "{folder}/t.lance"\n'
        f'[input]\nid = "id"\nvector = "vector"\n[encoder]\nname = "precomputed"\npath = "{folder}/model.json"\n'
        "[audit]\nmax_mean_shift = 2\nmax_spectrum_shift = 2\n"
    )
    return str(path)


def lease_of(table: object, shards: list[Shard]) -> LeaseResult:
    """Write one row for each shard."""
    x_BD = np.zeros((len(shards), WIDTH), np.float16)
    x_BD[:, 0] = 1
    columns = [pa.array([s.uri for s in shards]), pa.array([s.id for s in shards], pa.int64()), to_arrow(x_BD)]
    rows = pa.RecordBatch.from_arrays(columns, names=["id", "shard", "vector"])
    counts = tuple(ShardCount(shard, 1, 0) for shard in shards)
    return LeaseResult(counts, write_fragments(table, [rows]), (), len(shards))  # type: ignore[arg-type]


def nothing_to_do(known: int, base_mb: float) -> list[str]:
    """Return seconds, those of CPU, and memory of a night that finds every shard in the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = write_config(folder)
        for number in range(known):
            (folder / "shards" / f"{number:08d}.jsonl").write_text('{"id": "a", "vector": [1, 0, 0, 0, 0, 0, 0, 0]}\n')
        shards = list_shards([f"{folder}/shards"], "auto", StorageConfig(), table=f"{folder}/t.lance")
        space = make_space(EncoderConfig(name="precomputed", path=f"{folder}/model.json"))
        table = create_table(f"{folder}/t.lance", space, pa.schema([]))
        listed, ledger = list(shards), Ledger(table)
        for start in range(0, known, LEASE):
            commit_leases(table, [lease_of(table, listed[start : start + LEASE])], "past", ledger=ledger)
        run(["-m", "jobs", "publish", table.uri])
        (seconds, cpu_s, megabytes), *_ = sorted(run(["-m", "jobs", "nightly", config]) for _ in range(3))
    return [f"{known:,}", f"{seconds:.1f}", f"{cpu_s:.1f}", f"{megabytes:.0f}", f"{megabytes - base_mb:.0f}"]


def by_share() -> list[list[str]]:
    """Return the seconds of nights after a share of the files was written anew."""
    rows, rng = list[list[str]](), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = write_config(folder)
        write_files(folder, range(FILES), rng)
        seconds, *_ = run(["-m", "jobs", "nightly", config])
        rows.append(["first night", f"{FILES * ROWS:,}", f"{seconds:.1f}"])
        for share in SHARES:
            changed = range(round(share * FILES))
            write_files(folder, changed, rng)
            seconds, *_ = run(["-m", "jobs", "nightly", config])
            rows.append([f"{share:.2%}", f"{len(changed) * ROWS:,}", f"{seconds:.1f}"])
    return rows


def growth(nights: int) -> list[list[str]]:
    """Change one of 20 shards each night; return the megabytes of the lake, with what a night removes and without."""
    rows = list[list[str]]()
    for makes_room in (False, True):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            table, megabytes = create_table(f"{folder}/t.lance", SPACE, KEPT), list[float]()
            shards = [a_shard(f"{number}") for number in range(20)]
            commit_shards(table, *shards, rows=2000)
            for night in range(nights):
                shards[night % 20] = changed(shards[night % 20])
                commit_shards(table, shards[night % 20], rows=2000)
                table = table.refresh()
                if makes_room and removed_share(table) > 0.1:
                    compact_table(table)
                    table = table.refresh()
                publish(table.uri, describe(table, 1), table.storage, PublishRequest())
                if makes_room:
                    retain(table.uri, 1, table.storage, generations=1, versions=10, reader_grace=dt.timedelta(0))
                megabytes.append(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6)
        at = sorted({0, nights // 4, nights // 2, nights - 1})
        said = ", ".join(f"{megabytes[night]:.1f} after {night + 1}" for night in at)
        rows.append(["yes" if makes_room else "no", f"{max(megabytes[nights // 2 :]):.1f}", said])
    return rows


def write_files(folder: Path, numbers: range, rng: np.random.Generator) -> None:
    """Write files of random vectors."""
    for number in numbers:
        x_BD = rng.standard_normal((ROWS, WIDTH)).round(4).tolist()
        lines = (json.dumps({"id": f"{number}-{row}", "vector": x_D}) for row, x_D in enumerate(x_BD))
        (folder / "shards" / f"{number:08d}.jsonl").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--known", type=int, nargs="*", default=[1_000, 10_000, 100_000], help="numbers of known shards"
    )
    parser.add_argument("--nights", type=int, default=100, help="nights of the growth of a lake")
    parser.add_argument("--only-growth", action="store_true", help="measure nothing else")
    arguments = parser.parse_args()
    console = Console()
    table = Table("makes room", "most MB, second half", "MB", title=f"a lake after {arguments.nights} nights")
    for row in growth(arguments.nights):
        table.add_row(*row)
    console.print(table)
    if arguments.only_growth:
        return
    *_, base_mb = run(["-c", "import jobs.nightly"])
    heads = ("known shards", "seconds", "of CPU", "peak MB", "MB above the imports")
    table = Table(*heads, title="a night with nothing to do")
    for known in arguments.known:
        table.add_row(*nothing_to_do(known, base_mb))
    console.print(table)
    table = Table("changed", "rows encoded", "seconds", title=f"a night by the share that changed, {FILES} shards")
    for row in by_share():
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
