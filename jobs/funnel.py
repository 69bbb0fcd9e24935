"""`python -m jobs funnel TABLE`: tune a funnel to a recall at the least measured cost, and store it with the table."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import get_args

from pydantic import ValidationError
from rich.console import Console

from jobs.options import add_storage, storage_of
from pipelines.funnel import Funnel, Goal
from pipelines.tables.table import VectorTable
from schemas.errors import ConfigError
from schemas.plans import FunnelStage, Home

_STAGE = re.compile(r"(\d+)(?::(bit1|pq4(?=x)|int8|float16|float32)(?:x(\d+))?)?:(\d+)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("table", help="address of the table")
    parser.add_argument(
        "--recall", type=_fraction, default=0.95, help="the 95 %% interval must lie above it (default 0.95)"
    )
    parser.add_argument("--k", type=int, default=10, help="results per query (default 10)")
    parser.add_argument(
        "--home",
        choices=get_args(Home),
        default="memory",
        help="memory: codes and vectors in RAM; codes: only codes, vectors are read; lake: all is read",
    )
    parser.add_argument("--bytes", type=int, metavar="N", help="bytes of RAM that a vector may take (default: any)")
    parser.add_argument(
        "--stages",
        metavar="DIMS[:PRECISION]:KEEP,...",
        help="measure stages of your own instead of choosing some: 64:500,256:10 or 256:pq4x64:200,256:int8:20,256:10",
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
        goal = Goal(
            recall=args.recall, k=args.k, objective=args.objective, queries=args.held_out, bytes_per_vector=args.bytes
        )
        funnel = Funnel.build(
            table,
            goal,
            home=args.home,
            queries=_lines(args.queries),
            stages=args.stages and parse_stages(args.stages),
        )
        tuned = Funnel.stored(funnel.table, args.home)
    stages = " → ".join(f"{s.dims} dims {s.precision} keep {s.keep}" for s in tuned.plan.stages)
    console.print(f"[bold]{stages}[/], home: {tuned.plan.home}", highlight=False, soft_wrap=True)
    console.print(str(tuned.card), soft_wrap=True, highlight=False)
    return 0


def parse_stages(text: str) -> list[FunnelStage]:
    """Read stages as the command line writes them.

    Raises:
        ConfigError: The text is no list of stages.

    Example:
        >>> [(s.dims, s.precision, s.codes, s.keep) for s in parse_stages("128:pq4x32:500,256:10")]
        [(128, 'pq4', 32, 500), (256, 'float16', 0, 10)]
    """
    stages = []
    for written in text.split(","):
        parts = _STAGE.fullmatch(written.strip())
        if parts is None:
            raise ConfigError(
                f"--stages: {written!r} is no stage; write dims:keep or dims:precision:keep, where precision is "
                "bit1, pq4x<codes>, int8, float16 or float32: 256:pq4x64:200,256:10"
            )
        dims, precision, codes, keep = parts.groups()
        try:
            stage = {"dims": dims, "precision": precision or "float16", "codes": codes or 0, "keep": keep}
            stages.append(FunnelStage.model_validate(stage))
        except ValidationError as error:
            raise ConfigError(f"--stages: {written!r}: {error.errors()[0]['msg']}") from None
    return stages


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
