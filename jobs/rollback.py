"""`mlake rollback TABLE`: show an earlier publication again."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from jobs.options import Flag, Storage, TableAddress, within
from pipelines.reports.console import open_console
from pipelines.storage.addresses import absolute
from pipelines.tables.erasure import count_erased
from pipelines.tables.generations import PublishRequest, earlier_publication, rollback
from pipelines.tables.publication_log import generation_uri, resolve_prod
from pipelines.tables.table import VectorTable
from schemas.config import StorageConfig
from schemas.errors import TableError
from schemas.printable import counted


def main(
    address: TableAddress,
    /,
    *,
    to: Annotated[int | None, Parameter(metavar="N", validator=within(1))] = None,
    note: str = "",
    even_if_erased: Flag = False,
    storage: Storage = StorageConfig(),
) -> int:
    """Show the readers of prod an earlier publication again.

    Nothing is removed: the next night, or `mlake publish`, goes on from the newest version.

    Args:
        to: Number of the publication, from `mlake history`. Default: the one before the present content.
        note: A sentence for `mlake history`.
        even_if_erased: Show rows again that `mlake delete` has erased.
    """
    target = earlier_publication(absolute(address), storage, to)
    if target.state is not None and not even_if_erased:
        uri = generation_uri(absolute(address), target.state.generation)
        if erased := count_erased(VectorTable.open(uri, target.state.version, storage=storage)):
            raise TableError(
                f"publication {target.number} shows {counted(erased, 'row')} that `mlake delete` has erased; name a "
                "later one with --to, or give --even-if-erased to show them again"
            )
    made = rollback(absolute(address), storage, target.number, PublishRequest(note=note))
    published = resolve_prod(absolute(address), storage)
    assert published is not None
    open_console().print(
        f"publication {made.number}: `prod` of {address} is publication {made.restores} again, version "
        f"{published.state.version} of {published.uri}"
    )
    return 0
