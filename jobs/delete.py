"""`mlake delete TABLE --where …`: erase rows everywhere, and say what still keeps their bytes."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from jobs.options import DryRun, Flag, Storage, TableAddress, Text
from pipelines.nightly.erase import erase, plan_erasure
from pipelines.reports.console import open_console
from pipelines.reports.erasure import erasure_facts, is_still_shown, print_erasure
from pipelines.reports.json_lines import json_line
from schemas.config import StorageConfig


def main(
    address: TableAddress,
    /,
    *,
    where: Annotated[str, Parameter(metavar="SQL"), Text],
    hide_prod: Flag = False,
    dry_run: DryRun = False,
    as_json: Annotated[Flag, Parameter(name="--json")] = False,
    storage: Storage = StorageConfig(),
) -> int:
    """Erase rows from every generation of a table, and say when their last byte is gone.

    They leave vectors, prefix columns, indexes and shortlist tables, and no later run embeds them again, whatever
    becomes of their shards, until `mlake lift` lets them in. The command may be repeated, and then says what still
    keeps bytes of rows that were erased before.

    Args:
        where: SQL over the table's columns; rows that satisfy it are erased.
        hide_prod: Show readers of prod nothing until the next publication, where it shows such rows and the newest
            version cannot take its place, since it has others that nobody has published.
        as_json: Print one JSON object.
    """
    erasure = plan_erasure(address, where, storage) if dry_run else erase(address, where, storage, hides_prod=hide_prod)
    if as_json:
        print(json_line(erasure_facts(erasure, is_planned=dry_run)))
    else:
        print_erasure(erasure, open_console(), is_planned=dry_run)
    return 1 if is_still_shown(erasure) and not dry_run else 0
