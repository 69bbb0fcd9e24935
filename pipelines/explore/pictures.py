"""Find the pictures of a table's rows, and make thumbnails of them.

A picture is the bytes in a binary column, or a file below a folder that the caller names; a path in a table is never
followed out of that folder, since a table may come from a stranger.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.tables.rows import read_rows
from pipelines.tables.table import VectorTable
from schemas.config import LimitsConfig
from schemas.errors import InputError
from schemas.records import IMAGE_SUFFIXES

_SIDE = 256
_LOOKED_AT = 20


class Pictures:
    """The pictures of one table.

    Attributes:
        column: The column that holds them, or None.
    """

    def __init__(self, table: VectorTable, root: str | None = None) -> None:
        """Look for a column of pictures.

        Args:
            table: The table.
            root: A local folder; text columns may hold paths of pictures below it, relative to it or absolute.

        Raises:
            InputError: There is no such folder.
        """
        self._table, self._root = table, None if root is None else Path(root).resolve()
        if self._root is not None and not self._root.is_dir():
            raise InputError(f"--images {root}: there is no such folder; name the folder that holds the pictures")
        self.column = self._find_column()

    def thumbnail(self, row: int) -> bytes | None:
        """Return a small PNG of a row's picture; None if it has none that can be shown."""
        if self.column is None:
            return None
        found = read_rows(self._table.dataset, np.array([row]), [self.column])
        data = self._bytes(found[self.column][0].as_py()) if found.num_rows else None
        return None if data is None else _thumbnail(data)

    def _find_column(self) -> str | None:
        kept = self._table.kept
        names: list[str] = [f.name for f in kept if pa.types.is_binary(f.type) or pa.types.is_large_binary(f.type)]
        if self._root is not None:
            names += [f.name for f in [*kept, pa.field("id", pa.string())] if pa.types.is_string(f.type)]
        if not names:
            return None
        for row in self._table.dataset.scanner(columns=names, limit=_LOOKED_AT).to_table().to_pylist():
            for name in names:
                if (data := self._bytes(row[name])) is not None and _thumbnail(data) is not None:
                    return name
        return None

    def _bytes(self, value: bytes | str | None) -> bytes | None:
        if isinstance(value, bytes) or value is None:
            return value or None
        if self._root is None or "\0" in value:
            return None
        try:
            path = (self._root / value).resolve()
            is_ours = path.is_relative_to(self._root) and path.suffix.lower() in IMAGE_SUFFIXES
            return path.read_bytes() if is_ours and path.is_file() else None
        except OSError:
            return None


def _thumbnail(data: bytes) -> bytes | None:
    from pipelines.encoders.image_preprocessing import thumbnail  # here, since it loads torch
    from pipelines.encoders.protocol import BadSample

    try:
        return thumbnail(data, _SIDE, LimitsConfig().max_pixels)
    except BadSample:
        return None
