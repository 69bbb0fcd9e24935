"""Addresses of tables and of their companions."""

from __future__ import annotations

from pathlib import Path


def absolute(uri: str) -> str:
    """Return a table address that means the same in every process: local paths become absolute."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def sibling(uri: str, suffix: str) -> str:
    """Return the address of a table's companion: `sibling("x/laion.lance", "rejects")` is `x/laion.rejects.lance`."""
    return f"{uri.rstrip('/').removesuffix('.lance')}.{suffix}.lance"
