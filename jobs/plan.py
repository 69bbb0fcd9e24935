"""`mlake plan CONFIG`: what an embed job needs of a fleet, from unit costs that a pilot measures here."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from jobs.options import ConfigFile, Flag, Overrides, within
from pipelines.embedding.plan import make_plan
from pipelines.embedding.sizing import Fleet, measure, size
from pipelines.reports.console import open_console
from pipelines.reports.json_lines import json_line
from pipelines.reports.sizing import print_sizing
from schemas.config import EmbedConfig, load_config
from schemas.config.bounds import MAX_ACTORS, MAX_COUNT, MAX_K

_Machines = Parameter(validator=within(1, MAX_ACTORS))


def main(
    config_file: ConfigFile,
    /,
    *,
    overrides: Overrides = None,
    machines: Annotated[int, _Machines] = 1,
    cpus: Annotated[int | None, _Machines] = None,
    gpus: Annotated[int, Parameter(validator=within(0, MAX_ACTORS))] = 0,
    price: Annotated[float | None, Parameter(validator=within(0, MAX_COUNT))] = None,
    rows_per_s: Annotated[float | None, Parameter(validator=within(0, MAX_COUNT, is_open=True))] = None,
    pilot_rows: Annotated[int, Parameter(validator=within(1, MAX_K))] = 512,
    as_json: Annotated[Flag, Parameter(name="--json")] = False,
) -> int:
    """Say what an embed job needs of a fleet: time, cores, memory, network, storage and money.

    Some rows of the shard of median size are prepared and encoded on this machine, and nothing is written. The rest is
    arithmetic: rates grow with cores and machines, which is the best that a fleet can do.

    Args:
        machines: Machines of the fleet.
        cpus: CPU cores of each. Default: as many as this machine has.
        gpus: GPUs of each.
        price: Price of one machine for an hour, in any currency.
        rows_per_s: Rows that one GPU or, without GPUs, one machine encodes in a second, where you know it.
        pilot_rows: Rows to encode here; after 20 seconds fewer are enough.
        as_json: Print one JSON object.
    """
    config = load_config(EmbedConfig, config_file, overrides or ())
    plan, console = make_plan(config), open_console()
    if not plan.todo:
        if as_json:
            print(json_line({"table": config.table, "shards": 0, "rows": 0}))
        else:
            console.print(f"nothing to do: {config.table} holds all shards")
        return 0
    fleet = Fleet(machines, cpus or os.cpu_count() or 1, gpus, price, rows_per_s)
    costs = measure(config, plan, pilot_rows)
    sizing = size(config, plan, costs, fleet)
    if as_json:
        facts = {"table": config.table, "shards": len(plan.todo), **asdict(sizing)}
        print(json_line(facts | {"fleet": asdict(fleet), "measured": asdict(costs)}))
    else:
        print_sizing(len(plan.todo), costs, fleet, sizing, console)
    return 0
