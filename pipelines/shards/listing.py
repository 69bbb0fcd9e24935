"""Listing of shards: files, globs, brace ranges, directories, S3 prefixes, lists in a file.

Owns the formats and the order of shards, and that each file is listed once. Which names are discovered is the rule of
`pipelines.shards.names`, the same for every pattern and store. Reads no shard.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Literal

from pipelines.shards.braces import expand_braces
from pipelines.shards.lance_fragments import list_fragments
from pipelines.shards.names import EXTENSIONS, NamePattern, format_of, is_wild, split_wild
from pipelines.shards.shard_table import ShardTable, collect_shards
from pipelines.shards.store_protocol import File, Store, gone
from pipelines.shards.stores import store_of
from pipelines.storage.addresses import companion_stem, named_path, real
from schemas.config import StorageConfig
from schemas.errors import ConfigError, ShardNotFound, nearest
from schemas.records import IMAGE_SUFFIXES, Shard, ShardFormat

# A table is a folder `x.lance`, or any folder with `data/*.lance` in it.
_IN_TABLE = re.compile(r"(.*?\.lance)/.*|(.+)/data/[^/]+\.lance", re.DOTALL)
_SPECIAL = re.compile(r"[*?\[{}]")
_SHOWN = 5
# A glob that matches nothing is looked for so many folders deeper, in so many folders of each level.
_DEEPER, _LOOKED_INTO = 3, 20

FormatSetting = Literal["auto"] | ShardFormat


def list_shards(
    patterns: Sequence[str],
    format: FormatSetting = "auto",
    storage: StorageConfig = StorageConfig(),
    *,
    table: str | None = None,
) -> list[Shard]:
    """List the shards that patterns match, in natural order, each file once, however it is addressed.

    A pattern is a file, a glob (`*`, `?`, `[…]`, `**` over folders), a brace range (`{000..099}`, `{a,b}`), a directory
    with all files below it, or a list of patterns, one per line: `@file`, or a file whose name ends in .txt. Each may
    be local, `s3://…`, or an address that fsspec knows. Each fragment of a Lance table is a shard. A pattern that is
    the name of a file or folder is that name, whatever characters are in it.

    Files and folders whose names begin with `.` or `_` are not discovered; links are followed.

    Args:
        patterns: The patterns.
        format: Format of all shards; `auto` takes it from each name.
        storage: Settings of S3.
        table: Address of the table that the shards are for; it and its companions are not discovered.

    Raises:
        ShardNotFound: A pattern matches nothing, or a file of a brace range is missing.
        ConfigError: A name has no known extension, braces are not balanced, or a shard is the table itself; or
            the addresses of two files differ in nothing but a password or a signature.
    """
    return list(tabulate_shards(patterns, format, storage, table=table))


def tabulate_shards(
    patterns: Sequence[str],
    format: FormatSetting = "auto",
    storage: StorageConfig = StorageConfig(),
    *,
    table: str | None = None,
) -> ShardTable:
    """List shards as `list_shards` does, in columns: what many take in memory is the columns alone."""
    listing = _Listing(format, storage, table)
    return collect_shards(each for pattern in _with_lists(patterns, storage) for each in listing.find(pattern))


def list_again(shard: Shard, storage: StorageConfig = StorageConfig()) -> Shard:
    """Return a shard with the identity that its file has now.

    Raises:
        ShardNotFound: It is gone.
    """
    if shard.format == "lance":
        fragments = list_fragments(shard.uri.rpartition("#")[0], storage)
        found = next((each for each in fragments if each.uri == shard.uri), None)
    else:
        file = store_of(shard.uri, storage).stat([shard.uri]).get(shard.uri)
        found = None if file is None else replace(shard, size=file.size, etag=file.etag)
    if found is None:
        raise gone(shard.uri)
    return found


def _with_lists(patterns: Sequence[str], storage: StorageConfig) -> Iterator[str]:
    """Replace each list of patterns by its lines."""
    for pattern in patterns:
        if not (pattern.startswith("@") or named_path(pattern).endswith(".txt")):
            yield pattern
            continue
        uri = pattern.removeprefix("@")
        store = store_of(uri, storage)
        file = store.stat([uri]).get(uri)
        if file is None:
            raise _not_there(uri, [uri], store)
        with store.open(file) as opened:
            lines = (line.strip() for line in _decode_list(opened.read()).split("\n"))
        yield from (line for line in lines if line and not line.startswith("#"))


def _decode_list(data: bytes) -> str:
    """Decode a list of names: UTF-8, or UTF-16 with its mark, as Windows writes them; other bytes stay in the names."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    return data.decode("utf-8-sig", errors="surrogateescape")


