"""Content hashes: what they cost where nothing is equal, and what they save where much is.

    python -m benchmarks.reuse

100,000 texts in ten shards are embedded in this process by wordllama, with and without hashes, in turn. Then one shard
is renamed, one has 5 % new texts, and one is a copy of another.
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipelines.embedding.column_plan import apply_columns, source_of
from pipelines.embedding.embedder import Embedder
from pipelines.embedding.plan import make_plan
from pipelines.tables.create import create_table
from pipelines.tables.ledger import commit_leases
from schemas.config import EmbedConfig
from schemas.records import Lease

SHARDS, ROWS, ROUNDS, NEW = 10, 10_000, 3, 0.05


def write(path: Path, texts: list[str]) -> None:
    """Write texts as JSON lines."""
    path.write_text(
        "".join(json.dumps({"id": f"{path.stem}-{n}", "text": text}) + "\n" for n, text in enumerate(texts))
    )


def texts(seed: int, count: int) -> list[str]:
    """Make texts of 5 to 40 made-up words."""
    dice = random.Random(seed)
    words = ["".join(dice.choices("abcdefghiklmnoprstu", k=dice.randint(2, 9))) for _ in range(2_000)]
    return [" ".join(dice.choices(words, k=dice.randint(5, 40))) for _ in range(count)]


def embed(folder: Path, hashes: str, table: str) -> tuple[float, int, int]:
    """Embed what is new; return seconds, rows, and how many of them were not encoded."""
    config = EmbedConfig.model_validate(
        {
            "shards": [str(folder)],
            "table": str(folder.parent / table),
            "input": {"id": "id", "text": "text"},
            "encoder": {"name": "wordllama"},
            "reuse": {"hashes": hashes},
        }
    )
    plan = make_plan(config)
    if plan.table is None:
        made = create_table(config.table, plan.space, plan.columns.kept, source=source_of(config))
    else:
        made = apply_columns(plan.table, plan.columns)
    embedder = Embedder(config, threads=2)
    began = time.perf_counter()
    result = embedder.run(Lease(plan.todo))
    seconds = time.perf_counter() - began
    commit_leases(made, [result], "bench")
    return seconds, sum(count.rows for count in result.counts), result.reused


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "shards"
        folder.mkdir()
        for number in range(SHARDS):
            write(folder / f"{number}.jsonl", texts(number, ROWS))
        times: dict[str, list[float]] = {"off": [], "auto": []}
        embed(folder, "off", "warm.lance")
        for turn in range(ROUNDS):
            for hashes, seconds in times.items():
                seconds.append(embed(folder, hashes, f"{hashes}{turn}.lance")[0])
        report = Table("", "rows", "encoded", "s, without hashes", "s, with hashes")
        off, on = (statistics.median(times[hashes]) for hashes in ("off", "auto"))
        report.add_row("all new", f"{SHARDS * ROWS:,}", f"{SHARDS * ROWS:,}", f"{off:.2f}", f"{on:.2f}")
        (folder / "0.jsonl").rename(folder / "renamed.jsonl")
        some = texts(1, ROWS)
        write(folder / "1.jsonl", texts(99, round(NEW * ROWS)) + some[round(NEW * ROWS) :])
        write(folder / "copy.jsonl", texts(2, ROWS))
        (off, rows, _), (on, _, reused) = (embed(folder, hashes, f"{hashes}0.lance") for hashes in ("off", "auto"))
        report.add_row("renamed, changed, copied", f"{rows:,}", f"{rows - reused:,}", f"{off:.2f}", f"{on:.2f}")
        Console().print(report)


if __name__ == "__main__":
    main()
