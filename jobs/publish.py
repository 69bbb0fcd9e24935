"""`mlake publish TABLE`: make a version what readers of `prod` see."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from jobs.options import Flag, Storage, TableAddress, within
from pipelines.reports.console import open_console
from pipelines.storage.addresses import absolute
from pipelines.tables.generations import PublishRequest, describe, publish
from pipelines.tables.night_log import refused_audit
from pipelines.tables.publication_log import generation_uri, resolve_prod
from pipelines.tables.runs import RunRecord
from pipelines.tables.table import VectorTable
from schemas.config import StorageConfig
from schemas.errors import AuditFailed
from schemas.publications import MAX_GENERATION, GateResult


def main(
    address: TableAddress,
    /,
    *,
    generation: Annotated[int | None, Parameter(metavar="N", validator=within(1, MAX_GENERATION))] = None,
    version: Annotated[int | None, Parameter(metavar="V", validator=within(1))] = None,
    note: str = "",
    force: Flag = False,
    storage: Storage = StorageConfig(),
) -> int:
    """Publish a version of a table to the readers of prod.

    A version that the audit of a night has refused is published only with --force.

    Args:
        generation: Generation to publish. Default: the published one, or the first.
        version: Its version. Default: the newest.
        note: A sentence for `mlake history`.
        force: Publish what an audit has refused; the history says so.
    """
    console = open_console()
    base = absolute(address)
    if generation is None:
        published = resolve_prod(base, storage)
        generation = 1 if published is None else published.state.generation
    table = VectorTable.open(generation_uri(base, generation), version, storage)
    refused = refused_audit(base, generation, table.dataset.version, storage)
    if refused and not force:
        raise AuditFailed(
            f"the audit has refused version {table.dataset.version} of {table.uri}: {_verdicts(refused)}; look at it "
            f"with `mlake search`, and publish it all the same with: mlake publish {address} --generation {generation} "
            f"--version {table.dataset.version} --force"
        )
    with RunRecord(table, "publish", {"version": table.dataset.version, "force": force, "note": note}) as record:
        request = PublishRequest(run=record.run, audit=refused, is_forced=bool(refused), note=note)
        made = publish(base, describe(table, generation), storage, request)
        record.summary["publication"] = made.number
    console.print(f"publication {made.number}: `prod` of {base} is version {table.dataset.version} of {table.uri}")
    return 0


def _verdicts(audit: tuple[GateResult, ...]) -> str:
    return "; ".join(gate.verdict for gate in audit if not gate.passed)
