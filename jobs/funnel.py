"""`mlake funnel TABLE`: tune a funnel to a recall target at the lowest measured cost; store it with the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Literal

from cyclopts import Parameter
from rich import text

from jobs.given_queries import lines_of
from jobs.options import CountOfRows, DryRun, Flag, Storage, TableAddress, Text, Trust, within
from pipelines.funnel import Funnel, Goal
from pipelines.funnel.plan import parse_stages, plan_of_stages
from pipelines.reports.console import open_console, warnings_as_notes
from pipelines.reports.json_lines import stored_line
from pipelines.reports.plans import print_funnel_plan
from pipelines.tables.runs import RunRecord
from pipelines.tables.table import VectorTable
from schemas.config import StorageConfig, TrustConfig
from schemas.config.bounds import MAX_COUNT
from schemas.errors import ConfigError, FunnelWarning
from schemas.plans import FunnelStage, Home

_K = 10


@Parameter(name="*")
@dataclass(frozen=True)
class Options:
    """What a funnel is tuned for.

    Attributes:
        recall: Recall target; the 95 % interval of the measured recall must lie above it. Default: 0.95. Stages from
            --stages are held to it only if it is given; without it they are stored with the recall that they have.
        k: Results per query. Default: 10, or as many as the last of --stages keeps.
        home: Where the funnel keeps its data. memory: codes and vectors in RAM; codes: only codes in RAM, vectors are
            read; lake: everything is read.
        bytes_per_vector: Largest number of bytes of RAM that one vector may take. Default: no limit.
        stages: Measure these stages instead of choosing some, as dims:keep or dims:precision:keep, separated by commas:
            64:500,256:10 or 256:pq4x64:200,256:int8:20,256:10.
        objective: Tune for one query at a time (latency) or for many in one call (throughput).
        held_out: Number of the table's rows to use as queries, at most a fifth of them. Default: as many as the
            interval needs.
        queries: Use the lines of this file as queries, instead of rows of the table.
        card: Print the stored recall card and tune nothing.
        as_json: Print plan and card as one JSON object.
    """

    recall: Annotated[float | None, Parameter(validator=within(0, 1, is_open=True))] = None
    k: Annotated[int | None, CountOfRows] = None
    home: Home = "memory"
    bytes_per_vector: Annotated[int | None, Parameter(name="--bytes", validator=within(1, 1 << 20))] = None
    stages: Annotated[str | None, Parameter(metavar="DIMS[:PRECISION]:KEEP,...")] = None
    objective: Literal["latency", "throughput"] = "latency"
    held_out: Annotated[int | None, Parameter(metavar="N", validator=within(2, MAX_COUNT))] = None
    queries: Annotated[str | None, Parameter(metavar="FILE"), Text] = None
    card: Flag = False
    as_json: Annotated[Flag, Parameter(name="--json")] = False


def main(
    address: TableAddress,
    /,
    *,
    options: Options = Options(),
    dry_run: DryRun = False,
    trust: Trust = TrustConfig(),
    storage: Storage = StorageConfig(),
) -> int:
    """Tune a funnel to a recall target at the lowest measured cost.

    The funnel and its recall card are stored with the table, where `mlake search` finds them.
    """
    table = VectorTable.open(address, storage=storage, trust=trust)
    console = open_console()
    if options.card:
        tuned = Funnel.stored(table, options.home)
    else:
        queries = None if options.queries is None else lines_of(options.queries)
        stages = None if options.stages is None else parse_stages(options.stages)
        _check_together(options, stages)
        goal = Goal(
            recall=options.recall,
            k=options.k or _K,
            objective=options.objective,
            queries=options.held_out,
            bytes_per_vector=options.bytes_per_vector,
        )
        if dry_run:
            plan = None if stages is None else plan_of_stages(stages, options.home, table)
            goal = goal if plan is None else replace(goal, k=plan.k)
            print_funnel_plan(table, options.home, goal, None if queries is None else len(queries), plan, console)
            return 0
        with RunRecord(table, "funnel", asdict(options)), warnings_as_notes(FunnelWarning):
            funnel = Funnel.build(table, home=options.home, queries=queries, goal=goal, stages=stages)
        tuned = Funnel.stored(funnel.table, options.home)
    if options.as_json:
        print(stored_line(tuned))
        return 0
    shown = " → ".join(f"{s.dims} dims {s.precision} keep {s.keep}" for s in tuned.plan.stages)
    console.print(text.Text.assemble((shown, "bold"), f", home: {tuned.plan.home}"), soft_wrap=True)
    console.print(str(tuned.card), soft_wrap=True)
    if options.card and tuned.slower:
        console.print(f"note: {tuned.slower}", soft_wrap=True)
    return 0


def _check_together(options: Options, stages: Sequence[FunnelStage] | None) -> None:
    """Refuse options of which one would be ignored."""
    if stages and options.k is not None and options.k != stages[-1].keep:
        raise ConfigError(
            f"--k {options.k}: the last of --stages keeps {stages[-1].keep}; let it keep {options.k}, or leave --k out"
        )
    if options.queries is not None and options.held_out is not None:
        raise ConfigError("--queries and --held-out both say where queries come from; give one of them")
