"""`mlake prod TABLE`: print what is published, for people and for other tools."""

from __future__ import annotations

import json
from typing import Annotated

from cyclopts import Parameter

from jobs.options import Flag, Storage, TableAddress
from pipelines.reports.console import open_console
from pipelines.reports.json_lines import json_line
from pipelines.storage.addresses import absolute
from pipelines.tables.fencing import store_now
from pipelines.tables.opening import open_dataset
from pipelines.tables.publication_log import resolve_prod
from schemas.config import StorageConfig
from schemas.errors import TableNotFound
from schemas.printable import counted
from schemas.publications import PROD


def main(
    address: TableAddress,
    /,
    *,
    as_json: Annotated[Flag, Parameter(name="--json")] = False,
    metrics: Flag = False,
    storage: Storage = StorageConfig(),
) -> int:
    """Print the address and version of what is published.

    Other tools open it by these two, or by the Lance tag `prod` at that address.

    Args:
        as_json: Print one JSON object.
        metrics: Print age, number and rows as Prometheus metrics, for the textfile collector.
    """
    base = absolute(address)
    published = resolve_prod(base, storage)
    if published is None:
        open_dataset(base, storage)
        raise TableNotFound(f"nothing is published of {base}; run: mlake publish {address}")
    record, state = published.publication, published.state
    if as_json:
        found = {"uri": published.uri, "version": state.version, "tag": PROD, "publication": record.number}
        print(json_line(found | {"at": record.at.isoformat(), "rows": state.rows, "space": state.space}))
        return 0
    age = store_now(base, storage) - record.at
    if metrics:
        label = json.dumps(base)
        print(f"lake_prod_age_seconds{{table={label}}} {age.total_seconds():.0f}")
        print(f"lake_prod_publication{{table={label}}} {record.number}")
        print(f"lake_prod_rows{{table={label}}} {state.rows}")
        return 0
    console = open_console()
    console.print(f"{published.uri} version {state.version}", soft_wrap=True, highlight=False)
    console.print(
        f"publication {record.number} of {record.at:%Y-%m-%d %H:%M} UTC, {age.total_seconds() / 3600:.1f} h ago; "
        f"{counted(state.rows, 'row')} of {counted(state.shards, 'shard')}; {state.encoder}, space {state.space}",
        highlight=False,
    )
    return 0
