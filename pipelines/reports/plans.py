"""What `--dry-run` of `mlake rotate`, `funnel` and `evaluate` prints: what a run would read, make and drop.

Every refusal that needs no measurement comes here as in the run itself.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from pipelines.encoders import make_space
from pipelines.evaluation.prepare import open_pairs
from pipelines.funnel import Funnel, Goal
from pipelines.funnel.goal import check_rows
from pipelines.tables.table import VectorTable
from pipelines.vectors.rotation import rotated_ladder
from schemas.config.evaluation import EvaluateConfig
from schemas.errors import TableError
from schemas.plans import Home, Plan
from schemas.printable import counted


def print_rotate_plan(table: VectorTable, console: Console) -> None:
    """Print what a rotation of a table would change."""
    grid, width = _grid(table), table.space.ladder.width
    grid.add_row("ladder", f"{table.space.ladder}; afterwards {rotated_ladder(width)}")
    funnels, indexes = Funnel.homes(table), [index.name for index in table.dataset.describe_indices()]
    grid.add_row("prefix columns", f"{', '.join(map(str, table.prefix_dims)) or 'none'}: dropped")
    grid.add_row("funnels", f"{', '.join(funnels) or 'none'}: dropped")
    grid.add_row("indexes", f"{', '.join(indexes) or 'none'}: those over vectors are dropped")
    console.print(grid, soft_wrap=True)


def print_funnel_plan(
    table: VectorTable, home: Home, goal: Goal, queries: int | None, plan: Plan | None, console: Console
) -> None:
    """Print what a funnel would be tuned on.

    Args:
        table: The table.
        home: Where the funnel would keep its data.
        goal: What it would be tuned for.
        queries: Number of queries that were given; None holds out rows of the table.
        plan: The stages that were given.
        console: Where to print.

    Raises:
        TableError: The table has too few rows, or, for the home `lake`, no prefix column.
    """
    rows = len(table)
    if home == "lake" and plan is None and not table.prefix_dims:
        raise TableError(
            f"{table.uri} has no prefix column to search; run: mlake shortlist CONFIG --set dims=[64], with this table "
            "in CONFIG"
        )
    check_rows(rows, goal, queries, has_stages=plan is not None)
    grid = _grid(table)
    grid.add_row("home", f"{home}, in place of the one there" if home in Funnel.homes(table) else home)
    is_held_to = plan is None or goal.recall is not None
    grid.add_row("target", f"recall {goal.target} at k={goal.k}" if is_held_to else f"none, at k={goal.k}")
    grid.add_row(
        "queries", f"{queries:,} given" if queries is not None else f"{goal.held_out_rows(rows):,} rows held out"
    )
    dims = ", ".join(map(str, table.prefix_dims if home == "lake" else table.space.ladder.dims))
    stages = "" if plan is None else " → ".join(f"{s.dims} dims {s.precision} keep {s.keep}" for s in plan.stages)
    grid.add_row("stages", stages or f"chosen from {dims} dims")
    console.print(grid, soft_wrap=True)


def print_evaluate_plan(config: EvaluateConfig, console: Console) -> None:
    """Print what would be measured: the tables of each system, or its encoder.

    Raises:
        TableNotFound: A table is missing.
        ConfigError: A system does not fit its tables.
    """
    grid = Table("system", "vectors", "rows", "dims", box=None)
    for system in config.systems:
        if system.encoder is not None:
            ladder = make_space(system.encoder).ladder
            ladder = ladder if system.rotation.kind == "none" else rotated_ladder(ladder.width)
            grid.add_row(system.name, f"{system.encoder.name}, embedded if not there", "", str(ladder))
            continue
        for dim, pair in open_pairs(config, system).items():
            sides = {pair.database.uri: pair.database, pair.query_table.uri: pair.query_table}
            for table in sides.values():
                grid.add_row(system.name, table.uri, f"{len(table):,}", str(dim or table.space.ladder))
    console.print(grid, soft_wrap=True)
    console.print(f"results: {config.folder}/metrics.json and report.html", soft_wrap=True)


def _grid(table: VectorTable) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_row("table", f"{table.uri}, version {table.dataset.version}")
    grid.add_row("rows", f"{len(table):,} in {counted(len(table.dataset.get_fragments()), 'fragment')}")
    return grid