class _Listing:
    """Finds the shards of patterns, each with the address that it is known by behind every link."""

    def __init__(self, format: FormatSetting, storage: StorageConfig, table: str | None) -> None:
        self._format, self._storage = format, storage
        self._table = real(table).rstrip("/") if table is not None else None

    def find(self, pattern: str) -> Iterator[tuple[Shard, str]]:
        store = store_of(pattern, self._storage)
        names = _expand(pattern, store)
        files = store.stat([*names])
        lost = []
        for name, given in names.items():
            if name in files:
                yield _with_address(files[name], self._format)
                continue
            several = self._several(name, given, store)
            if (first := next(several, None)) is None:
                lost.append(name)
            else:
                yield first
                yield from several
        if lost:
            raise _not_there(pattern, lost, store)

    def _several(self, name: str, given: str, store: Store) -> Iterator[tuple[Shard, str]]:
        """Yield the shards of a glob, a directory or a Lance table; nothing in `given` is wild."""
        address = store.address(name).rstrip("/")
        is_glob = is_wild(name[len(given) :]) and not store.is_folder(name)
        if not is_glob and (self._format == "lance" or address.endswith(".lance")):
            if real(address) == self._table:
                raise ConfigError(
                    f"shards: {name} is the table that this run writes to; "
                    "name another input, or set table to another address"
                )
            yield from self._fragments(address)
            return
        head, tail = split_wild(name[len(given) :]) if is_glob else (name[len(given) :], "")
        yield from self._discovered(store.walk(NamePattern(store.address(f"{given}{head}" or "."), tail)))
        if store.lists_by_prefix and not is_glob and not name.endswith("/") and not store.is_folder(name):
            folder, _, beginning = address.rpartition("/")
            yield from self._discovered(store.walk(NamePattern(folder, beginning, is_prefix=True)))

    def _discovered(self, files: Iterable[File]) -> Iterator[tuple[Shard, str]]:
        tables: dict[str, None] = {}
        for file in files:
            if inside := _IN_TABLE.fullmatch(file.uri):
                tables[inside[1] or inside[2]] = None
                continue
            layout = format_of(file.uri)
            # Other files in a directory of shards (a README, statistics) are skipped.
            if layout is None and not file.is_spelled:
                continue
            if self._format == "auto" or layout in (self._format, None):
                yield _with_address(file, self._format)
        if self._format in ("auto", "lance"):
            for uri in tables:
                if not self._is_own(uri, tables):
                    yield from self._fragments(uri)

    def _is_own(self, uri: str, tables: dict[str, None]) -> bool:
        """Return whether a discovered table is the run's own, or the companion of a table."""
        if uri == self._table:
            return True
        stem = companion_stem(uri)
        known = {*tables, *([self._table] if self._table else [])}
        return stem is not None and not known.isdisjoint((stem, f"{stem}.lance"))

    def _fragments(self, uri: str) -> Iterator[tuple[Shard, str]]:
        for shard in list_fragments(real(uri), self._storage):
            yield shard, shard.uri


def _expand(pattern: str, store: Store) -> dict[str, str]:
    """Expand the braces of a pattern: to names, each with its beginning in which nothing is wild, as it exists."""
    if not _SPECIAL.search(pattern):
        return {pattern: ""}
    given = _existing_folder(pattern, store)
    rest = pattern[len(given) :]
    if ("{" not in rest and "}" not in rest) or store.stat([pattern]) or store.is_folder(pattern):
        return {pattern: given}
    return {given + name: given for name in expand_braces(rest)}


