"""`mlake rollback TABLE`: show an earlier publication again."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from jobs.options import Flag, Storage, TableAddress, within
from pipelines.reports.console import open_console
from pipelines.storage.addresses import absolute
from pipelines.tables.erased_checks import check_none_erased
from pipelines.tables.generations import PublishRequest, rollback
from pipelines.tables.publication_log import earlier_publication, resolve_prod
from schemas.config import StorageConfig


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

    Nothing is removed. Nights go on with their work, and publish nothing until `mlake publish` does.

    Args:
        to: Number of the publication, from `mlake history`. Default: the one before the present content.
        note: A sentence for `mlake history`.
        even_if_erased: Show rows again that `mlake delete` has erased.
    """
    base = absolute(address)
    target = earlier_publication(base, storage, to)
    if not even_if_erased:
        check_none_erased(target, base, storage)
    made = rollback(base, storage, target.number, PublishRequest(note=note))
    published = resolve_prod(base, storage)
    assert published is not None
    open_console().print(
        f"publication {made.number}: `prod` of {address} is publication {made.restores} again, version "
        f"{published.state.version} of {published.uri}"
    )
    return 0
