"""Bounded types for the values of every config.

A number in a config states both of its ends here or in its field, so that no value reaches a library that cannot use
it. `ConfigBlock` refuses empty strings, NaN and infinity for all fields alike. The upper ends are generous: they catch
a slip of the keyboard, not a large machine.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

MAX_ACTORS = 4096
MAX_DIM = 65_536
MAX_K = 10_000
MAX_COUNT = 10**9
MAX_BYTES = 1 << 50
MAX_SECONDS = 7 * 24 * 3600.0
MAX_SEED = 2**32 - 1


def _number(value: Any) -> Any:
    """Refuse true and false, which pydantic reads as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("Input should be a number, not true or false")  # noqa: TRY004 - pydantic collects ValueErrors
    return value


Number = BeforeValidator(_number)

Count = Annotated[int, Number, Field(ge=1, le=MAX_COUNT)]
Bytes = Annotated[int, Number, Field(ge=1, le=MAX_BYTES)]
Dim = Annotated[int, Number, Field(ge=1, le=MAX_DIM)]
K = Annotated[int, Number, Field(ge=1, le=MAX_K)]
Seed = Annotated[int, Number, Field(ge=0, le=MAX_SEED)]
Seconds = Annotated[float, Number, Field(gt=0, le=MAX_SECONDS)]
# Open at both ends: a share of 0 or 1 leaves one side empty.
Share = Annotated[float, Number, Field(gt=0, lt=1)]
