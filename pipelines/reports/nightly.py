"""Terminal output of `mlake nightly`: the plan with its estimate, and how the night ended."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from pipelines.nightly.forecast import Forecast
from pipelines.nightly.plan import NightPlan
from schemas.config.nightly import NightlyConfig
from schemas.nights import Night
from schemas.printable import counted

_STATES = {
    "nothing": "nothing to do: `prod` is up to date",
    "published": "published",
    "unfinished": "the budget has ended; the next night goes on, and `prod` stays until all is done",
    "refused": "the audit refuses it; `prod` stays",
    "held": "all is done but the publication: `prod` was rolled back, and stays so until `mlake publish`",
    "stopped": "stopped as asked; the same command goes on",
}


def print_night_plan(config: NightlyConfig, plan: NightPlan, seen: Forecast, console: Console) -> None:
    """Print what the night would do, how long it takes, what it costs, and what its operator should know before."""
    grid = Table.grid(padding=(0, 2))
    is_new = plan.embed.table is None
    grid.add_row("table", f"{plan.uri}{' (new)' if is_new else ''}, generation {plan.generation}")
    grid.add_row("shards", f"{len(plan.new):,} new, {len(plan.changed):,} changed, {plan.unchanged:,} as they were")
    gone = "their rows are removed" if config.withdraw else "their rows stay; withdraw = true removes them"
    grid.add_row("vanished", f"{len(plan.vanished):,}{f'; {gone}' if plan.vanished else ''}")
    reused = seen.reused or 0
    of_equal = f"; about {reused:,} more are of equal content, and take over a vector" if reused else ""
    grid.add_row("rows to encode", f"about {max(0, plan.expected_rows - reused):,}{of_equal}")
    if plan.derivation is not None:
        grid.add_row("derived", str(plan.derivation))
    if plan.is_cut:
        grid.add_row("budget", f"{len(plan.tonight):,} of {counted(len(plan.embed.todo), 'shard')} tonight")
    if seen.seconds is not None:
        grid.add_row("time", f"about {seen.seconds / 60:.1f} minutes of encoding, at the pace of the last run")
        if config.price_per_hour is not None:
            grid.add_row("cost", f"about {seen.seconds / 3600 * config.price_per_hour:.2f}")
    elif plan.tonight:
        grid.add_row("time", "not known before the first run")
    if plan.is_held:
        grid.add_row("prod", "was rolled back, and stays so until `mlake publish`")
    console.print(grid, soft_wrap=True)
    for note in plan.embed.notes:
        console.print(note, soft_wrap=True)
    for warning in seen.warnings:
        console.print(f"note: {warning}", soft_wrap=True)


def night_plan_facts(plan: NightPlan, seen: Forecast) -> dict[str, object]:
    """Return the plan as JSON holds it; shards by their addresses."""
    return {
        "table": plan.uri,
        "generation": plan.generation,
        "new": [shard.name for shard in plan.new],
        "changed": [shard.name for shard in plan.changed],
        "vanished": len(plan.vanished),
        "unchanged": plan.unchanged,
        "tonight": len(plan.tonight),
        "rows": plan.expected_rows,
        "reused": seen.reused,
        "derived": 0 if plan.derivation is None else plan.derivation.rows,
        "seconds": seen.seconds,
        "is_published": plan.is_published,
        "is_held": plan.is_held,
        "notes": plan.embed.notes,
        "warnings": seen.warnings,
    }


def print_night(address: str, night: Night, console: Console) -> None:
    """Print how a night ended, its counts, and each gate."""
    counts = night.counts
    console.print(f"night {night.number} of {address}: {_STATES.get(night.state, night.state)}", soft_wrap=True)
    console.print(
        f"shards: {counts.new:,} new, {counts.changed:,} changed, {counts.vanished:,} vanished; rows: "
        f"{counts.encoded:,} encoded, {counts.reused:,} reused, "
        f"{f'{counts.derived:,} derived, ' if counts.derived else ''}{counts.rejects:,} rejected, "
        f"{f'{counts.erased:,} left out as erased, ' if counts.erased else ''}"
        f"{counts.withdrawn:,} withdrawn with their shards, {counts.rows:,} in all; {night.minutes:.1f} min",
        soft_wrap=True,
    )
    if night.audit:
        grid = Table("gate", "", "measured", "bound", "", box=None, pad_edge=False)
        for gate in night.audit:
            examples = ", ".join((*gate.examples, *gate.rows))
            said = gate.said + (f"; for example {examples}" if examples else "")
            grid.add_row(gate.gate, "ok" if gate.passed else "NO", _number(gate.measured), _number(gate.bound), said)
        console.print(grid)
    if night.state == "held":
        command = f"mlake publish {address} --generation {night.generation} --version {night.version}"
        console.print(f"the audit has passed; to show this version: {command}", soft_wrap=True)
    if night.publication is not None:
        console.print(f"publication {night.publication}: mlake prod {address}", soft_wrap=True)
    if night.freed:
        of = f", of generations {', '.join(map(str, night.retired))} and" if night.retired else " of"
        console.print(f"{night.freed:,} bytes freed{of} old versions and orphans", soft_wrap=True)


def night_line(night: Night) -> str:
    """Say in a line how a night ended: what was encoded, the publication, and what an audit refused."""
    done = f"{counted(night.counts.encoded, 'row')} encoded, {night.counts.reused:,} reused"
    failed = "; ".join(gate.verdict for gate in night.audit if not gate.passed)
    if failed:
        return f"{done}; the audit refuses it, and `prod` stays: {failed}"
    return f"{done}; {night.state}" + (f" as publication {night.publication}" if night.publication else "")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}"
