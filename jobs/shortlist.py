"""`mlake shortlist CONFIG`: prefix columns, their indexes, and the shortlist table of a table.

The steps are in pipelines/shortlist/run.py; this job connects them with Ray and with the screen.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from cluster.actors import ActorPool
from cluster.placement import plan_pool
from cluster.session import connect
from jobs.options import ConfigFile, DryRun, Flag, Overrides, new_file
from pipelines.reports.console import open_console
from pipelines.reports.json_lines import json_line
from pipelines.reports.plots import check_plots
from pipelines.reports.progress import StepBars
from pipelines.reports.terminal import print_agreement, print_shortlist_plan
from pipelines.shortlist.agreement import Agreement, agreement
from pipelines.shortlist.lists import read_lists
from pipelines.shortlist.planning import open_lists
from pipelines.shortlist.run import Call, CallWorker, ShortlistRun, prefix_dims
from pipelines.tables.rows import check_filter
from pipelines.tables.runs import RunRecord
from pipelines.tables.table import VectorTable
from schemas.config import ShortlistConfig, check_given, load_config
from schemas.errors import TableNotFound
from schemas.journal import ShortlistSummary
from schemas.printable import counted


def main(
    config_file: ConfigFile,
    /,
    *,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    plot: Annotated[Path | None, new_file("svg", "png", "pdf")] = None,
    as_json: Annotated[Flag, Parameter(name="--json")] = False,
) -> int:
    """Add prefix columns and their indexes; list the nearest rows of every query at every dim.

    Every step looks at what is there, so that the same command resumes, and takes in new rows.

    Args:
        plot: Draw the agreement between dims into this file: SVG, PNG or PDF.
        as_json: Print what was done, and the overlap of each dim at each rank, as one JSON object.
    """
    config = load_config(ShortlistConfig, config_file, overrides or ())
    console = open_console(is_error=as_json)
    if plot:
        check_plots()
    if dry_run:
        print_shortlist_plan(config, console)
        return 0
    summary = run(config)
    built = f"indexes built: {', '.join(map(str, summary.indexed)) or 'none'}"
    console.print(f"{config.table}: prefixes cut for {counted(summary.fragments, 'fragment')}; {built}")
    report = _agreement(summary.lists, config) if summary.lists is not None else None
    if report is not None:
        console.print(f"{summary.lists}: {summary.searches} searches")
        if summary.lost_rows or summary.lost_queries:
            console.print(
                f"without a direction (all zeros, NaN or infinity), as another tool has written them: "
                f"{counted(summary.lost_rows, 'row')}, in no list; {summary.lost_queries:,} asked, and have none",
                soft_wrap=True,
            )
        print_agreement(report, console)
        if plot:
            report.plot(plot)
    if as_json:
        overlap = {"queries": report.queries, "overlap": report.to_table().to_pylist()} if report is not None else {}
        print(json_line(asdict(summary) | overlap))
    return 0


def run(config: ShortlistConfig) -> ShortlistSummary:
    """Bring prefixes, indexes and lists up to date.

    Raises:
        DimError: The space must not be cut to one of the dims.
        RunError: Some work failed three times; everything else is kept, and the same command resumes.

    Example:
        >>> shortlist(load_config(ShortlistConfig, "jobs/configs/shortlist.toml"))  # doctest: +SKIP
    """
    check_given(ShortlistConfig, config=config)
    table = VectorTable.open(config.table, storage=config.storage)
    dims = prefix_dims(table, config)
    check_filter(table.dataset, config.lists.where if config.lists else None, table.uri)
    with connect(), StepBars() as bars, RunRecord(table, "shortlist", config) as record:
        size = replace(plan_pool(config.cluster), in_flight=1, feeders=0)
        shortlist = ShortlistRun(config, table, dims, record, bars)
        with ActorPool[Call, Any](partial(CallWorker, size.threads), size) as pool:
            shortlist.run(pool)
    return shortlist.summary


def _agreement(uri: str, config: ShortlistConfig) -> Agreement:
    lists = open_lists(uri, config.storage)
    if lists is None:
        raise TableNotFound(f"no lists at {uri}")
    return agreement(*read_lists(lists))
