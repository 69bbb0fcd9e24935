"""Corpora with their config files, embedded by the command line, and what their tables say of the runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lance

from jobs.__main__ import main
from tests.support.corpus import Corpus, settings, write_config, write_corpus

Lake = tuple[Path, Corpus, Path]  # folder, corpus, config file


def make_lake(folder: Path, shards: int = 3, rows: int = 20, **blocks: Any) -> Lake:
    """Write a corpus and a config that embeds it into `t.lance`; `blocks` replaces or adds blocks of the config."""
    corpus = write_corpus(folder / "src", shards, rows)
    config = write_config(folder / "config.toml", settings(folder / "src", folder / "t.lance", **blocks))
    return folder, corpus, config


def embed(config: Path, *options: str) -> int:
    """Run `mlake embed` in this process; return its exit code."""
    return main(["embed", str(config), *options])


def runs_of(folder: Path) -> list[dict[str, Any]]:
    """Return the journal of a lake's table, oldest run first."""
    rows: list[dict[str, Any]] = lance.dataset(str(folder / "t.runs.lance")).to_table().to_pylist()
    return sorted(rows, key=lambda row: row["started_at"])


def row_count(folder: Path) -> int:
    """Return how many rows a lake's table holds; 0 where there is no table yet."""
    try:
        return int(lance.dataset(str(folder / "t.lance")).count_rows())
    except ValueError:
        return 0
