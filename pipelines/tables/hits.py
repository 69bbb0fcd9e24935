"""Hits: rows of a table as a search returns them, for every tool that reads Arrow, and for the eye.

Owns how rows are shown and handed on. Owns no search.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import pyarrow as pa

from pipelines.tables.pictures import Pictures
from schemas.columns import VECTOR
from schemas.errors import DependencyMissing
from schemas.html import grid, picture
from schemas.printable import printable

if TYPE_CHECKING:
    import pandas as pd

SCORE, QUERY = "score", "query"
_MOST_ROWS, _LONGEST = 50, 200
_WIDEST_CELL = 36


class Hits:
    """Rows that a search found, best first; or the first rows of a table.

    They are columns, as in Arrow: `hits["id"]`. Any tool that reads Arrow takes them as they are:
    `polars.DataFrame(hits)`, `duckdb.sql("SELECT * FROM hits")`, `pa.table(hits)`.

    Attributes:
        title: What they are, in a sentence.

    Example:
        >>> hits = VectorTable.open("lake/demo/glosses.lance").search("fear of closed spaces", k=3)
        >>> hits["score"], hits[0]["words"], [row["id"] for row in hits]
        >>> hits.to_pandas(), hits.to_polars(), hits.to_pylist()
        >>> hits.to_arrow().group_by("category").aggregate([("score", "max")])
    """

    def __init__(self, rows: pa.Table, title: str = "rows", *, images: str | Path | None = None) -> None:
        """Wrap rows; `search` and `head` make them.

        Args:
            rows: The rows.
            title: What they are.
            images: Local folder; text columns may hold paths of pictures below it, which a notebook then shows.

        Raises:
            InputError: There is no such folder.
        """
        self._rows, self.title, self._pictures = rows, title, Pictures(images)

    def to_arrow(self) -> pa.Table:
        """Return the rows as an Arrow table."""
        return self._rows

    def to_pandas(self) -> pd.DataFrame:
        """Return the rows as a pandas frame.

        Raises:
            DependencyMissing: pandas is not installed.
        """
        try:
            return self._rows.to_pandas()
        except ModuleNotFoundError:
            raise DependencyMissing("pandas is not installed; run: pip install pandas, or call to_arrow()") from None

    def to_polars(self) -> Any:
        """Return the rows as a polars frame.

        Raises:
            DependencyMissing: polars is not installed.
        """
        try:
            import polars as pl
        except ModuleNotFoundError:
            raise DependencyMissing("polars is not installed; run: pip install polars, or call to_arrow()") from None
        return pl.from_arrow(self._rows)

    def to_pylist(self) -> list[dict[str, Any]]:
        """Return a dict for each row."""
        return self._rows.to_pylist()  # type: ignore[no-any-return]

    def with_images(self, root: str | Path) -> Hits:
        """Return the same rows; a notebook shows the pictures that text columns name below a folder.

        Raises:
            InputError: There is no such folder.

        Example:
            >>> hits.with_images("photos/")
        """
        return Hits(self._rows, self.title, images=root)

    @property
    def column_names(self) -> list[str]:
        """Names of the columns."""
        return list(self._rows.column_names)

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return int(self._rows.num_rows)

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return self._rows.schema

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.to_pylist())

    @overload
    def __getitem__(self, key: str) -> pa.ChunkedArray: ...
    @overload
    def __getitem__(self, key: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, key: slice) -> Hits: ...
    def __getitem__(self, key: str | int | slice) -> pa.ChunkedArray | dict[str, Any] | Hits:
        """Return a column by its name, a row by its place, or some rows by a slice.

        Raises:
            KeyError: There is no such column.
            IndexError: There is no such row.
            TypeError: The key is none of these.
        """
        if isinstance(key, str):
            if self.column_names.count(key) != 1:
                raise KeyError(f"no column {key!r}; there are: {', '.join(self.column_names)}")
            return self._rows[key]
        if isinstance(key, slice):
            rows = self._rows.take(pa.array(range(self.num_rows)[key], pa.int64()))
            return Hits(rows, self.title, images=self._pictures.root)
        if isinstance(key, bool) or not hasattr(key, "__index__"):
            raise TypeError(f"hits[{key!r}]: pass the name of one column, the place of a row, or a slice")
        place = range(self.num_rows)[key]
        return self._rows.slice(place, 1).to_pylist()[0]

    def __eq__(self, other: object) -> bool:
        """Compare columns and rows; NaN equals NaN."""
        if not isinstance(other, Hits):
            return NotImplemented
        if self.schema != other.schema or len(self) != len(other):
            return False
        pairs = zip(self._rows.columns, other._rows.columns, strict=True)
        return all(a.equals(b) or repr(a.to_pylist()) == repr(b.to_pylist()) for a, b in pairs)

    __hash__ = None  # type: ignore[assignment]

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._rows.__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        """Return the title and a plain table of the first rows."""
        names = self._shown_first()
        rows = [[_cell(row[name], _WIDEST_CELL) for name in names] for row in self._first().to_pylist()]
        widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
            for cells in [names, *rows]
        ]
        more = [f"… {self.num_rows - _MOST_ROWS:,} more"] if self.num_rows > _MOST_ROWS else []
        return "\n".join([printable(self.title), *lines, *more])

    def _repr_html_(self) -> str:
        first, names = self._first(), self._shown_first()
        column = self._pictures.column_of(first)
        rows = [[self._html_cell(row[name], is_picture=name == column) for name in names] for row in first.to_pylist()]
        more = f" (the first {_MOST_ROWS} of {self.num_rows:,})" if self.num_rows > _MOST_ROWS else ""
        return grid(self.title + more, names, rows)

    def _html_cell(self, value: object, *, is_picture: bool) -> object:
        png = self._pictures.thumbnail(value) if is_picture else None
        return picture(png) if png is not None else _cell(value, _LONGEST)

    def _first(self) -> pa.Table:
        """The rows that are shown, without vectors."""
        names = [name for name in self._rows.column_names if not name.startswith(VECTOR)]
        return self._rows.slice(0, _MOST_ROWS).select(names)

    def _shown_first(self) -> list[str]:
        names = self._first().column_names
        return [*(name for name in (QUERY, SCORE) if name in names), *(n for n in names if n not in (QUERY, SCORE))]


def _cell(value: object, longest: int) -> str:
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    text = f"{value:.4f}" if isinstance(value, float) else "" if value is None else printable(str(value))
    text = text.replace("\n", " ").replace("\t", " ")
    return text if len(text) <= longest else text[: longest - 1] + "…"
