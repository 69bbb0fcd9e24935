"""The forms in which a person asks: words, a picture, a vector, or several of these.

Owns how each form is read. Owns no encoder: a query leaves this module as words, as the bytes of an image, or as a
vector.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from lance import LanceDataset

from pipelines.tables.grouping import check_group
from pipelines.tables.rows import check_columns, check_filter, find_row
from pipelines.vectors.arrays import Floats
from pipelines.vectors.matryoshka import are_unit, unit
from schemas.errors import InputError, TableError

Asked = str | bytes | npt.NDArray[np.floating]
"""One query: words, the bytes of an image, or a vector (D,)."""
Query = Any
"""Words, an image (its bytes, a `Path` of its file, a PIL image), a vector (a list of numbers, or anything that numpy
reads: an array, a torch tensor, an Arrow array), or an iterable of these: several queries. Vectors may be rows of one
array (B, D)."""

_MODES_OF_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_ALLOWED = "allowed: words, a Path or the bytes of an image, a PIL image, a vector, or a list of these"


def read_queries(query: Query) -> tuple[list[Asked], bool]:
    """Bring a query, or several, into the three forms that can be encoded.

    Returns:
        The queries, and whether `query` is one and not a list of one.

    Raises:
        InputError: It is none of the forms, a file cannot be read, there is no query in it, or vectors differ in width.
    """
    if isinstance(query, (str, bytes, bytearray, memoryview, os.PathLike)) or _is_picture(query):
        return [_read_one(query)], True
    array = _as_numbers(query)
    if array is not None and array.ndim == 1:
        return [array], True
    if array is not None and array.ndim == 2:
        return list(array), False
    if array is not None:
        raise InputError(
            f"a query is an array of shape {array.shape}; a picture is asked for as a PIL image; {_ALLOWED}"
        )
    if not isinstance(query, Iterable) or isinstance(query, (Mapping, Set)):
        raise InputError(f"a query is a {type(query).__name__}; {_ALLOWED}")
    asked = [_read_part(part) for part in query]
    if len(widths := {len(one) for one in asked if isinstance(one, np.ndarray)}) > 1:
        both = " and ".join(map(str, sorted(widths)))
        raise InputError(f"the queries have {both} dims; search each width by itself; {_ALLOWED}")
    if not asked:
        raise InputError(f"there is no query in an empty {type(query).__name__}; {_ALLOWED}")
    return asked, False


def read_query(query: Query) -> Asked:
    """Bring one query into one of the three forms.

    Raises:
        InputError: As `read_queries`, or there are several.
    """
    asked, is_one = read_queries(query)
    if not is_one:
        raise InputError(f"one query is expected, and a {type(query).__name__} of {len(asked)} is given")
    return asked[0]


def unit_query(query_M: npt.NDArray[np.floating]) -> Floats:
    """Scale a query of any width to unit length.

    Raises:
        InputError: It has no direction.
    """
    if not are_unit(unit_M := unit(query_M.astype(np.float64)).astype(np.float32)):
        raise InputError("the query has no direction: it is all zeros, or holds NaN or infinity; pass another")
    return unit_M


def check_search(
    dataset: LanceDataset,
    uri: str,
    k: int,
    where: str | None,
    columns: Sequence[str] | None,
    group_by: str | None = None,
) -> int:
    """Refuse what no search can do, before any work; return `k` as an int, which cannot overflow as numpy's can.

    Raises:
        InputError: `k` is no whole number, or `where` no text.
        TableError: `k` is below 1, a column cannot be returned or grouped by, or the filter cannot be used.
    """
    rows = check_count("k", k)
    if rows < 1:
        raise TableError(f"k={k}: ask for 1 row or more")
    if where is not None and not isinstance(where, str):
        raise InputError(f"where={where!r}: pass SQL over the table's columns as a str, such as where='shard = 3'")
    check_filter(dataset, where, uri)
    check_columns(dataset, columns, uri)
    check_group(dataset.schema, group_by, uri)
    return rows


def check_count(name: str, count: object) -> int:
    """Return a whole number of rows.

    Raises:
        InputError: It is something else, such as 1.5, True or "3".
    """
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)):
        raise InputError(f"{name}={count!r}: pass a whole number of rows, such as {name}=10")
    return int(count)


@dataclass(frozen=True, eq=False)
class Question:
    """What a search was asked, read once.

    Attributes:
        queries: The queries.
        is_one: There is one, and no list of one.
        skip: Row id of the row that was asked for by `like`, which is not returned; None for other questions.
        title: What was asked, in a few words.
    """

    queries: list[Asked]
    is_one: bool
    skip: int | None
    title: str


def read_question(dataset: LanceDataset, uri: str, query: Query, like: str | None) -> Question:
    """Read a query, several, or the id of a row in place of them.

    Args:
        dataset: The version in which `like` is looked up.
        uri: Its address, for messages.
        query: As for `read_queries`.
        like: Id of a row.

    Raises:
        InputError: A query is none of the forms, or there are both a query and `like`, or neither.
        TableError: There is no row of that id, or several.
    """
    if (query is None) == (like is None):
        raise InputError("pass either a query or like=ID, the id of a row of the table")
    if like is not None:
        if not isinstance(like, str):
            raise InputError(f"like={like!r}: pass the id of one row, which is a str")
        row, vector_D = find_row(dataset, like, uri)
        return Question([vector_D.astype(np.float32)], True, row, f"most like the row {like!r}")
    queries, is_one = read_queries(query)
    return Question(queries, is_one, None, describe_query(query, queries, is_one=is_one))


def describe_query(query: Query, asked: Sequence[Asked], *, is_one: bool) -> str:
    """Say in a few words what was asked, as a title.

    Args:
        query: As it was given.
        asked: As `read_queries` returned it.
        is_one: As well.
    """
    if isinstance(query, str):
        return f"nearest to {query!r}"
    if isinstance(query, os.PathLike):
        return f"nearest to {os.fspath(query)}"
    if not is_one:
        return f"nearest to each of {len(asked):,} queries"
    return "nearest to a picture" if isinstance(asked[0], bytes) else "nearest to a vector"


def _read_part(part: Query) -> Asked:
    asked, is_one = read_queries(part.as_py() if hasattr(part, "as_py") else part)
    if not is_one:
        raise InputError(f"a query in a list is itself a list of {len(asked)}; {_ALLOWED}")
    return asked[0]


def _read_one(query: Query) -> str | bytes:
    if isinstance(query, str):
        return query
    if isinstance(query, (bytes, bytearray, memoryview)):
        return bytes(query)
    if isinstance(query, os.PathLike):
        try:
            return Path(query).read_bytes()
        except (OSError, ValueError) as error:
            raise InputError(
                f"{os.fspath(query)!r} cannot be read: {error}; a Path names an image file, and words are a str"
            ) from None
    # PNG holds these modes without loss, TIFF the others.
    held = io.BytesIO()
    query.save(held, "PNG" if query.mode in _MODES_OF_PNG else "TIFF", exif=query.getexif())
    return held.getvalue()


def _is_picture(query: Query) -> bool:
    from PIL import Image  # here, since a search by a vector needs nothing of it

    return isinstance(query, Image.Image)


def _as_numbers(query: Query) -> npt.NDArray[np.floating] | None:
    """Return float32 or float64 numbers; None where `query` holds no numbers."""
    if hasattr(query, "detach"):  # a torch tensor, on any device, in any dtype
        query = query.detach().cpu().float()
    if isinstance(query, (list, tuple)) and not (query and all(_is_number(part) for part in query)):
        return None
    if not isinstance(query, (list, tuple)) and not hasattr(query, "__array__"):
        return None
    if np.ma.is_masked(query):
        raise InputError(f"a query is an array, and some of its numbers are masked; {_ALLOWED}")
    array = np.asarray(query)
    if array.dtype.kind not in "fiu" or not array.size:
        return None
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _is_number(part: object) -> bool:
    return isinstance(part, (int, float, np.number)) and not isinstance(part, bool)
