"""Names of shards: which names a pattern matches, and which format a name says.

Owns the one rule for names that are discovered, whatever the store. A name that begins with `.` or `_` is passed over,
as a file and as a folder, unless the pattern spells it: `*` does not match `_tmp`, but `_*` does. Finds no file itself.
"""

from __future__ import annotations

import contextlib
import re

from pipelines.storage.addresses import named_path
from schemas.records import ShardFormat

EXTENSIONS: dict[ShardFormat, tuple[str, ...]] = {
    "webdataset": (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst"),
    "parquet": (".parquet", ".pq"),
    "jsonl": (".jsonl", ".ndjson", *(f".{n}.{z}" for n in ("jsonl", "ndjson", "json") for z in ("gz", "zst"))),
    "lance": (".lance",),
}
_WILD = re.compile(r"[*?]|\[!?\]?[^\]]*\]")
_TOKENS = re.compile(r"(\*+|\?|\[!?\]?[^\]]*\])")
_VISIBLE = r"(?![._])[^/]+"
_BELOW = f"(?P<below>(?:/{_VISIBLE})*)"


def format_of(name: str) -> ShardFormat | None:
    """Return the format of a file by the extension of its name, if it is a known one."""
    lower = named_path(name).lower()
    return next((layout for layout, endings in EXTENSIONS.items() if lower.endswith(endings)), None)


def ending_of(name: str) -> str | None:
    """Return the known extension of a name, such as `.tar.gz`; None if it has none."""
    lower = name.lower()
    fitting = [ending for endings in EXTENSIONS.values() for ending in endings if lower.endswith(ending)]
    return max(fitting, key=len, default=None)


def is_wild(name: str) -> bool:
    """Return whether a name holds `*`, `?` or `[…]`."""
    return _WILD.search(name) is not None


def split_wild(pattern: str) -> tuple[str, str]:
    """Split a pattern before its first folder or file name that is wild: `a/b/*/c*` is `a/b` and `*/c*`."""
    parts = pattern.rstrip("/").split("/")
    first = next((at for at, part in enumerate(parts) if is_wild(part)), len(parts))
    head = "/".join(parts[:first])
    return head or ("/" if first and first < len(parts) else ""), "/".join(parts[first:])


class NamePattern:
    """The names that a glob, a folder or a prefix stands for.

    A matching folder stands for all files below it. Only `**` crosses folders.

    Attributes:
        folder: The folder that all of them are below, as an address without a slash at its end.
        fixed: The characters that every one begins with.
    """

    def __init__(self, folder: str, tail: str = "", *, is_prefix: bool = False) -> None:
        """Compile a pattern.

        Args:
            folder: Address of a folder, taken as it is.
            tail: Glob below the folder; empty stands for everything below it.
            is_prefix: `tail` is the beginning of a name, taken as it is.
        """
        self.folder = folder.rstrip("/")
        parts = [] if is_prefix else [part for part in tail.split("/") if part not in ("", ".")]
        while parts and parts[-1] == "**":
            parts.pop()
        self.fixed = f"{self.folder}/" + (tail if is_prefix else re.split(r"[*?\[]", parts[0])[0] if parts else "")
        matched = re.escape(self.folder)
        entered = [f"{matched}/"]
        if is_prefix:
            matched += f"/{re.escape(tail)}[^/]*"
        between = "/"
        for part in parts:
            if part == "**":
                matched, between = f"{matched}{between}(?:{_VISIBLE}/)*", ""
                entered.append(matched)
            else:
                matched, between = f"{matched}{between}{_name_regex(part)}", "/"
                entered.append(f"{matched}/")
        self._matches = re.compile(matched + _BELOW, re.DOTALL)
        entered.append(f"{matched}(?:/{_VISIBLE})*/")
        self._enters = re.compile("|".join(entered), re.DOTALL)
        self._is_folder = not parts and not is_prefix

    def matches(self, address: str) -> bool:
        """Return whether a file is one of those that the pattern stands for."""
        return self._matches.fullmatch(address) is not None

    def spells(self, address: str) -> bool:
        """Return whether a file is matched by its own name, not as one below a matching folder."""
        found = self._matches.fullmatch(address)
        return found is not None and not self._is_folder and not found["below"]

    def enters(self, folder: str) -> bool:
        """Return whether files below a folder can match, so that it must be listed."""
        return self._enters.fullmatch(f"{folder}/") is not None


def _name_regex(part: str) -> str:
    """Translate the glob of one file or folder name; a wild beginning does not match `.` and `_`."""
    visible = "(?![._])" if part[0] in "*?[" else ""
    return visible + "".join(_token_regex(token) for token in _TOKENS.split(part))


def _token_regex(token: str) -> str:
    if token.startswith("*"):
        return "[^/]*"
    if token == "?":
        return "[^/]"
    if token.startswith("[") and token.endswith("]") and len(token) > 2:
        inside = token[1:-1].replace("\\", "\\\\").replace("[", "\\[")
        inside = f"^{inside[1:]}" if inside.startswith("!") else inside.replace("^", "\\^", 1)
        with contextlib.suppress(re.error):  # such as [z-a] and [!], which stand for themselves
            return f"(?!/){re.compile(f'[{inside}]').pattern}"
    return re.escape(token)
