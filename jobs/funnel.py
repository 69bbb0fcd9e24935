"""`python -m jobs funnel TABLE`: tune a funnel to a recall at the least measured cost, and store it with the table."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from jobs.options import add_storage, storage_of
from pipelines.funnel import Funnel, Goal
from pipelines.tables import VectorTable
from schemas.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("table", help="address of the table")
    parser.add_argument(
        "--recall", type=_fraction, default=0.95, help="the 95 %% interval must lie above it (default 0.95)"
    )
    parser.add_argument("--k", type=int, default=10, help="results per query (default 10)")
    parser.add_argument(
        "--home", choices=["memory", "lake"], default="memory", help="where the first stage is searched"
    )
    parser.add_argument(
        "--objective", choices=["latency", "throughput"], default="latency", help="one query at a time, or many a call"
    )
    parser.add_argument(
        "--held-out", type=int, metavar="N", help="rows to ask with (default: as many as the interval needs)"
    )
    parser.add_argument(
        "--queries", metavar="FILE", help="ask with the lines of this file instead of rows of the table"
    )
    parser.add_argument("--card", action="store_true", help="print the stored card and tune nothing")
    add_storage(parser)


def main(args: argparse.Namespace) -> int:
    """Tune, and print the recall card."""
    table = VectorTable.open(args.table, storage=storage_of(args))
    console = Console()
    if args.card:
        tuned = Funnel.stored(table, args.home)
    else:
        goal = Goal(recall=args.recall, k=args.k, objective=args.objective, queries=args.held_out)
        funnel = Funnel.build(table, resident=args.home == "memory", queries=_lines(args.queries), goal=goal)
        tuned = Funnel.stored(funnel.table, args.home)
    stages = " → ".join(f"{s.dims} dims {s.precision} keep {s.keep}" for s in tuned.plan.stages)
    console.print(f"[bold]{stages}[/], in {tuned.plan.home}", highlight=False)
    console.print(str(tuned.card), soft_wrap=True, highlight=False)
    return 0


def _lines(path: str | None) -> list[str] | None:
    if path is None:
        return None
    try:
        lines = [line.strip() for line in Path(path).read_text().splitlines() if line.strip()]
    except OSError as error:
        raise ConfigError(f"--queries {path}: {error.strerror}") from None
    if len(lines) < 2:
        raise ConfigError(
            f"--queries {path}: a funnel is tuned on one half and vouched for on the other; give more lines"
        )
    return lines


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value
