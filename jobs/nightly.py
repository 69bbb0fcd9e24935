"""`mlake nightly CONFIG`: the least work, proven, published in one step. A scheduler may start it at any hour.

lock      one night of a table at a time; one that is not seen for 15 minutes is taken for dead and fenced off
plan      compare the listing with the ledger; with nothing to do, the night ends here
embed     the new and changed shards, by the embed job
derive    prefix columns, indexes and funnels are brought up to date
audit     every gate is measured
publish   if all pass; else `prod` stays, and so it does after a rollback
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

from cyclopts import Parameter

from jobs.options import ConfigFile, DryRun, Flag, Log, Overrides
from pipelines.nightly.forecast import forecast
from pipelines.nightly.hooks import run_hooks
from pipelines.nightly.plan import plan_night
from pipelines.nightly.run import NightRun
from pipelines.reports.console import open_console
from pipelines.reports.json_lines import json_line, stored_line
from pipelines.reports.nightly import night_plan_facts, print_night, print_night_plan
from pipelines.tables.night_log import NightLock
from schemas.config import EmbedConfig, load_config
from schemas.config.nightly import NightlyConfig
from schemas.errors import AuditFailed
from schemas.journal import EmbedSummary
from schemas.nights import Night


def main(
    config_file: ConfigFile,
    /,
    *,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    as_json: Annotated[Flag, Parameter(name="--json")] = False,
    log: Log = "auto",
) -> int:
    """Embed what is new, bring what is derived up to date, audit the result, and publish it.

    The config is that of an embed job; every setting of a night has a default. If a gate of the audit fails, prod stays
    as it was and the exit code is 1.

    Args:
        as_json: Print the night's record with its gates, or with --dry-run its plan, as one JSON object.
    """
    config = load_config(NightlyConfig, config_file, overrides or ())
    console = open_console(is_error=as_json or log == "json")
    if dry_run:
        plan = plan_night(config)
        seen = forecast(config, plan)
        if as_json:
            print(json_line(night_plan_facts(plan, seen)))
        else:
            print_night_plan(config, plan, seen, console)
        return 0
    night = run(config, log=log, say=console.print)
    print_night(config.table, night, console)
    if as_json:
        print(stored_line(night))
    if night.state == "refused":
        failed = "; ".join(gate.verdict for gate in night.audit if not gate.passed)
        raise AuditFailed(
            f"the audit refuses version {night.version} of generation {night.generation}, and `prod` stays: {failed}; "
            f"look at it with `mlake search`; repair the shards or the model, change the setting in {config_file} if "
            f"the bound is too strict, or publish it all the same: mlake publish {config.table} "
            f"--generation {night.generation} --version {night.version} --force"
        )
    return 130 if night.state == "stopped" else 0


def run(config: NightlyConfig, *, log: Log = "screen", say: Callable[[str], object] | None = None) -> Night:
    """Run one night, and return its record.

    Args:
        config: The night.
        log: How the embed job shows its progress.
        say: Is told in a sentence what was brought up to date; default: it is printed.

    Raises:
        NightRunning: Another night is at work on the table.
        RunExpired: This night was suspended, and another has taken over.
        LakeError: As the embed job.
    """
    lock, say = NightLock(config.table, config.storage), say or open_console(is_error=log == "json").print
    try:
        with lock:
            NightRun(config, lock, partial(_embed, log=log), say).run()
    finally:
        run_hooks(config.hooks, lock.night)
    return lock.night


def _embed(config: EmbedConfig, log: Log) -> EmbedSummary:
    from jobs.embed import run as embed  # here, since it loads Ray and torch

    return embed(config, log=log)
