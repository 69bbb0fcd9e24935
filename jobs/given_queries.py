"""Queries as a command line gives them: words, an image file, the lines of stdin, or those of a file."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

from pipelines.reports.console import open_console
from schemas.errors import ConfigError, InputError
from schemas.records import IMAGE_SUFFIXES


def queries_of(given: str) -> Iterator[tuple[int, str]]:
    """Yield each query with its line of stdin, from 1; 0 for the one of the command line."""
    if given != "-":
        yield 0, given
        return
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # so that a line that cannot be decoded is refused by itself
    for number, line in enumerate(sys.stdin, 1):
        if stripped := line.strip():
            yield number, stripped


def read_query(query: str) -> str | bytes:
    """Return the query, or the bytes of the image file that it names."""
    path = Path(query)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return query
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        # One word with a slash is a path, mistyped or not; other words may well end in .png.
        is_path = "/" in query and len(query.split()) == 1
        if is_path or isinstance(error, PermissionError):
            raise InputError(f"{query} looks like an image file but cannot be read: {_reason(error)}") from None
    open_console(is_error=True).print(f"no file {query} is here: searching for these words", soft_wrap=True)
    return query


def _reason(error: OSError | ValueError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def lines_of(path: str) -> list[str]:
    """Return the lines of a file of queries, without those that are empty.

    Raises:
        ConfigError: The file cannot be read, or has fewer than two lines.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise ConfigError(f"--queries {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--queries {path}: is not UTF-8 text; write one query a line, in UTF-8") from None
    if len(lines) < 2:
        raise ConfigError(f"--queries {path}: a funnel is tuned on one half and measured on the other; give more lines")
    return lines
