"""What the first bytes of a file say that it is, where its name says something else.

Owns the marks of the formats that stand under a wrong name most often: an error page or an XML answer of a server in
place of the file, an archive that is compressed and not named so, another format. Reads nothing.
"""

from __future__ import annotations

import re

HEAD_BYTES = 512
"""So many bytes are enough to tell."""

_TAR = re.compile(rb".{257}ustar", re.DOTALL)
# Each mark, what it is, and how a name says so; nothing where no name helps.
_MARKS = [
    (re.compile(mark, re.DOTALL | re.IGNORECASE), what, name)
    for mark, what, name in (
        (rb"\x1f\x8b", "gzip data", ".gz"),
        (rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", "zstd data", ".zst"),
        (rb"BZh[1-9]1AY&SY", "bzip2 data", ""),
        (rb"\xfd7zXZ\0", "xz data", ""),
        (rb"PK\x03\x04", "a zip file", ""),
        (rb"PAR1", "a Parquet file", ".parquet"),
        (rb"\s*<(!doctype html|html)", "an HTML page", ""),
        (rb"\s*<(\?xml|error>)", "an XML document", ""),
        (rb"\xff\xfe|\xfe\xff", "text in UTF-16", ""),
    )
]


def foreign(head: bytes, expected: str) -> str:
    """Return what a file is instead of what was expected, with what to do; empty where its first bytes do not tell.

    Args:
        head: The first bytes of the file, `HEAD_BYTES` or more.
        expected: Such as `a tar archive`.

    Example:
        >>> foreign(b"<!DOCTYPE html><html>", "a tar archive")
        'is an HTML page, not a tar archive'
    """
    if _TAR.match(head):
        return "" if "tar" in expected else f"is a tar archive, not {expected}; name it .tar"
    for mark, what, name in _MARKS:
        if mark.match(head) and what not in expected:
            return f"is {what}, not {expected}" + (f"; its name must end in {name}" if name else "")
    return ""
