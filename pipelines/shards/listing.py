"""Listing of shards: files, globs, brace ranges, directories, S3 prefixes, lists in a file.

Owns the names, formats and order of shards; reads none of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal

from braceexpand import braceexpand

from pipelines.shards.lance_fragments import list_fragments
from pipelines.shards.store_protocol import File, Store
from pipelines.shards.stores import store_of
from schemas.config import StorageConfig
from schemas.errors import ConfigError, ShardNotFound, nearest
from schemas.records import Shard, ShardFormat

_EXTENSIONS: dict[ShardFormat, tuple[str, ...]] = {
    "webdataset": (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst"),
    "parquet": (".parquet", ".pq"),
    "jsonl": (".jsonl", ".ndjson", *(f".{n}.{z}" for n in ("jsonl", "ndjson", "json") for z in ("gz", "zst"))),
    "lance": (".lance",),
}
_LANCE_ROOT = re.compile(r"(.*?\.lance)/")
_SHOWN = 5

FormatSetting = Literal["auto"] | ShardFormat


def list_shards(
    patterns: Sequence[str],
    format: FormatSetting = "auto",
    storage: StorageConfig = StorageConfig(),
) -> list[Shard]:
    """List the shards that patterns match, in natural order, each once.

    A pattern is a file, a glob (`*`, `?`, `[…]`, `**` over folders), a brace range (`{000..099}`, `{a,b}`), a directory
    with all files below it, or a list of patterns, one per line: `@file`, or a file whose name ends in .txt. Each may
    be local, `s3://…`, or an address that fsspec knows. Each fragment of a Lance table is a shard.

    Args:
        patterns: The patterns.
        format: Format of all shards; `auto` takes it from each name.
        storage: Settings of S3.

    Raises:
        ShardNotFound: A pattern matches nothing, or a file of a brace range is missing.
        ConfigError: A name has no known extension, or braces are not balanced.
    """
    found: dict[str, Shard] = {}
    for pattern in _with_lists(patterns, storage):
        for shard in _find(pattern, format, storage):
            found[shard.uri] = shard
    return sorted(found.values(), key=lambda shard: _natural(shard.uri))


def format_of(name: str) -> ShardFormat | None:
    """Return the format of a file by the extension of its name, if it is a known one."""
    lower = name.lower()
    return next((layout for layout, endings in _EXTENSIONS.items() if lower.endswith(endings)), None)


def _with_lists(patterns: Sequence[str], storage: StorageConfig) -> Iterator[str]:
    """Replace each list of patterns by its lines."""
    for pattern in patterns:
        if not (pattern.startswith("@") or pattern.endswith(".txt")):
            yield pattern
            continue
        uri = pattern.removeprefix("@")
        store = store_of(uri, storage)
        file = store.stat([uri]).get(uri)
        if file is None:
            raise _not_there(uri, [uri], store)
        with store.open(file) as opened:
            lines = opened.read().decode(errors="replace").splitlines()
        yield from (line.strip() for line in lines if line.strip() and not line.startswith("#"))


def _find(pattern: str, format: FormatSetting, storage: StorageConfig) -> Iterator[Shard]:
    try:
        names = list(braceexpand(pattern))
    except ValueError:
        raise ConfigError(
            f"shards: the braces of {pattern!r} are not balanced; write for example x-{{000..099}}.tar"
        ) from None
    store = store_of(pattern, storage)
    plain = [name for name in names if not _is_wild(name)]
    files = store.stat(plain)
    lost = []
    for name in names:
        if name in files:
            yield _shard(files[name], format)
            continue
        shards = list(_several(name, format, store, storage))
        yield from shards
        if not shards:
            lost.append(name)
    if lost:
        raise _not_there(pattern, lost, store)


def _several(name: str, format: FormatSetting, store: Store, storage: StorageConfig) -> Iterator[Shard]:
    """Yield the shards of a glob, a directory or a Lance table."""
    if not _is_wild(name) and (format == "lance" or name.rstrip("/").endswith(".lance")):
        yield from list_fragments(name.rstrip("/"), storage)
        return
    tables: dict[str, None] = {}
    for file in store.glob(name) if _is_wild(name) else store.below(name):
        inside = _LANCE_ROOT.match(file.uri)
        if inside:
            tables[inside[1]] = None
            continue
        layout = format_of(file.uri)
        # Other files in a directory of shards (a README, _SUCCESS, statistics) are skipped.
        is_aside = layout is None and (not _is_wild(name) or _is_aside(file.uri))
        if not is_aside and (format == "auto" or layout in (format, None)):
            yield _shard(file, format)
    for table in tables:
        if format in ("auto", "lance"):
            yield from list_fragments(table, storage)


def _shard(file: File, format: FormatSetting) -> Shard:
    layout = format_of(file.uri) if format == "auto" else format
    if layout is None:
        allowed = ", ".join(ending for endings in _EXTENSIONS.values() for ending in endings)
        raise ConfigError(
            f"the name of {file.uri} has no known extension; it may end in {allowed}; "
            f"or set input.format to one of {', '.join(_EXTENSIONS)}"
        )
    return Shard(file.uri, file.size, file.etag, layout)


def _not_there(pattern: str, lost: Sequence[str], store: Store) -> ShardNotFound:
    name = lost[0]
    there = store.neighbours(name)
    what = f"{pattern} matches nothing" if _is_wild(name) else f"{name} is not there"
    if len(lost) > 1:
        what = f"{len(lost)} of {pattern} are not there, the first is {name}"
    shown = ", ".join(islice(there, _SHOWN)) + (", …" if len(there) > _SHOWN else "")
    holds = f"its folder holds {shown}" if there else "its folder does not exist or is empty"
    return ShardNotFound(f"{what}{nearest(name.rpartition('/')[2], there)}; {holds}")


def _is_wild(name: str) -> bool:
    return any(character in name for character in "*?[")


def _is_aside(uri: str) -> bool:
    return uri.rpartition("/")[2].startswith((".", "_"))


def _natural(uri: str) -> list[list[tuple[int, str]]]:
    """Return a sort key: folder by folder, numbers by value, so that 2 comes before 10 and `d/` before `d2/`."""
    return [
        [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", folder)]
        for folder in uri.split("/")
    ]
