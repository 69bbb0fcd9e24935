"""Hashes of inputs, and the stored vectors that belong to them, so that equal content is encoded once.

A hash is over what the encoder sees of an input: its bytes or text, with the modality, the side and the prompt. All
vectors of a table are of one space, so a sample whose hash is there takes over the stored vector as it is: rotated, and
in half precision. Vectors are found by half of the hash in memory, and compared by all of it before they are taken.

Owns no encoder. A table without the column goes on without reuse.

Shapes: N samples, K of them known, D full width.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.encoders import Raw
from pipelines.tables.rows import ROW_ID, read_rows, row_ids
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import Halves, RowIds, to_numpy
from schemas.columns import INPUT_HASH, VECTOR, input_hash_field
from schemas.config import EmbedConfig, StorageConfig
from schemas.errors import TableNotFound

_HASH_BYTES = 16
_BYTES_PER_HASH = 32  # while they are sorted: key, row and place, twice; half of that afterwards
SHARE_OF_STORED = 0.75
"""Of the memory for reuse, the share for what is stored; the rest is for what a run encodes."""


@dataclass(frozen=True)
class Known:
    """What is known of N samples.

    Attributes:
        hashes: The hash of each input.
        is_known_N: Whether the table holds a vector of that content.
        vectors_KD: These vectors, in the order of the samples.
    """

    hashes: pa.FixedSizeBinaryArray
    is_known_N: npt.NDArray[np.bool_]
    vectors_KD: Halves


def plan_hashes(config: EmbedConfig, table: VectorTable | None) -> tuple[list[pa.Field], str]:
    """Decide whether a table gets the column of hashes, and say where a run goes on without reuse.

    Returns:
        The column to add, if any; and a sentence, or nothing.
    """
    if config.input.modality == "vector" or config.reuse.hashes == "off":
        return [], ""
    if table is None:
        return [input_hash_field()], ""
    if INPUT_HASH in table.dataset.schema.names:
        most, rows = _most_hashes(config), len(table)
        note = f"only {most:,} of {rows:,} rows are looked at for equal content; reuse.memory_bytes allows no more"
        return [], note if rows > most else ""
    if config.reuse.hashes == "add":
        return [input_hash_field()], "content hashes are added, for the rows from now on"
    return [], "the table has no content hashes: equal content is encoded again; to add them: reuse.hashes = 'add'"


def stored_vectors(table: VectorTable, config: EmbedConfig) -> StoredVectors | None:
    """Return the vectors of a table by content; None where it has no hashes, or the config wants none."""
    if INPUT_HASH not in table.dataset.schema.names or config.reuse.hashes == "off":
        return None
    side = config.encoder.side
    seen = "\0".join((config.input.modality, side, table.space.prompts.get(side, "")))
    return StoredVectors(table.uri, table.dataset.version, config.storage, seen, _most_hashes(config))


class StoredVectors:
    """The vectors of one version of a table, found by the content that they were made from.

    Pickles small: the hashes are read when they are needed first.
    """

    def __init__(self, uri: str, version: int, storage: StorageConfig, seen: str, most: int) -> None:
        """Read nothing yet.

        Args:
            uri: Address of the table.
            version: Its version.
            storage: Where S3 is.
            seen: What the encoder sees beside the input.
            most: Largest number of hashes in memory; the newest rows are taken.
        """
        self._uri, self._version, self._storage, self._most = uri, version, storage, most
        self._person = hashlib.blake2b(seen.encode(), digest_size=_HASH_BYTES).digest()
        self._lock = threading.Lock()
        self._index: tuple[VectorTable, npt.NDArray[np.uint64], RowIds] | None = None

    def __getstate__(self) -> dict[str, object]:
        """Leave out what is read anew."""
        return {name: value for name, value in vars(self).items() if name != "_lock"} | {"_index": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        """Restore, with nothing read."""
        vars(self).update(state)
        self._lock = threading.Lock()

    def find(self, inputs: Sequence[Raw]) -> Known:
        """Hash inputs, texts or bytes, and find the vectors that are stored of equal ones."""
        hashes = self._hash(inputs)
        table, keys, rows = self._load()
        is_known_N = np.zeros(len(inputs), bool)
        vectors_KD: Halves = np.empty((0, table.space.ladder.width), np.float16)
        if not len(keys) or not len(hashes):
            return Known(hashes, is_known_N, vectors_KD)
        wanted_N = _keys(hashes)
        places_N = np.minimum(np.searchsorted(keys, wanted_N), len(keys) - 1)
        candidates = np.flatnonzero(keys[places_N] == wanted_N)
        if len(candidates):
            rows_C = rows[places_N[candidates]]
            try:
                found = read_rows(table.dataset, np.unique(rows_C), [INPUT_HASH, VECTOR])
            except OSError:  # the version was cleaned away while the run used it: all is encoded
                return Known(hashes, is_known_N, vectors_KD)
            order = np.argsort(row_ids(found))
            places_C = order[np.searchsorted(row_ids(found), rows_C, sorter=order)]
            stored = found[INPUT_HASH].combine_chunks().take(pa.array(places_C))
            is_equal_C = pc.equal(stored, hashes.take(pa.array(candidates))).to_numpy(zero_copy_only=False)
            is_known_N[candidates[is_equal_C]] = True
            vectors_KD = to_numpy(found[VECTOR])[places_C[is_equal_C]]
        return Known(hashes, is_known_N, vectors_KD)

    def _hash(self, inputs: Sequence[Raw]) -> pa.FixedSizeBinaryArray:
        digest, person = hashlib.blake2b, self._person
        values = [one.encode() if isinstance(one, str) else bytes(one) for one in inputs]
        digests = b"".join([digest(value, digest_size=_HASH_BYTES, person=person).digest() for value in values])
        return pa.FixedSizeBinaryArray.from_buffers(pa.binary(_HASH_BYTES), len(values), [None, pa.py_buffer(digests)])

    def _load(self) -> tuple[VectorTable, npt.NDArray[np.uint64], RowIds]:
        with self._lock:
            if self._index is None:
                try:
                    table = VectorTable.open(self._uri, self._version, self._storage)
                    self._index = (table, *_read_hashes(table, self._most))
                except TableNotFound:  # the version was cleaned away meanwhile
                    table = VectorTable.open(self._uri, storage=self._storage)
                    self._index = (table, np.empty(0, np.uint64), np.empty(0, np.int64))
            return self._index


def _most_hashes(config: EmbedConfig) -> int:
    return max(1, int(SHARE_OF_STORED * config.reuse.memory_bytes) // _BYTES_PER_HASH)


def _read_hashes(table: VectorTable, most: int) -> tuple[npt.NDArray[np.uint64], RowIds]:
    """Return half of each hash, sorted, and the rows that they belong to."""
    keys, rows, count = list[npt.NDArray[np.uint64]](), list[RowIds](), 0
    for fragment in reversed(table.dataset.get_fragments()):
        for batch in table.dataset.scanner(columns=[INPUT_HASH, ROW_ID], fragments=[fragment]).to_batches():
            batch = batch.filter(batch[INPUT_HASH].is_valid())
            keys.append(_keys(batch[INPUT_HASH])[: most - count])
            rows.append(row_ids(batch)[: most - count])
            count += len(keys[-1])
        if count >= most:
            break
    if not count:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    all_keys = np.concatenate(keys)
    keys.clear()
    order = np.argsort(all_keys)
    return all_keys[order], np.concatenate(rows)[order]


def _keys(hashes: pa.FixedSizeBinaryArray) -> npt.NDArray[np.uint64]:
    """Return the first half of each hash as a number."""
    data = hashes.buffers()[1]
    halves = np.frombuffer(data, np.uint64)[2 * hashes.offset : 2 * (hashes.offset + len(hashes))]
    return halves[::2].copy()
