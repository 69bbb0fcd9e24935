"""The CPU half of embedding: read shards, decode or tokenise their samples, and gather them into windows.

Owns the threads that read and prepare, and the size of a window. Owns no model: it needs no weights, so it can run on
other machines than the encoder.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.embedding.batching import BatchBudget
from pipelines.embedding.passages import load_cutter
from pipelines.embedding.prepare_pool import PreparePool, Submitted
from pipelines.embedding.reuse import Known, StoredVectors
from pipelines.encoders import BadSample, Prepared, Raw, TokenLists, count_texts, load_preparer
from pipelines.shards import read_blocks
from pipelines.storage.prefetch import Prefetcher
from pipelines.vectors.arrays import Halves, to_numpy
from schemas.columns import input_hash_field
from schemas.config import EmbedConfig
from schemas.records import Lease, Reject, Shard, TextCounts

BLOCKS_AHEAD = 2
WINDOWS_AHEAD = 2
_WINDOWS_IN_MEMORY = WINDOWS_AHEAD + 2  # one more is being filled, and one is being encoded
_SUBMITTED_AHEAD = 1
_LEAST_WINDOW_BYTES = 64 << 10
_SUBMIT_ROWS = {"text": 4096, "image": 64, "vector": 1024}


@dataclass
class Window:
    """Neighbouring samples of a lease, prepared, that are sorted into batches together. It may span shards.

    Attributes:
        rows: `id, position, <kept>, shard` of the N samples, and the hashes of their inputs if the table has them.
        parts: Their inputs, ready for the encoder; without those whose vectors are known.
        costs: The cost of each input: tokens, or 1 for an image; one int64 array for each of `parts`.
        is_known: Whether the vector of each sample is known; an array for each of `rows`, or none at all.
        known: The known vectors in the order of the rows, (K, D) half precision; an array for each of `rows`.
        units: Cost of all inputs.
        texts: What the encoder gets of texts.
        rejects: Samples among them that could not be read or prepared.
        nbytes: Size of rows and inputs.
        read_s: Seconds that the feeder waited for the reader.
        prepare_s: Seconds that the feeder waited for the threads that tokenise or decode.
    """

    rows: list[pa.RecordBatch] = field(default_factory=list)
    parts: list[Sequence[Prepared]] = field(default_factory=list)
    costs: list[npt.NDArray[np.int64]] = field(default_factory=list)
    is_known: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    known: list[Halves] = field(default_factory=list)
    units: int = 0
    texts: TextCounts = field(default_factory=TextCounts)
    rejects: list[Reject] = field(default_factory=list)
    nbytes: int = 0
    read_s: float = 0.0
    prepare_s: float = 0.0


@dataclass(frozen=True)
class _InPreparation:
    """Samples of one block that threads are preparing."""

    shard: Shard
    rows: pa.RecordBatch
    rejects: Sequence[Reject]
    submitted: Submitted
    read_s: float
    found: Known | None


class Feeder:
    """Reads and prepares the samples of leases."""

    def __init__(self, config: EmbedConfig, kept: pa.Schema, threads: int, stored: StoredVectors | None = None) -> None:
        """Load the preparer.

        Args:
            config: The job.
            kept: Kept columns that the run fills; the fields of every shard are converted to their types.
            threads: Images that are decoded at once; tokenisers have threads of their own.
            stored: Vectors of the table, by the hash of the input; None where the table has no hashes.
        """
        self._stored = stored
        self._config, self._kept = config, kept
        modality = config.input.modality
        self._threads = threads if modality == "image" else 1
        self._submit_rows = _SUBMIT_ROWS[modality]
        self._preparer = load_preparer(config.encoder, config.limits)
        self._cutter = load_cutter(config, self._preparer)
        self._window_units = BatchBudget.of(config.encoder, modality).window_units
        self._window_bytes = self._whole_window_bytes = config.limits.buffer_bytes // _WINDOWS_IN_MEMORY

    def lighten(self, halvings: int) -> None:
        """Fill windows only up to their first size divided by 2^halvings from now on; 64 KiB stay allowed."""
        self._window_bytes = max(_LEAST_WINDOW_BYTES, self._whole_window_bytes >> halvings)

    def feed(self, lease: Lease) -> Iterator[Window]:
        """Yield the samples of a lease, prepared, in windows of bounded size that span its shards."""
        window = Window()
        with closing(PreparePool(self._preparer, self._threads, self._config.limits.sample_timeout_s)) as pool:
            for samples in self._submitted_ahead(lease, pool):
                began = time.perf_counter()
                self._add(window, samples, pool)
                window.read_s += samples.read_s
                window.prepare_s += time.perf_counter() - began
                if window.units >= self._window_units or window.nbytes >= self._window_bytes:
                    yield window
                    window = Window()
        yield window

    def _submitted_ahead(self, lease: Lease, pool: PreparePool) -> Iterator[_InPreparation]:
        """Yield submitted samples in order, one step behind, so that threads prepare while the caller waits."""
        waiting: deque[_InPreparation] = deque()
        for samples in self._submit(lease, pool):
            waiting.append(samples)
            if len(waiting) > _SUBMITTED_AHEAD:
                yield waiting.popleft()
        yield from waiting

    def _submit(self, lease: Lease, pool: PreparePool) -> Iterator[_InPreparation]:
        """Read the shards of a lease and submit their samples to the threads, a few rows at a time."""
        config = self._config
        for shard in lease.shards:
            read = read_blocks(shard, config.input, config.limits, config.storage, self._kept)
            if self._cutter is not None:
                read = chain.from_iterable(map(self._cutter.split, read))
            blocks = Prefetcher(read, BLOCKS_AHEAD, "read")
            waited_s = 0.0
            for block in blocks:
                rejects = block.rejects
                for start in range(0, max(1, block.rows.num_rows), self._submit_rows):
                    rows = block.rows.slice(start, self._submit_rows)
                    inputs = _inputs(rows.column("input"))
                    found = None if self._stored is None else self._stored.find(inputs)
                    if found is not None:
                        rows = rows.append_column(input_hash_field(), found.hashes)
                        inputs = [one for one, is_known in zip(inputs, found.is_known_N, strict=True) if not is_known]
                    submitted = pool.submit(inputs)
                    yield _InPreparation(shard, rows, rejects, submitted, blocks.waited_s - waited_s, found)
                    rejects, waited_s = (), blocks.waited_s

    def _add(self, window: Window, samples: _InPreparation, pool: PreparePool) -> None:
        """Wait for samples and add them to a window; those that could not be prepared become rejects."""
        shard, rows = samples.shard, samples.rows
        window.rejects.extend(samples.rejects)
        prepared, bad = _split_bad(pool.result(samples.submitted))
        given = samples.submitted.values
        if bad:
            given = [one for row, one in enumerate(given) if row not in bad]
        window.texts += count_texts(self._preparer, given, prepared)
        if samples.found is not None:
            unknown = np.flatnonzero(~samples.found.is_known_N)
            bad = {int(unknown[row]): why for row, why in bad.items()}
            window.is_known.append(np.delete(samples.found.is_known_N, list(bad)))
            window.known.append(samples.found.vectors_KD)
            window.nbytes += samples.found.vectors_KD.nbytes
        for row, why in bad.items():
            window.rejects.append(reject_of(shard.id, rows, row, why))
        rows = rows.drop_columns("input")
        if bad:
            rows = rows.take(np.delete(np.arange(rows.num_rows), list(bad)))
        costs = self._preparer.units(prepared)
        window.parts.append(prepared)
        window.costs.append(costs)
        window.units += int(costs.sum())
        window.rows.append(rows.append_column("shard", pa.array(np.full(rows.num_rows, shard.id))))
        window.nbytes += rows.nbytes + _nbytes(prepared)


def reject_of(shard: int, rows: pa.RecordBatch, row: int, why: BadSample) -> Reject:
    """Make the reject of one row of a block or window."""
    position, key = rows.column("position")[row].as_py(), rows.column("id")[row].as_py()
    return Reject(shard, position, key, why.reason, str(why))


def _split_bad(prepared: Sequence[Prepared | BadSample]) -> tuple[Sequence[Prepared], dict[int, BadSample]]:
    """Return the inputs that were prepared, and the others by their position."""
    if isinstance(prepared, TokenLists):
        return prepared, {}
    bad = {row: one for row, one in enumerate(prepared) if isinstance(one, BadSample)}
    return [one for one in prepared if not isinstance(one, BadSample)], bad


def _nbytes(prepared: Sequence[Prepared]) -> int:
    return prepared.nbytes if isinstance(prepared, TokenLists) else sum(one.nbytes for one in prepared)


def _inputs(column: pa.Array) -> Sequence[Raw]:
    """Return the inputs of samples as a preparer takes them: strings, bytes, or the rows of an array."""
    return list(to_numpy(column)) if pa.types.is_fixed_size_list(column.type) else column.to_pylist()
