"""`mlake search TABLE "words"`: the nearest rows to words, to an image file, or to each line of stdin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import pyarrow as pa
from cyclopts import Group, Parameter, Token
from cyclopts.validators import LimitedChoice

from jobs.given_queries import queries_of, read_query
from jobs.options import CountOfRows, Flag, OneDim, Storage, TableAddress, Text, Trust, within
from pipelines.funnel import Funnel
from pipelines.reports.console import answers_grid, open_console, print_error, warnings_as_notes
from pipelines.reports.json_lines import json_line
from pipelines.tables.queries import check_search
from pipelines.tables.table import VectorTable
from schemas.config import StorageConfig, TrustConfig
from schemas.errors import FunnelWarning, InputError, RowsLeftOut, RunError
from schemas.printable import counted

_Search = Callable[[str | bytes], pa.Table]
_ONE_OF = Group("Ways to search", help="At most one of these.", validator=LimitedChoice())


def _split(_: object, tokens: Sequence[Token]) -> list[str]:
    names = [name.strip() for token in tokens for name in token.value.split(",")]
    if "" in names:
        raise ValueError("a name is empty; write them as id,text")
    return names


@Parameter(name="*")
@dataclass(frozen=True)
class Options:
    """What to return for a query, and how to search.

    Attributes:
        k: Rows per query.
        where: Search only the rows that satisfy this SQL, for example "shard = 3".
        columns: Columns to print, separated by spaces or commas. Default: the id and the kept columns.
        dims: Compare only this many dims; scores are cosines at these.
        exact: Compare every row at full width, even if there is a funnel.
        recall: Recall to aim for, out of those on the funnel's card.
        as_json: Print one JSON object per row found.
    """

    k: Annotated[int, CountOfRows] = 10
    where: Annotated[str | None, Parameter(metavar="SQL"), Text] = None
    columns: Annotated[list[str] | None, Parameter(metavar="NAME...", consume_multiple=True, converter=_split)] = None
    dims: Annotated[int | None, Parameter(group=_ONE_OF), OneDim] = None
    exact: Annotated[Flag, Parameter(group=_ONE_OF)] = False
    recall: Annotated[float | None, Parameter(group=_ONE_OF, validator=within(0, 1, is_open=True))] = None
    as_json: Annotated[Flag, Parameter(name="--json")] = False


def main(
    address: TableAddress,
    query: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    options: Options = Options(),
    trust: Trust = TrustConfig(),
    storage: Storage = StorageConfig(),
) -> int:
    """Search a table by words, by an image, or by each line of stdin.

    Args:
        query: Words, an image file, or - for one query per line of stdin.
    """
    console = open_console()
    table = VectorTable.open(address, storage=storage, trust=trust)
    check_search(table.dataset, table.uri, options.k, options.where, options.columns)
    search, refused = _searcher(table, options, is_one=query != "-"), list[int]()
    with warnings_as_notes(FunnelWarning, RowsLeftOut):
        for line, asked in queries_of(query):
            try:
                rows = search(read_query(asked)).to_pylist()
            except InputError as error:
                if not line:
                    raise
                print_error(f"line {line}: {error}")
                refused.append(line)
                continue
            if options.as_json:
                for row in rows:
                    print(json_line({"query": asked, **row}), flush=True)
            else:
                console.print(answers_grid(asked, rows) if rows else f"{asked}: nothing found")
    if refused:
        raise RunError(
            f"not searched: {counted(len(refused), 'line')}, the first is line {refused[0]}; all others were"
        )
    return 0


def _searcher(table: VectorTable, options: Options, *, is_one: bool) -> _Search:
    """Return the search to use: exact where asked for, else the table's funnel; in RAM only if many queries come."""
    homes = Funnel.homes(table)
    # A funnel in RAM reads the whole table before its first answer.
    home = homes[-1 if is_one else 0] if homes else None
    is_worth_it = home == "lake" or not is_one or options.recall is not None
    k, where, columns = options.k, options.where, options.columns
    if options.dims or options.exact or home is None or not is_worth_it:
        return lambda query: table.search(query, k, dim=options.dims, where=where, columns=columns)
    funnel = Funnel.open(table, home=home)
    return lambda query: funnel.search(query, k, where, recall=options.recall, columns=columns)
