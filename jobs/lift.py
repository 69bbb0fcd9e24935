"""`mlake lift TABLE`: let samples in again that `mlake delete` has erased."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from jobs.options import Flag, Storage, TableAddress
from pipelines.reports.console import open_console
from pipelines.reports.json_lines import json_line
from pipelines.storage.addresses import absolute
from pipelines.tables.erased import lift, remembered
from schemas.config import StorageConfig
from schemas.printable import counted


def main(
    address: TableAddress,
    /,
    *,
    ids: Annotated[list[str] | None, Parameter(name="--id", metavar="ID")] = None,
    shards: Annotated[list[str] | None, Parameter(name="--shard", metavar="ADDRESS")] = None,
    as_json: Annotated[Flag, Parameter(name="--json")] = False,
    storage: Storage = StorageConfig(),
) -> int:
    """Let erased samples in again, or count them by file.

    Nothing is embedded now: a sample comes back when its shard is read the next time, since it has changed, or for a
    new generation. Without --id and --shard the erased samples are counted, and nothing is changed.

    Args:
        ids: Id of a sample, as its row had it; of a document where rows are passages. May be repeated.
        shards: Address of a shard, all of whose samples are meant. May be repeated.
        as_json: Print one JSON object.
    """
    known = remembered(address, storage)
    names = [name if name in known else absolute(name) for name in shards or ()]
    lifted = lift(address, storage, ids or (), names) if ids or shards else 0
    left = remembered(address, storage) if lifted else known
    if as_json:
        print(json_line({"lifted": lifted, "erased": left}))
        return 0
    console = open_console()
    if ids or shards:
        console.print(f"{counted(lifted, 'erased sample')} of {address} may come back", soft_wrap=True, highlight=False)
    console.print(
        f"{counted(sum(left.values()), 'erased sample')} of {address} stay out", soft_wrap=True, highlight=False
    )
    for file, count in sorted(left.items()):
        console.print(
            f"  {count:>8,}  {file or 'of files that are not known any more'}", soft_wrap=True, highlight=False
        )
    return 0
