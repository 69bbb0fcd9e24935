"""Many shards in Arrow columns, which take a sixth of the memory of as many `Shard`s.

Owns the order of shards, and that each file is listed once. Finds none (`listing.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import get_args, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import ConfigError
from schemas.records import Shard, ShardFormat
from schemas.redaction import redact, unsigned

_FORMATS: tuple[ShardFormat, ...] = get_args(ShardFormat)
_ROWS = pa.schema(
    {
        "uri": pa.string(),
        "size": pa.int64(),
        "etag": pa.string(),
        "format": pa.int8(),  # its place in _FORMATS
        "name": pa.string(),  # null where it is the uri
        "id": pa.int64(),
    }
)
_ADDRESS, _HASH, _KEY = pa.field("address", pa.string()), pa.field("hash", pa.int64()), pa.field("key", pa.binary())
_FOUND = pa.schema([*_ROWS, _ADDRESS, _HASH, _KEY])
_AT_ONCE = 512  # as Python objects, which are ten times as large
_POOL = pa.system_memory_pool()  # Arrow's own keeps twice what is needed
_DIGITS = re.compile("([0-9]+)")
_FOLDER_ENDS, _NUMBER = b"\0\1", b"\0\2"


class ShardTable(Sequence[Shard]):
    """A sequence of shards, in columns. A `Shard` is made of a row when it is asked for.

    Attributes:
        ids: `Shard.id` of each, int64.
    """

    def __init__(self, rows: pa.Table) -> None:
        """Wrap columns; use `collect_shards`."""
        self._rows = rows
        self.ids: pa.ChunkedArray = rows["id"]

    def __len__(self) -> int:
        return int(self._rows.num_rows)

    @overload
    def __getitem__(self, place: int) -> Shard: ...
    @overload
    def __getitem__(self, place: slice) -> ShardTable: ...
    def __getitem__(self, place: int | slice) -> Shard | ShardTable:
        if isinstance(place, slice):
            return ShardTable(self._rows.take(pa.array(range(*place.indices(len(self))), pa.int64())))
        return next(_shards_of(self._rows.slice(range(len(self))[place], 1)))

    def __iter__(self) -> Iterator[Shard]:
        return _shards_of(self._rows)

    @property
    def names(self) -> pa.ChunkedArray:
        """`Shard.name` of each, string."""
        names, uris = self._rows["name"], self._rows["uri"]
        return uris if names.null_count == len(names) else pc.coalesce(names, uris)

    def filter(self, is_chosen: pa.BooleanArray) -> ShardTable:
        """Return the chosen shards, by a boolean for each."""
        return ShardTable(self._rows.filter(is_chosen))

    def renamed(self, is_renamed: pa.BooleanArray, shards: Sequence[Shard]) -> ShardTable:
        """Return the same files, of which some are known by other names.

        Args:
            is_renamed: A boolean for each shard.
            shards: The shards that take their places, in their order.
        """
        rows = self._rows
        new = pa.Table.from_batches(_batches(((shard, "") for shard in shards), _ROWS), _ROWS)
        for name in ("name", "id"):
            column = pc.replace_with_mask(rows[name].combine_chunks(), is_renamed, new[name].combine_chunks())
            rows = rows.set_column(rows.schema.get_field_index(name), name, column)
        return ShardTable(rows)


def collect_shards(found: Iterable[tuple[Shard, str]]) -> ShardTable:
    """Return each file once, in natural order.

    Args:
        found: Shards, each with the address that it is known by behind every link.

    Raises:
        ConfigError: The addresses of two files differ in nothing but a password or a signature.
    """
    rows = pa.Table.from_batches(_batches(found, _FOUND), _FOUND)
    keys = [(_KEY.name, "ascending"), ("uri", "ascending")]
    order = pc.sort_indices(rows.select([_KEY.name, "uri"]), keys, memory_pool=_POOL)
    rows, sorted_rows = rows.drop_columns(_KEY.name), dict[str, pa.ChunkedArray]()
    for name in rows.column_names:  # one after the other, so that only one is there twice
        sorted_rows[name] = pc.take(rows[name], order, memory_pool=_POOL)
        rows = rows.drop_columns(name)
    rows = pa.table(sorted_rows)
    if len(np.unique(rows[_HASH.name])) < len(rows):  # else no two addresses are equal
        rows = rows.filter(pa.array(_is_first(rows)))
    return ShardTable(rows.select(_ROWS.names))


def are_among(ids: pa.ChunkedArray | pa.Array, others: pa.ChunkedArray | pa.Array) -> pa.BooleanArray:
    """Tell which ids of shards are among others; unlike `pyarrow.compute.is_in`, without a table of hashes."""
    ids_N, others_M = ids.to_numpy(), np.unique(others)
    if not len(others_M):
        return pa.array(np.zeros(len(ids_N), bool))
    places_N = np.minimum(np.searchsorted(others_M, ids_N), len(others_M) - 1)
    return pa.array(others_M[places_N] == ids_N)


def _batches(found: Iterable[tuple[Shard, str]], columns: pa.Schema) -> Iterator[pa.RecordBatch]:
    found = iter(found)
    while some := list(islice(found, _AT_ONCE)):
        shards = [shard for shard, _ in some]
        values: dict[str, list[object]] = {
            "uri": [shard.uri for shard in shards],
            "size": [shard.size for shard in shards],
            "etag": [shard.etag for shard in shards],
            "format": [_FORMATS.index(shard.format) for shard in shards],
            "name": [None if shard.name == shard.uri else shard.name for shard in shards],
            "id": [shard.id for shard in shards],
        }
        if _ADDRESS in columns:
            values[_ADDRESS.name] = [None if address == shard.uri else address for shard, address in some]
            values[_HASH.name] = [hash(address) for _, address in some]
            values[_KEY.name] = [_natural(shard.uri) for shard in shards]
        arrays = [pa.array(values[field.name], field.type, memory_pool=_POOL) for field in columns]
        yield pa.RecordBatch.from_arrays(arrays, schema=columns)


def _shards_of(rows: pa.Table) -> Iterator[Shard]:
    for batch in rows.to_batches(max_chunksize=_AT_ONCE):
        for uri, size, etag, layout, name in zip(*(column.to_pylist() for column in batch.columns[:5]), strict=True):
            known_as = "" if name is None or name == unsigned(uri) else name
            yield Shard(uri, size, etag, _FORMATS[layout], known_as)


def _is_first(rows: pa.Table) -> npt.NDArray[np.bool_]:
    """Tell which rows are the first of their address."""
    hashes, counts = np.unique(rows[_HASH.name], return_counts=True)
    is_first = np.ones(len(rows), bool)
    once = dict[str, Shard]()
    for place in np.flatnonzero(np.isin(rows[_HASH.name], hashes[counts > 1])).tolist():
        row = rows.slice(place, 1)
        (shard,), address = _shards_of(row), row[_ADDRESS.name][0].as_py()
        first = once.setdefault(shard.uri if address is None else address, shard)
        is_first[place] = first is shard
        is_same = first.uri == shard.uri or (bool(shard.etag) and (first.size, first.etag) == (shard.size, shard.etag))
        if not is_same and first.name == shard.name:
            raise ConfigError(
                f"shards: two addresses of {redact(shard.name)} differ only in what is taken for a password or a "
                "signature, and no equal ETag says that they are one file; keep one of them, or copy one file to "
                "another path; versions of a file are told apart by ?versionId="
            )
    return is_first


def _natural(uri: str) -> bytes:
    """Return a sort key: folder by folder, numbers by value, so that 2 comes before 10 and `d/` before `d2/`."""
    return _FOLDER_ENDS.join(map(_natural_name, uri.split("/")))


def _natural_name(name: str) -> bytes:
    parts = [part.encode() for part in _DIGITS.split(name)]
    for at in range(1, len(parts), 2):
        digits = parts[at].lstrip(b"0")
        parts[at] = _NUMBER + len(digits).to_bytes(4, "big") + digits
    return b"".join(parts)
