"""Terminal output of `mlake plan`."""

from __future__ import annotations

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from pipelines.embedding.sizing import Fleet, Sizing, UnitCosts
from schemas.printable import counted


def print_sizing(shards: int, costs: UnitCosts, fleet: Fleet, sizing: Sizing, console: Console) -> None:
    """Print what was measured, and what the fleet needs."""
    each = counted(fleet.cpus, "core") + (f" and {counted(fleet.gpus, 'GPU')}" if fleet.gpus else "")
    grid = Table.grid(padding=(0, 2))
    grid.add_row(
        "work", f"{counted(shards, 'shard')}, about {sizing.rows:,} rows, {decimal(sizing.read_bytes)} to read"
    )
    grid.add_row("fleet", f"{counted(fleet.machines, 'machine')} of {each}: {counted(sizing.actors, 'encoder actor')}")
    grid.add_row("time", f"{_time(sizing.seconds)}, at {sizing.rows_per_s:,.0f} rows/s; bound by {sizing.bound_by}")
    if sizing.cores_per_gpu is not None:
        grid.add_row("cores", f"{sizing.cores_per_gpu:.1f} keep one GPU busy")
    grid.add_row("memory", f"{decimal(sizing.memory_bytes)} for each actor")
    grid.add_row("network", f"{decimal(round(sizing.network_bytes_per_s))}/s from the shards' store")
    grid.add_row("table", f"at most {decimal(sizing.stored_bytes)}")
    if sizing.cost is not None:
        grid.add_row("cost", f"{sizing.cost:,.2f}")
    on = f"{counted(costs.cores, 'core')} of this CPU" if costs.device == "cpu" else f"a {costs.device} of this machine"
    grid.add_row(
        "measured",
        f"{counted(costs.rows, 'row')} of one shard on {on}: {1000 * costs.encode_s:.3g} ms to encode one of "
        f"{costs.units:.0f} units, {1000 * costs.prepare_s:.3g} ms of a core to prepare it",
    )
    console.print(grid, soft_wrap=True)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
