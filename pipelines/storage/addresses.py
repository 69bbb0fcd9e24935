"""Addresses of shards, of tables, of their companions, and of objects in S3: one form for each file.

Owns how an address is written. A local file is an absolute path, and a name that is not UTF-8 is a `file://` address
with percent signs, so that it can be stored. Addresses of remote stores stay as they are: a key of S3 may hold `//` and
`..`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes

_LOCAL_SCHEME = re.compile(r"(?:file|local)://(?:localhost(?=/))?|file:(?=/)", re.IGNORECASE)
_WEB_SCHEME = re.compile("https?://", re.IGNORECASE)
_COMPANION = re.compile(
    r"(.+?)\.(?:shards|rejects|runs|erased|shortlist|(?:shortlist\.)?parts|rotation-[0-9a-f]+|codebook-[0-9a-f]+|g[1-9]\d*)\.lance"
)


def local_path(uri: str) -> str | None:
    """Return the path of a local address, as the system calls take it; None for the address of a remote store."""
    scheme = _LOCAL_SCHEME.match(uri)
    if scheme is None:
        return None if "://" in uri else str(Path(uri).expanduser())
    path = uri[scheme.end() :]
    if "%" in path and not os.path.lexists(path):
        path = os.fsdecode(unquote_to_bytes(path))
    return path


def absolute(uri: str) -> str:
    """Write an address in the form that is valid in every process; links stay.

    A local path becomes absolute, without `file://`, `.`, `..` and doubled slashes; other addresses stay as they are.
    """
    local = local_path(uri)
    if local is None:
        return uri
    path = Path(local).absolute()
    if ".." in path.parts:
        # A folder above a link is not the folder above its name, so `..` cannot be cut out of the text.
        below = path.parts[::-1].index("..")
        count = len(path.parts) - below
        path = Path(os.path.realpath(Path(*path.parts[:count])), *path.parts[count:])
    return stored_form(str(path))


def real(uri: str) -> str:
    """Write an address in its one form, with every link resolved; two addresses of one local file are then equal."""
    name, mark, fragment = uri.partition("#") if "#" in uri and not os.path.lexists(uri) else (uri, "", "")
    local = local_path(absolute(name))
    return uri if local is None else stored_form(os.path.realpath(local)) + mark + fragment


def stored_form(path: str) -> str:
    """Return a local path as it can be stored: itself, or a `file://` address if it is not UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return Path(path).as_uri()
    return path


def named_path(uri: str) -> str:
    """Return the part of an address that ends in the file's name: of a web address, what is before its query."""
    return re.split("[?#]", uri)[0] if _WEB_SCHEME.match(uri) else uri


def sibling(uri: str, suffix: str) -> str:
    """Name a companion of a table: `sibling("x/laion.lance", "rejects")` is `x/laion.rejects.lance`."""
    return f"{uri.rstrip('/').removesuffix('.lance')}.{suffix}.lance"


def companion_stem(uri: str) -> str | None:
    """Return the address of the table whose companion this is, without `.lance`; None if it is named like none."""
    found = _COMPANION.fullmatch(uri.rstrip("/"))
    return found[1] if found else None


def split_s3(uri: str) -> tuple[str, str]:
    """Split `s3://bucket/key` into bucket and key; a slash at the end of the key stays."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key
