"""Addresses of tables, of their companions, and of objects in S3."""

from __future__ import annotations

from pathlib import Path


def absolute(uri: str) -> str:
    """Make an address valid in every process: local paths become absolute, others stay as they are."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def sibling(uri: str, suffix: str) -> str:
    """Name a companion of a table: `sibling("x/laion.lance", "rejects")` is `x/laion.rejects.lance`."""
    return f"{uri.rstrip('/').removesuffix('.lance')}.{suffix}.lance"


def split_s3(uri: str) -> tuple[str, str]:
    """Split `s3://bucket/key` into bucket and key; a slash at the end of the key stays."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key
