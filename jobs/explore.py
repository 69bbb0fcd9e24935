"""`mlake explore TABLE`: a local page to search a table, with sliders for dims and candidates."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from jobs.options import Storage, TableAddress, Text, Trust, within
from pipelines.explore.explorer import Explorer
from pipelines.explore.server import serve
from pipelines.reports.console import open_console
from pipelines.reports.terminal import waiting
from pipelines.tables.table import VectorTable
from schemas.config import StorageConfig, TrustConfig
from schemas.errors import ConfigError

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def main(
    address: TableAddress,
    /,
    *,
    images: Annotated[str | None, Parameter(metavar="FOLDER"), Text] = None,
    host: Annotated[str, Text] = "127.0.0.1",
    port: Annotated[int, Parameter(validator=within(0, 65_535))] = 8642,
    memory_gb: Annotated[float, Parameter(validator=within(0.001, 10_000))] = 2.0,
    trust: Trust = TrustConfig(),
    storage: Storage = StorageConfig(),
) -> int:
    """Explore a table on a local page: ask it, and move sliders for dims and candidates.

    Args:
        images: Folder of pictures that text columns of the table name by their path.
        host: Address to listen on; only this machine can reach the default.
        port: Port to listen on; 0 takes a free one.
        memory_gb: Gigabytes for vectors; of a larger table, the sliders speak of a random sample.
    """
    console = open_console()
    table = VectorTable.open(address, storage=storage, trust=trust)
    with waiting(console, f"reading the vectors of {address}", ""):
        explorer = Explorer(table, max_bytes=int(memory_gb * 1e9), images=images)
    if explorer.search.is_sample:
        fit = f"{explorer.search.rows:,} of {explorer.search.rows_in_table:,} rows"
        console.print(f"note: {fit} fit in {memory_gb:g} GB, chosen at random; for more, raise --memory-gb")
    if host not in _LOOPBACK:
        console.print(f"note: everybody who can reach {host} can read this table")

    def ready(page: str) -> None:
        console.print(f"open {page}   (Ctrl-C ends it)")

    try:
        serve(explorer, host=host, port=port, on_ready=ready)
    except KeyboardInterrupt:
        console.print("closed")
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; choose another --port, or 0 for any"
        ) from None
    return 0
