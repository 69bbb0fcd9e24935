"""The one way to write a local file: readers see it whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a new path beside `path` to write to, and move it to `path` when the block ends without an error.

    The folder is created if need be. The bytes are on the disk before the file takes its name. Several processes may
    write the same path at once: the last one wins, and each file is whole. After an error nothing is left behind.

    Example:
        >>> with atomic_path(Path("out/report.html")) as unfinished:  # doctest: +SKIP
        ...     unfinished.write_text(html)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.unfinished")
    try:
        yield unfinished
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