def _existing_folder(pattern: str, store: Store) -> str:
    """Return the beginning of a pattern, with its slash, that has special characters but is the name of a folder."""
    found = at = pattern.find("/", pattern.find("://") + 3) + 1 if "://" in pattern else 0
    while at := pattern.find("/", at) + 1:
        part = pattern[pattern.rfind("/", 0, at - 1) + 1 : at - 1]
        if _SPECIAL.search(part):
            if not store.is_folder(pattern[: at - 1]):
                break
            found = at
    return pattern[:found] if _SPECIAL.search(pattern[:found]) else ""


def _with_address(file: File, format: FormatSetting) -> tuple[Shard, str]:
    shard = _shard(file, format)
    return shard, file.real or shard.name


def _shard(file: File, format: FormatSetting) -> Shard:
    layout = format_of(file.uri) if format == "auto" else format
    if layout is None:
        allowed = ", ".join(ending for endings in EXTENSIONS.values() for ending in endings)
        raise ConfigError(
            f"the name of {file.uri} has no known extension; it may end in {allowed}; "
            f"or set input.format to one of {', '.join(EXTENSIONS)}"
        )
    if layout == "lance":
        raise ConfigError(f"{file.uri} is a file, and a Lance table is a folder; name the folder of the table")
    return Shard(file.uri, file.size, file.etag, layout)


def _not_there(pattern: str, lost: Sequence[str], store: Store) -> ShardNotFound:
    name = lost[0]
    if not is_wild(name) and store.is_folder(name):
        return _holds_no_shard(name, store)
    what = f"{pattern} matches nothing" if is_wild(name) else f"{name} is not there"
    if len(lost) > 1:
        what = f"{len(lost)} of {pattern} are not there, the first is {name}"
    if is_wild(name) and (elsewhere := _at_another_level(name, store)):
        return ShardNotFound(f"{what}; did you mean {elsewhere!r}? `**/` stands for folders of any depth")
    lacking, there = _lacking(name.rstrip("/"), store)
    near = nearest(lacking.rpartition("/")[2], [each.rstrip("/") for each in there])
    if lacking != name.rstrip("/"):
        what += f": there is no {lacking}"
    shown = ", ".join(islice(there, _SHOWN)) + (", …" if len(there) > _SHOWN else "")
    holds = f"its folder holds {shown}" if there else "its folder does not exist or is empty"
    return ShardNotFound(f"{what}{near}; {holds}")


def _lacking(name: str, store: Store) -> tuple[str, list[str]]:
    """Return the first part of a path that is not there, and the names beside it."""
    while not (there := store.neighbours(name)) and "/" in (above := name.rpartition("/")[0].rstrip("/")):
        if above.endswith(":/"):
            break
        name = above
    return name, there


def _at_another_level(name: str, store: Store) -> str:
    """Return the glob of the same files that has matches in other folders; empty if a look into a few finds none."""
    head, tail = split_wild(name)
    *between, last = tail.split("/")
    folders = [store.address(head or ".").rstrip("/")]
    for _ in range(len(between) + _DEEPER if "**" not in between else 0):
        inside = [(folder, each) for folder in folders[:_LOOKED_INTO] for each in store.neighbours(f"{folder}/x")]
        if any(format_of(each) and NamePattern(folder, last).matches(f"{folder}/{each}") for folder, each in inside):
            return f"{head.rstrip('/')}/**/{last}" if head else f"**/{last}"
        folders = [
            f"{folder}/{each.rstrip('/')}"
            for folder, each in inside
            if not each.startswith((".", "_"))
            and (each.endswith("/") or not (store.lists_by_prefix or format_of(each)))
        ]
    return ""


def _holds_no_shard(folder: str, store: Store) -> ShardNotFound:
    """Say what a folder holds in place of shards, and how pictures become one."""
    files = store.neighbours(f"{folder.rstrip('/')}/*")
    endings = Counter(name[name.rfind(".") :] if "." in name else "no extension" for name in files)
    held = ", ".join(f"{count:,} {ending}" for ending, count in endings.most_common(_SHOWN))
    allowed = ", ".join(ending for known in EXTENSIONS.values() for ending in known[:1])
    are_pictures = any(ending.lower() in IMAGE_SUFFIXES for ending in endings)
    pack = f"; pack pictures into a shard: cd {folder} && tar -cf ../pictures.tar *" if are_pictures else ""
    return ShardNotFound(f"{folder} holds no shard ({allowed}), but {held or 'nothing'}{pack}")
