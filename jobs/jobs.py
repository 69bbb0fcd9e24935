"""`mlake jobs list | logs | stop`: the jobs of a cluster."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.table import Table

from cluster.submission import JobClient, exit_code
from jobs.options import ClusterAddress, Flag
from pipelines.reports.console import open_console
from pipelines.reports.json_lines import json_line
from schemas.errors import ConfigError


def main(
    action: Literal["list", "logs", "stop"],
    job: Annotated[str | None, Parameter(metavar="ID")] = None,
    /,
    *,
    address: ClusterAddress,
    as_json: Annotated[Flag, Parameter(name="--json")] = False,
) -> int:
    """List the jobs of a cluster, print what one has printed, or stop one.

    A job that has ended gives its exit code to `logs`; one that runs is followed until it ends.

    Args:
        action: list, logs or stop.
        job: Id of the job, for logs and stop.
        as_json: Print one JSON object for each job listed.
    """
    client, console = JobClient(address), open_console()
    if action == "list":
        _list(client, as_json=as_json)
        return 0
    if job is None:
        raise ConfigError(f"mlake jobs {action}: name the job; list them: mlake jobs list --address {address}")
    if action == "logs":
        return client.follow(job, lambda text: print(text, end="", flush=True))
    was_running = client.stop(job)
    console.print(f"job {job} {'is asked to stop; what it finished is kept' if was_running else 'has ended before'}")
    return 0


def _list(client: JobClient, *, as_json: bool) -> None:
    rows = []
    for job in client.jobs():
        started = dt.datetime.fromtimestamp((job.start_time or 0) / 1000, dt.UTC)
        ended = job.end_time is not None
        rows.append(
            {
                "id": job.submission_id,
                "verb": (job.metadata or {}).get("verb", ""),
                "state": str(job.status.value).lower(),
                "exit": exit_code(job) if ended else None,
                "started": started.isoformat(timespec="seconds"),
                "command": job.entrypoint,
            }
        )
    if as_json:
        for row in rows:
            print(json_line(row))
        return
    table = Table("job", "verb", "state", "exit", "started, UTC", box=None, pad_edge=False)
    for row in rows:
        code = "" if row["exit"] is None else str(row["exit"])
        table.add_row(str(row["id"]), str(row["verb"]), str(row["state"]), code, str(row["started"])[:16])
    open_console().print(table if rows else f"no job was submitted to {client.address}")
