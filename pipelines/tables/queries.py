"""The forms in which a person asks: words, a picture, a vector, or several of these.

Owns how each form is read. Owns no encoder: a query leaves this module as words, as the bytes of an image, or as a
vector.
"""

from __future__ import annotations

import array
import io
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from lance import LanceDataset

from pipelines.tables.grouping import check_group
from pipelines.tables.rows import MADE, check_columns, check_filter, find_row
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
    query = _plain(query)
    if isinstance(query, (str, bytes, os.PathLike)) or _is_picture(query):
        return [_read_one(query)], True
    numbers = _as_numbers(query)
    if numbers is not None and numbers.ndim == 1:
        return [numbers], True
    if numbers is not None and numbers.ndim == 2:
        return list(numbers), False
    if numbers is not None:
        raise InputError(
            f"a query is an array of shape {numbers.shape}; a picture is asked for as a PIL image; {_ALLOWED}"
        )
    if hasattr(query, "read"):
        raise InputError(f"a query is an open file, of type {type(query).__name__}; pass its Path, or what it holds")
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
    columns: Iterable[str] | None,
    group_by: str | None = None,
    *,
    distinct: bool = False,
) -> tuple[int, list[str] | None]:
    """Refuse what no search can do, before any work.

    Returns:
        `k`, at most the rows of the table, and the names of the columns.

    Raises:
        InputError: `k` is no whole number, `where` no text, or `distinct` neither True nor False.
        TableError: `k` is below 1, a column cannot be returned or grouped by, or the filter cannot be used.
    """
    rows = check_count(dataset, k, least=1)
    if where is not None and not isinstance(where, str):
        raise InputError(f"where={where!r}: pass SQL over the table's columns as a str, such as where='shard = 3'")
    if not isinstance(distinct, (bool, np.bool_)):
        raise InputError(f"distinct={distinct!r}: pass True or False")
    check_filter(dataset, where, uri)
    names = check_columns(dataset, columns, uri, MADE)
    check_group(dataset.schema, group_by, uri)
    return rows, names


def check_count(dataset: LanceDataset, k: object, least: int) -> int:
    """Return how many rows are wanted, at most those of the table and never fewer than `least`.

    Raises:
        InputError: `k` is no whole number, but something such as 1.5, True or "3".
        TableError: It is below `least`.
    """
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)):
        raise InputError(f"k={k!r}: pass a whole number of rows, such as k=10")
    if k < least:
        raise TableError(f"k={k}: ask for {least} row{'s' * (least != 1)} or more")
    return min(int(k), max(least, dataset.count_rows()))


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
        row, vector_D = find_row(dataset, check_text(like, "like"), uri)
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
    if isinstance(query, os.PathLike):
        return f"nearest to {os.fspath(query)}"
    if not is_one:
        return f"nearest to each of {len(asked):,} queries"
    if isinstance(asked[0], str):
        return f"nearest to {asked[0]!r}"
    return "nearest to a picture" if isinstance(asked[0], bytes) else "nearest to a vector"


def check_text(text: str, name: str) -> str:
    """Return a text that can be encoded.

    Raises:
        InputError: It holds half of a surrogate pair, as bytes that are not UTF-8 become in a text.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name} {text!r} is not valid Unicode: {error.reason}; pass text that was read as UTF-8"
        ) from None
    return text


def _read_part(part: Query) -> Asked:
    asked, is_one = read_queries(part)
    if not is_one:
        raise InputError(f"a query in a list is itself a list of {len(asked)}; {_ALLOWED}")
    return asked[0]


def _plain(query: Query) -> Query:
    """Bring what holds values, in whatever library, into texts, bytes, lists, or an array of numbers (not empty)."""
    if isinstance(query, pa.Scalar):
        return query.as_py()
    if isinstance(query, bytearray) or (isinstance(query, memoryview) and query.format in ("B", "b", "c")):
        return bytes(query)
    try:
        if hasattr(query, "detach") and hasattr(query, "cpu"):  # a torch tensor, on any device, in any dtype
            query = query.detach().cpu().float()
        is_array = hasattr(query, "__array__") or isinstance(query, (array.array, memoryview))
        if not is_array:
            return query
        is_masked, values = np.ma.is_masked(query), np.asarray(query)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"a query of type {type(query).__name__} cannot be read: {error}; {_ALLOWED}") from None
    if is_masked:
        raise InputError(f"a query is an array, and some of its numbers are masked; {_ALLOWED}")
    return values if values.dtype.kind in "fiu" and values.ndim and values.size else values.tolist()


def _read_one(query: Query) -> str | bytes:
    if isinstance(query, str):
        if not query.strip():
            raise InputError(f"the query {query!r} is nothing but white space; {_ALLOWED}")
        return str(check_text(query, "the query"))
    if isinstance(query, bytes):
        return query
    if isinstance(query, os.PathLike):
        try:
            return Path(query).read_bytes()
        except (OSError, ValueError) as error:
            raise InputError(
                f"{os.fspath(query)!r} cannot be read: {error}; a Path names an image file, and words are a str"
            ) from None
    # PNG holds these modes without loss, TIFF the others.
    held = io.BytesIO()
    try:
        query.save(held, "PNG" if query.mode in _MODES_OF_PNG else "TIFF", exif=query.getexif())
    except (OSError, ValueError) as error:
        raise InputError(f"the picture cannot be read: {error}; pass another") from None
    return held.getvalue()


def _is_picture(query: Query) -> bool:
    from PIL import Image  # here, since a search by a vector needs nothing of it

    return isinstance(query, Image.Image)


def _as_numbers(query: Query) -> npt.NDArray[np.floating] | None:
    """Return float32 or float64 numbers; None where `query` holds no numbers."""
    if isinstance(query, np.ndarray):
        return query if query.dtype.kind == "f" else query.astype(np.float64)
    if not isinstance(query, (list, tuple)) or not query or any(_number(part) is None for part in query):
        return None
    return np.array([_number(part) for part in query], np.float64)


def _number(part: object) -> float | None:
    """Return one number of Python, numpy, torch or Arrow; None for anything else."""
    part = part if type(part) is float else _plain(part)
    try:
        return float(part) if isinstance(part, (int, float)) and not isinstance(part, bool) else None
    except OverflowError:
        return None
