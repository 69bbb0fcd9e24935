"""The check of what a Python program passes: the type hints of a public function hold at run time."""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Sequence
from numbers import Integral, Real

from schemas.errors import ConfigError

_ARTICLES = {"Array": "an Arrow array of vectors", "str": "a text", "bool": "True or False"}


def check_given(kind: type, **given: object) -> None:
    """Refuse values that are not of the type that a public function takes.

    Args:
        kind: The type.
        given: Values by the name of their parameter.

    Raises:
        ConfigError: A value is of another type.
    """
    for name, value in given.items():
        if not isinstance(value, kind):
            wanted = _ARTICLES.get(kind.__name__, f"a {kind.__name__}")
            raise ConfigError(f"{name}: pass {wanted}; this is of type {type(value).__name__}")


def check_whole(least: int, most: int, **given: object) -> None:
    """Refuse values that are no whole numbers from `least` to `most`; True and False are none.

    Raises:
        ConfigError: A value is of another type, or outside the bounds.
    """
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or not least <= int(value) <= most:
            raise ConfigError(f"{name}={reprlib.repr(value)}: pass a whole number from {least:,} to {most:,}")


def check_number(least: float, most: float, **given: object) -> None:
    """Refuse values that are no numbers between `least` and `most`, or are at either end; NaN is none.

    Raises:
        ConfigError: A value is of another type, or outside the bounds.
    """
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not least < _as_float(value) < most:
            raise ConfigError(
                f"{name}={reprlib.repr(value)}: pass a number between {least:g} and {most:g}, not at either end"
            )


def check_choice(allowed: Sequence[str], **given: object) -> None:
    """Refuse values that are none of the texts that are allowed.

    Raises:
        ConfigError: A value is another one, or of another type.
    """
    for name, value in given.items():
        if not isinstance(value, str) or value not in allowed:
            raise ConfigError(f"{name} {reprlib.repr(value)}: allowed: {', '.join(allowed)}")


def check_path(**given: object) -> None:
    """Refuse values that name no local file or folder.

    Raises:
        ConfigError: A value is neither a text nor a `Path`, or holds what no path can hold.
    """
    for name, value in given.items():
        if not isinstance(value, (str, os.PathLike)) or not _can_be_encoded(os.fspath(value)):
            raise ConfigError(f"{name}={reprlib.repr(value)}: pass a path, as a text or a Path")


def _can_be_encoded(path: object) -> bool:
    try:
        return isinstance(path, str) and b"\0" not in os.fsencode(path) and len(max(path.split("/"), key=len)) < 256
    except UnicodeEncodeError:
        return False


def _as_float(value: Real) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf
