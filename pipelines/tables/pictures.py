"""Find the pictures of a table's rows, and make thumbnails of them.

A picture is the bytes in a binary column, or a file below a folder that the caller names; a path in a table is never
followed out of that folder, since a table may come from a stranger.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from schemas.config import LimitsConfig, check_path
from schemas.errors import InputError
from schemas.records import IMAGE_SUFFIXES

_SIDE = 256
LOOKED_AT = 20


class Pictures:
    """Thumbnails of values: bytes of an image, or a path below a folder.

    Attributes:
        root: The folder; None where paths are not followed.
    """

    def __init__(self, root: str | Path | None = None) -> None:
        """Follow paths below a folder.

        Args:
            root: A local folder; text may hold paths of pictures below it, relative to it or absolute.

        Raises:
            InputError: There is no such folder.
            ConfigError: `root` is no path.
        """
        if root is not None:
            check_path(images=root)
        self.root = None if root is None else Path(root).resolve()
        if self.root is not None and not self.root.is_dir():
            raise InputError(f"images {root}: there is no such folder; name the folder that holds the pictures")

    def thumbnail(self, value: object) -> bytes | None:
        """Return a small PNG; None where the value is no picture."""
        data = self._bytes(value)
        return None if data is None else _thumbnail(data)

    def column_of(self, rows: pa.Table) -> str | None:
        """Return the first column that holds a picture in one of the first rows; None where none does."""
        names: list[str] = [field.name for field in rows.schema if self._may_hold(field.type)]
        for row in rows.select(names).slice(0, LOOKED_AT).to_pylist():
            for name in names:
                if self.thumbnail(row[name]) is not None:
                    return name
        return None

    def _may_hold(self, kind: pa.DataType) -> bool:
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or (self.root is not None and is_text)

    def _bytes(self, value: object) -> bytes | None:
        if isinstance(value, bytes):
            return value or None
        if self.root is None or not isinstance(value, str) or "\0" in value:
            return None
        try:
            path = (self.root / value).resolve()
            is_ours = path.is_relative_to(self.root) and path.suffix.lower() in IMAGE_SUFFIXES
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
