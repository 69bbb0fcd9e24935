"""Brace ranges in names: `{000..099}`, `{a..f}`, `{a,b}`, nested, and side by side.

Owns their expansion, and how many names a pattern stands for, which is counted before any is made. As in bash; braces
without a comma or a range in them are part of the name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

from schemas.errors import ConfigError

MOST_NAMES = 1_000_000
_NUMBERS = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})(?:\.\.-?(\d{1,18}))?")
_LETTERS = re.compile(r"([A-Za-z])\.\.([A-Za-z])(?:\.\.-?(\d{1,18}))?")
_ZEROS_BEFORE = re.compile(r"-?0\d")
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_MOST_DEPTH, _MOST_GROUPS = 20, 1_000
_SHOWN = 200  # characters of a pattern in a message


@dataclass(frozen=True)
class _Part:
    """A literal, or a group in braces, with its names and their number."""

    count: int
    names: Callable[[], Iterator[str]]


def expand_braces(pattern: str) -> list[str]:
    """Expand a pattern to its names, in order.

    Raises:
        ConfigError: Its braces are not balanced, nested more than 20 deep or more than 1,000, or it stands for over a
            million names.
    """
    depths = [0]
    for character in pattern:
        if character in "{}":
            depths.append(depths[-1] + (1 if character == "{" else -1))
    if depths[-1] or min(depths) < 0:
        raise ConfigError(
            f"shards: the braces of {_shown(pattern)} are not balanced; write for example x-{{000..099}}.tar"
        )
    if max(depths) > _MOST_DEPTH:
        raise ConfigError(f"shards: the braces of {_shown(pattern)} are nested more than {_MOST_DEPTH} deep")
    if (groups := pattern.count("{")) > _MOST_GROUPS:
        raise ConfigError(
            f"shards: a pattern of {len(pattern):,} characters has {groups:,} pairs of braces, and {_MOST_GROUPS:,} "
            f"are the most: {_shown(pattern)}; write the names into a file, one a line, and give it as @FILE"
        )
    parts = _parts(pattern)
    if prod(part.count for part in parts) > MOST_NAMES:
        raise ConfigError(
            f"shards: {_shown(pattern)} stands for more than {MOST_NAMES:,} names, the most that one pattern may; "
            "name a folder, a glob, or several patterns"
        )
    return list(_product(parts))


def _shown(pattern: str) -> str:
    return repr(pattern if len(pattern) <= _SHOWN else f"{pattern[:_SHOWN]}…")


def _parts(pattern: str) -> list[_Part]:
    """Return what stands side by side in a pattern."""
    parts: list[_Part] = []
    depth = begin = 0
    for at, character in enumerate(pattern):
        if character == "{":
            if not depth:
                parts += _literal(pattern[begin:at])
                begin = at + 1
            depth += 1
        elif character == "}":
            depth -= 1
            if not depth:
                parts.append(_group(pattern[begin:at]))
                begin = at + 1
    return parts + _literal(pattern[begin:])


def _literal(text: str) -> list[_Part]:
    return [_Part(1, lambda: iter((text,)))] if text else []


def _group(inside: str) -> _Part:
    if match := _NUMBERS.fullmatch(inside):
        return _numbers(*match.groups())
    if match := _LETTERS.fullmatch(inside):
        letters = _range(_ALPHABET.index(match[1]), _ALPHABET.index(match[2]), match[3])
        return _Part(len(letters), lambda: (_ALPHABET[at] for at in letters))
    choices = [_parts(choice) for choice in _split(inside)]
    count = sum(prod(part.count for part in choice) for choice in choices)
    if len(choices) == 1:
        return _Part(count, lambda: (f"{{{name}}}" for name in _product(choices[0])))
    return _Part(count, lambda: (name for choice in choices for name in _product(choice)))


def _numbers(first: str, last: str, step: str | None) -> _Part:
    has_zeros = any(_ZEROS_BEFORE.match(number) for number in (first, last))
    width = max(len(first), len(last)) if has_zeros else 0
    numbers = _range(int(first), int(last), step)
    return _Part(len(numbers), lambda: (f"{number:0{width}d}" for number in numbers))


def _range(first: int, last: int, step: str | None) -> range:
    size = int(step or 1) or 1
    return range(first, last + 1, size) if first <= last else range(first, last - 1, -size)


def _split(inside: str) -> list[str]:
    """Split at the commas that are in no inner braces."""
    choices, depth, begin = [], 0, 0
    for at, character in enumerate(inside):
        depth += (character == "{") - (character == "}")
        if character == "," and not depth:
            choices.append(inside[begin:at])
            begin = at + 1
    return [*choices, inside[begin:]]


def _product(parts: Sequence[_Part]) -> Iterator[str]:
    """Combine parts, name by name; a part may be thousands behind another, so this does not call itself."""
    running = [parts[0].names()] if parts else []
    beginnings = [""]
    if not parts:
        yield ""
    while running:
        name = next(running[-1], None)
        if name is None:
            running.pop()
            beginnings.pop()
        elif len(running) == len(parts):
            yield beginnings[-1] + name
        else:
            beginnings.append(beginnings[-1] + name)
            running.append(parts[len(running)].names())
