"""From a lease to uncommitted fragments: read -> prepare -> encode -> write.

    read_blocks(shard)        a thread reads and unpacks            SampleBlock: ids, inputs, kept columns
      -> Feeder.feed          threads tokenise or decode            Window: prepared inputs
        -> Embedder._encode   the encoder, one batch at a time      RecordBatch: id, shard, kept columns, vector
          -> write_fragments  Lance writes while the next encodes   JSON of fragments that are not yet visible

Between two stages stands a `Prefetcher`: the earlier stage runs in its own thread, a bounded number of items ahead, so
that the encoder never waits for work that could have been done before. A lease that failed is embedded again from its
first byte. Owns the order of the stages and the encoder; owns no file format and no commit.

Shapes: N rows of a window, B rows of a batch, D full width.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from pipelines.embedding.batching import BatchBudget, encode_safely
from pipelines.embedding.column_plan import run_columns
from pipelines.embedding.feeder import WINDOWS_AHEAD, Feeder, Window, reject_of
from pipelines.embedding.rejects import MIN_SEEN_OF_LEASE, check_rejects
from pipelines.embedding.reuse import stored_vectors
from pipelines.embedding.run_vectors import RunVectors, encode_new
from pipelines.encoders import BadSample, check_same_code, concatenate, load_encoder, resolve, select, usage_of
from pipelines.storage.prefetch import Prefetcher
from pipelines.tables.erased import Erased, ErasedMemory, is_erased, without_erased
from pipelines.tables.fragments import write_fragments, written_bytes
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_arrow
from schemas.columns import INPUT_HASH, VECTOR
from schemas.config import EmbedConfig
from schemas.errors import EncoderError
from schemas.records import Lease, LeaseResult, Reject, ShardCount, StageSeconds, TextCounts, WorkerCounters

_BATCHES_AHEAD = 2


class WindowEncoder:
    """The accelerator half of embedding: encodes windows, one batch at a time, whichever lease they are from.

    Attributes:
        busy_s: Seconds in which the encoder worked.
        batches: Batches that it was given.
        padding_units: Tokens of padding in them.
    """

    def __init__(self, config: EmbedConfig, threads: int) -> None:
        """Load the encoder onto its device; on a CPU torch uses `threads` threads."""
        torch.set_num_threads(threads)
        self._encoder = load_encoder(config.encoder)
        self._budget = BatchBudget.of(config.encoder, config.input.modality)
        spec = resolve(config.encoder)
        self._name, self._width = spec.name, spec.ladder.width
        self._lock = threading.Lock()
        self.busy_s = 0.0
        self.batches = self.padding_units = 0

    def lighten(self, halvings: int) -> None:
        """Halve batches so many times, compared with their first size."""
        with self._lock:
            self._budget.lighten(halvings)

    def usage(self) -> dict[str, int]:
        """Return what the encoder has asked of a server, as counters; empty where it asks none."""
        return usage_of(self._encoder)

    def encode(
        self, window: Window, chosen: npt.NDArray[np.int64] | None = None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], dict[int, BadSample]]:
        """Encode the inputs of a window in batches of near-equal length.

        Args:
            window: Its inputs.
            chosen: Positions of the inputs to encode; None is all.

        Returns:
            (N, D) float32 unit rows in the order of the inputs; whether each of the N is good; and the reasons of those
            that are bad by their position. Those that were not chosen are zeros, and not good.
        """
        prepared, units = concatenate(window.parts), np.concatenate([np.empty(0, np.int64), *window.costs])
        chosen = np.arange(len(units)) if chosen is None else chosen
        is_good_N = np.zeros(len(units), bool)
        bad: dict[int, BadSample] = {}
        vectors_ND = np.empty((len(units), 0), np.float32)
        for batch in (chosen[places] for places in self._budget.plan(units[chosen])):
            inputs = select(prepared, batch)
            with self._lock:
                began = time.perf_counter()
                encoded = encode_safely(self._encoder, inputs, units[batch], self._budget)
                self.busy_s += time.perf_counter() - began
                self.batches += 1
                self.padding_units += self._budget.padding(units[batch])
            if len(encoded.good) and encoded.vectors_BD.shape[1] != self._width:
                raise EncoderError(
                    f"{self._name} gives vectors of {encoded.vectors_BD.shape[1]} dims, and its space has "
                    f"{self._width}; the files at encoder.path are another model than the name says"
                )
            if not vectors_ND.size:
                vectors_ND = np.zeros((len(units), encoded.vectors_BD.shape[1]), np.float32)
            if len(encoded.good):
                vectors_ND[batch[encoded.good]] = encoded.vectors_BD
            is_good_N[batch[encoded.good]] = True
            bad |= {int(batch[row]): why for row, why in encoded.bad.items()}
        return vectors_ND, is_good_N, bad


class Embedder:
    """Embeds leases into uncommitted fragments of a table. Lives in an actor; several leases may run at once."""

    def __init__(self, config: EmbedConfig, threads: int) -> None:
        """Open the table and load the encoder, in the dtype of the table's space."""
        self._table = VectorTable.open(config.table, storage=config.storage)
        encoder = config.encoder.model_copy(update={"dtype": self._table.space.dtype})
        check_same_code(self._table.space, encoder)
        self._config = config.model_copy(update={"encoder": encoder})
        self._memory = ErasedMemory(self._table)
        stored = stored_vectors(self._table, self._config)
        self._reuse = None if stored is None else RunVectors(config, self._table.space.ladder.width)
        self._feeder = Feeder(self._config, run_columns(self._table, config), threads, stored)
        self._encoder = WindowEncoder(self._config, threads)
        self._counters, self._counting = Counter[str](rows=0, rejects=0, units=0), threading.Lock()
        self._clock, self._name = _WorkClock(), uuid.uuid4().hex[:8]

    def lighten(self, halvings: int) -> None:
        """Halve batches and windows so many times, compared with their first size, to need less memory."""
        self._encoder.lighten(halvings)
        self._feeder.lighten(halvings)

    def run(self, lease: Lease, windows: Iterator[Window] | None = None) -> LeaseResult:
        """Embed a lease.

        Args:
            lease: Its shards are read as one stream.
            windows: Its samples, where another machine prepares them; None prepares them here.

        Raises:
            InputError: A shard cannot be read.
            TooManyRejects: The rejects of the lease pass the limit; the message counts the reasons.
        """
        with self._clock:
            return self._run(lease, windows)

    def _run(self, lease: Lease, windows: Iterator[Window] | None) -> LeaseResult:
        began, seconds = time.perf_counter(), StageSeconds()
        tally = _LeaseTally(lease, *self._memory.read())
        source = Prefetcher(self._feeder.feed(lease) if windows is None else windows, WINDOWS_AHEAD, "feed")
        encoded = Prefetcher(self._encode(source, tally, seconds), _BATCHES_AHEAD, "encode")
        try:
            fragments = write_fragments(self._table, encoded)
        finally:
            encoded.close()
            source.close()
        seconds.encoder_waited = source.waited_s
        seconds.write = encoded.blocked_s
        seconds.total = time.perf_counter() - began
        self._count(read_bytes=sum(shard.size for shard in lease.shards), written_bytes=written_bytes(fragments))
        return tally.result(fragments, seconds, WorkerCounters(self._name, self.progress()))

    def _count(self, **grown: int) -> None:
        with self._counting:
            self._counters.update(grown)

    def progress(self) -> dict[str, int]:
        """Return counters since the actor was up; `schemas.run_metrics` says what most of them mean.

        Always there: `rows`, `rejects`, `units`, and `busy_ms`, in which the encoder worked. `up_ms` is the sum of
        `busy_ms`, of `idle_ms` without a lease, and of `waited_ms` with a lease that had no input or could not write.
        """
        encoder = self._encoder
        up_s, idle_s, busy_s = self._clock.up_s(), self._clock.idle_s(), encoder.busy_s
        seconds = {"up": up_s, "idle": idle_s, "busy": busy_s, "waited": max(0.0, up_s - idle_s - busy_s)}
        with self._counting:
            counted = dict(self._counters)
        return {
            **counted,
            "batches": encoder.batches,
            "padding_units": encoder.padding_units,
            **encoder.usage(),
            **{f"{name}_ms": int(1000 * value) for name, value in seconds.items()},
        }

    def _encode(
        self, windows: Prefetcher[Window], tally: _LeaseTally, seconds: StageSeconds
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a lease with their vectors, a window at a time, and count them."""
        limit = self._config.limits.max_reject_fraction
        for window in windows:
            began = time.perf_counter()
            vectors_ND, is_good_N, bad = self._vectors_of(window, tally)
            seconds.encode += time.perf_counter() - began
            seconds.read += window.read_s
            seconds.prepare += window.prepare_s
            rows = pa.Table.from_batches(window.rows).combine_chunks().to_batches()[0] if len(is_good_N) else None
            if tally.gone:
                window.rejects = without_erased(window.rejects, tally.gone, tally.files)
            if rows is not None and tally.gone:
                is_gone_N = is_erased(rows, tally.gone, tally.files)
                tally.erased += int((is_gone_N & is_good_N).sum())
                is_good_N &= ~is_gone_N
                bad = {row: why for row, why in bad.items() if not is_gone_N[row]}
            tally.add(window, rows, is_good_N, bad)
            check_rejects(tally.rejects, len(tally.rejects), tally.seen, limit, min_seen=MIN_SEEN_OF_LEASE)
            reasons = [*(reject.reason for reject in window.rejects), *(why.reason for why in bad.values())]
            self._count(rows=int(is_good_N.sum()), rejects=len(reasons), units=window.units)
            self._count(cut_texts=window.texts.cut_texts, cut_tokens=window.texts.cut_tokens)
            self._count(**Counter(f"rejects/{reason}" for reason in reasons))
            if rows is None or not is_good_N.any():
                continue
            if not is_good_N.all():
                rows, vectors_ND = rows.filter(pa.array(is_good_N)), vectors_ND[is_good_N]
            yield self._table_rows(rows, vectors_ND)

    def _vectors_of(
        self, window: Window, tally: _LeaseTally
    ) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.bool_], dict[int, BadSample]]:
        """Return the vectors of a window as they are stored, encoded or taken over; which are good; and why not."""
        if self._reuse is None:
            vectors_ND, is_good_N, bad = self._encoder.encode(window)
            return self._rotated(vectors_ND), is_good_N, bad
        vectors = encode_new(window, self._reuse, self._encoder.encode, self._rotated)
        tally.reused += vectors.reused
        return vectors.vectors_ND, vectors.is_good_N, vectors.bad

    def _rotated(self, vectors_ND: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return vectors_ND if self._table.rotation is None else self._table.rotation.apply(vectors_ND)

    def _table_rows(self, rows: pa.RecordBatch, vectors_ND: npt.NDArray[np.floating]) -> pa.RecordBatch:
        """Return rows as the table holds them."""
        columns = {name: rows.column(name) for name in rows.schema.names} | {VECTOR: to_arrow(vectors_ND)}
        names = [n for n in self._table.columns if n in ("id", "shard", *self._table.kept.names, INPUT_HASH, VECTOR)]
        fields = [self._table.dataset.schema.field(name) for name in names]
        # Columns that this run does not fill, whoever added them, are null in its rows.
        arrays = [columns[f.name] if f.name in columns else pa.nulls(rows.num_rows, f.type) for f in fields]
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


class _WorkClock:
    """Measures how long an actor is up, and how long without a lease. Entered for each lease, several at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made = self._free_since = time.perf_counter()
        self._idle_s, self._leases = 0.0, 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._leases:
                self._idle_s += time.perf_counter() - self._free_since
            self._leases += 1

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._leases -= 1
            self._free_since = time.perf_counter()

    def up_s(self) -> float:
        return time.perf_counter() - self._made

    def idle_s(self) -> float:
        with self._lock:
            return self._idle_s + (0.0 if self._leases else time.perf_counter() - self._free_since)


class _LeaseTally:
    """The rows and rejects of one lease so far."""

    def __init__(self, lease: Lease, gone: Erased, memory: int) -> None:
        self.lease, self.gone, self._memory = lease, gone, memory
        self.rows: Counter[int] = Counter()
        self.rejects: list[Reject] = []
        self.files = {shard.id: shard.name for shard in lease.shards}
        self.texts = TextCounts()
        self.units = self.reused = self.erased = 0

    @property
    def seen(self) -> int:
        return sum(self.rows.values()) + len(self.rejects)

    def add(
        self,
        window: Window,
        rows: pa.RecordBatch | None,
        is_good_N: npt.NDArray[np.bool_],
        bad: dict[int, BadSample],
    ) -> None:
        self.rejects += window.rejects
        self.units += window.units
        self.texts += window.texts
        if rows is None:
            return
        shards_N = rows.column("shard").to_numpy()
        ids, counts = np.unique(shards_N[is_good_N], return_counts=True)
        self.rows.update(dict(zip(ids.tolist(), counts.tolist(), strict=True)))
        self.rejects += [reject_of(int(shards_N[row]), rows, row, why) for row, why in bad.items()]

    def result(self, fragments: tuple[str, ...], seconds: StageSeconds, worker: WorkerCounters) -> LeaseResult:
        rejected = Counter(reject.shard for reject in self.rejects)
        counts = tuple(ShardCount(shard, self.rows[shard.id], rejected[shard.id]) for shard in self.lease.shards)
        done = (self.units, self.texts, self.reused, self.erased)
        return LeaseResult(counts, fragments, tuple(self.rejects), *done, seconds, worker, self._memory)
