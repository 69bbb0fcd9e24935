"""One lease's way from shards to uncommitted fragments: read -> prepare -> encode -> write.

    read_blocks(shard)        a thread reads and unpacks            Block: ids, inputs, kept columns
      -> Feeder.feed          threads tokenise or decode            Window: prepared inputs
        -> Embedder._encoded  the encoder, one batch at a time      RecordBatch: id, shard, kept columns, vector
          -> write_fragments  Lance writes while the next encodes   JSON of fragments nobody sees yet

Between two stages stands an `Prefetcher`: the earlier one runs in its own thread, bounded by bytes, so that the encoder
never waits for what could have been done before. A lease that failed is embedded again from its first byte. Owns the
order of the stages; owns no file format, no model and no commit.

Shapes: N rows of a window, D full width.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from pipelines.embedding.batching import BatchBudget, encode_safely
from pipelines.embedding.prepare_pool import PreparePool, Submitted
from pipelines.encoders import BadSample, Prepared, Raw, TokenLists, concatenate, load_encoder, load_preparer, select
from pipelines.shards import read_blocks
from pipelines.storage.prefetch import Prefetcher
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_arrow, to_numpy
from pipelines.vectors.rotation import Rotation, fit_pca
from schemas.columns import VECTOR
from schemas.config import EmbedConfig
from schemas.errors import InputError, TooManyRejects
from schemas.records import Lease, LeaseResult, Reject, Shard, ShardCount, StageSeconds

_AHEAD = 2
_PARTS_BEGUN = 1
_WINDOWS_ALIVE = _AHEAD + 2  # waiting, being filled, being encoded
_PREPARE_ROWS = {"text": 4096, "image": 64, "vector": 1024}
_FEWEST_JUDGED = 10_000
_FIT_SHARDS = 32


@dataclass
class Window:
    """Neighbouring samples, prepared, that are batched together.

    Attributes:
        rows: `id, shard, position, <kept>` of the N samples.
        parts: Their inputs, ready for the encoder.
        costs: What each costs: tokens, or 1 for an image; one int64 array a part.
        units: What all of them cost.
        rejects: Samples of the same stretch that fell out before the encoder.
        nbytes: Size of all of it.
        read_s: Seconds that the feeder waited for the reader.
        prepare_s: Seconds that it tokenised or decoded.
    """

    rows: list[pa.RecordBatch] = field(default_factory=list)
    parts: list[Sequence[Prepared]] = field(default_factory=list)
    costs: list[npt.NDArray[np.int64]] = field(default_factory=list)
    units: int = 0
    rejects: list[Reject] = field(default_factory=list)
    nbytes: int = 0
    read_s: float = 0.0
    prepare_s: float = 0.0


@dataclass(frozen=True)
class _Part:
    """A stretch of a block that threads are preparing."""

    shard: Shard
    rows: pa.RecordBatch
    rejects: Sequence[Reject]
    submitted: Submitted
    read_s: float


class Feeder:
    """The CPU half: reads, decodes, tokenises. Needs no weights, so it can run on other machines than the encoder."""

    def __init__(self, config: EmbedConfig, kept: pa.Schema, threads: int) -> None:
        """Load the preparer.

        Args:
            config: The job.
            kept: Kept columns of the table; every shard is brought to them.
            threads: Images that are decoded at once; tokenisers have threads of their own.
        """
        self._config, self._kept = config, kept
        modality = config.input.modality
        self._threads = threads if modality == "image" else 1
        self._prepare_rows = _PREPARE_ROWS[modality]
        self._preparer = load_preparer(config.encoder, config.limits)
        self._window_units = BatchBudget.of(config.encoder, modality).window_units
        self._window_bytes = config.limits.buffer_bytes // _WINDOWS_ALIVE

    def feed(self, lease: Lease) -> Iterator[Window]:
        """Yield the samples of a lease, prepared, in windows of bounded bytes that reach across its shards."""
        window = Window()
        with closing(PreparePool(self._preparer, self._threads, self._config.limits.sample_timeout_s)) as pool:
            for part in self._prepared_ahead(lease, pool):
                began = time.perf_counter()
                self._add(window, part, pool)
                window.read_s += part.read_s
                window.prepare_s += time.perf_counter() - began
                if window.units >= self._window_units or window.nbytes >= self._window_bytes:
                    yield window
                    window = Window()
        yield window

    def _prepared_ahead(self, lease: Lease, pool: PreparePool) -> Iterator[_Part]:
        """Yield the parts of a lease while the threads prepare the one after."""
        waiting: deque[_Part] = deque()
        for part in self._parts(lease, pool):
            waiting.append(part)
            if len(waiting) > _PARTS_BEGUN:
                yield waiting.popleft()
        yield from waiting

    def _parts(self, lease: Lease, pool: PreparePool) -> Iterator[_Part]:
        config = self._config
        for shard in lease.shards:
            blocks = Prefetcher(
                read_blocks(shard, config.input, config.limits, config.storage, self._kept), _AHEAD, "read"
            )
            waited_s = 0.0
            for block in blocks:
                rejects = block.rejects
                for start in range(0, max(1, block.rows.num_rows), self._prepare_rows):
                    rows = block.rows.slice(start, self._prepare_rows)
                    submitted = pool.submit(_values(rows.column("input")))
                    yield _Part(shard, rows, rejects, submitted, blocks.waited_s - waited_s)
                    rejects, waited_s = (), blocks.waited_s

    def _add(self, window: Window, part: _Part, pool: PreparePool) -> None:
        """Take a part into a window; what could not be prepared becomes a Reject."""
        shard, rows = part.shard, part.rows
        window.rejects.extend(part.rejects)
        prepared, bad = _split_bad(pool.result(part.submitted))
        for place, why in bad.items():
            position, key = rows.column("position")[place].as_py(), rows.column("id")[place].as_py()
            window.rejects.append(Reject(shard.id, position, key, why.reason, str(why)))
        rows = rows.drop_columns("input")
        if bad:
            rows = rows.take(np.delete(np.arange(rows.num_rows), list(bad)))
        costs = self._preparer.units(prepared)
        window.parts.append(prepared)
        window.costs.append(costs)
        window.units += int(costs.sum())
        window.rows.append(rows.append_column("shard", pa.array(np.full(rows.num_rows, shard.id))))
        window.nbytes += rows.nbytes + _nbytes(prepared)


def _split_bad(prepared: Sequence[Prepared | BadSample]) -> tuple[Sequence[Prepared], dict[int, BadSample]]:
    """Part what was prepared from what could not be, each of those by its place."""
    if isinstance(prepared, TokenLists):
        return prepared, {}
    bad = {place: one for place, one in enumerate(prepared) if isinstance(one, BadSample)}
    return [one for one in prepared if not isinstance(one, BadSample)], bad


def _nbytes(prepared: Sequence[Prepared]) -> int:
    return prepared.nbytes if isinstance(prepared, TokenLists) else sum(one.nbytes for one in prepared)


def _values(inputs: pa.Array) -> Sequence[Raw]:
    """Return inputs as the preparer takes them: strings, bytes, or the rows of an array."""
    return list(to_numpy(inputs)) if pa.types.is_fixed_size_list(inputs.type) else inputs.to_pylist()


class WindowEncoder:
    """The accelerator half: turns windows into vectors, one batch at a time, whichever lease they are from.

    Attributes:
        busy_s: Seconds in which the encoder worked.
    """

    def __init__(self, config: EmbedConfig, threads: int) -> None:
        """Load the encoder onto its device; `threads` are torch's own on a CPU."""
        torch.set_num_threads(threads)
        self._encoder = load_encoder(config.encoder)
        self._budget = BatchBudget.of(config.encoder, config.input.modality)
        self._lock = threading.Lock()
        self.busy_s = 0.0

    def encode(self, window: Window) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], dict[int, BadSample]]:
        """Encode a window in batches of near-equal length.

        Returns:
            (N, D) float32 unit rows in the window's order; which of the N are good; and why the others are not.
        """
        prepared, units = concatenate(window.parts), np.concatenate([np.empty(0, np.int64), *window.costs])
        good = np.zeros(len(units), bool)
        bad: dict[int, BadSample] = {}
        vectors_ND = np.empty((len(units), 0), np.float32)
        for batch in self._budget.plan(units):
            chosen = select(prepared, batch)
            with self._lock:
                began = time.perf_counter()
                encoded = encode_safely(self._encoder, chosen, units[batch], self._budget)
                self.busy_s += time.perf_counter() - began
            if not vectors_ND.size:
                vectors_ND = np.zeros((len(units), encoded.vectors_BD.shape[1]), np.float32)
            if len(encoded.good):
                vectors_ND[batch[encoded.good]] = encoded.vectors_BD
            good[batch[encoded.good]] = True
            bad |= {int(batch[place]): why for place, why in encoded.bad.items()}
        return vectors_ND, good, bad


class Embedder:
    """Embeds leases into uncommitted fragments of a table. Lives in an actor; several leases may run at once."""

    def __init__(self, config: EmbedConfig, threads: int) -> None:
        """Open the table and load the encoder, in the dtype that the table's space says."""
        self._table = VectorTable.open(config.table, storage=config.storage)
        encoder = config.encoder.model_copy(update={"dtype": self._table.space.dtype})
        self._config = config.model_copy(update={"encoder": encoder})
        self._feeder = Feeder(self._config, self._table.kept, threads)
        self._encoder = WindowEncoder(self._config, threads)
        self._done = {"rows": 0, "rejects": 0, "units": 0}

    def run(self, lease: Lease, windows: Iterator[Window] | None = None) -> LeaseResult:
        """Embed a lease.

        Args:
            lease: Its shards are read as one stream.
            windows: Its samples, where another machine prepares them; None prepares them here.

        Raises:
            InputError: A shard cannot be read.
            TooManyRejects: Most of the lease falls out; the message counts the reasons.
        """
        began, seconds = time.perf_counter(), StageSeconds()
        lease_run = _LeaseRun(lease)
        source = Prefetcher(self._feeder.feed(lease) if windows is None else windows, _AHEAD, "feed")
        encoded = Prefetcher(self._encoded(source, lease_run, seconds), _AHEAD, "encode")
        try:
            fragments = self._table.write_fragments(encoded)
        finally:
            encoded.close()
            source.close()
        seconds.encoder_waited = source.waited_s
        seconds.write = encoded.blocked_s
        seconds.total = time.perf_counter() - began
        return lease_run.result(fragments, seconds)

    def progress(self) -> dict[str, int]:
        """Return rows, rejects, units and the encoder's busy milliseconds since the actor started."""
        return self._done | {"busy_ms": int(1000 * self._encoder.busy_s)}

    def _encoded(
        self, windows: Prefetcher[Window], lease_run: _LeaseRun, seconds: StageSeconds
    ) -> Iterator[pa.RecordBatch]:
        schema, rotation = self._table.dataset.schema, self._table.rotation
        names = ["id", "shard", *self._table.kept.names]
        for window in windows:
            began = time.perf_counter()
            vectors_ND, good, bad = self._encoder.encode(window)
            seconds.encode += time.perf_counter() - began
            seconds.read += window.read_s
            seconds.prepare += window.prepare_s
            rows = pa.Table.from_batches(window.rows).combine_chunks().to_batches()[0] if len(good) else None
            lease_run.add(window, rows, good, bad)
            self._check_rejects(lease_run)
            for name, amount in (
                ("rows", good.sum()),
                ("rejects", len(window.rejects) + len(bad)),
                ("units", window.units),
            ):
                self._done[name] += int(amount)
            if rows is None or not good.any():
                continue
            if not good.all():
                rows, vectors_ND = rows.filter(pa.array(good)), vectors_ND[good]
            if rotation is not None:
                vectors_ND = rotation.apply(vectors_ND)
            columns = [rows.column(name) for name in names]
            fields = [schema.field(name) for name in [*names, VECTOR]]
            yield pa.RecordBatch.from_arrays([*columns, to_arrow(vectors_ND)], schema=pa.schema(fields))

    def _check_rejects(self, lease_run: _LeaseRun) -> None:
        share = len(lease_run.rejects) / max(1, lease_run.seen)
        if lease_run.seen >= _FEWEST_JUDGED and share > self._config.limits.max_reject_fraction:
            raise too_many_rejects(lease_run.rejects, len(lease_run.rejects), lease_run.seen, self._config)


class _LeaseRun:
    """What one lease has given so far."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.rows: Counter[int] = Counter()
        self.rejects: list[Reject] = []
        self.units = 0

    @property
    def seen(self) -> int:
        return sum(self.rows.values()) + len(self.rejects)

    def add(
        self,
        window: Window,
        rows: pa.RecordBatch | None,
        good: npt.NDArray[np.bool_],
        bad: dict[int, BadSample],
    ) -> None:
        self.rejects += window.rejects
        self.units += window.units
        if rows is None:
            return
        shards = rows.column("shard").to_numpy()
        ids, counts = np.unique(shards[good], return_counts=True)
        self.rows.update(dict(zip(ids.tolist(), counts.tolist(), strict=True)))
        for place, why in bad.items():
            position, key = rows.column("position")[place].as_py(), rows.column("id")[place].as_py()
            self.rejects.append(Reject(int(shards[place]), position, key, why.reason, str(why)))

    def result(self, fragments: tuple[str, ...], seconds: StageSeconds) -> LeaseResult:
        rejected = Counter(reject.shard for reject in self.rejects)
        counts = tuple(ShardCount(shard, self.rows[shard.id], rejected[shard.id]) for shard in self.lease.shards)
        return LeaseResult(counts, fragments, tuple(self.rejects), self.units, seconds)


def too_many_rejects(examples: Sequence[Reject], rejected: int, seen: int, config: EmbedConfig) -> TooManyRejects:
    """Build the error that says how many samples fell out, why, and what to do."""
    reasons = Counter(reject.reason for reject in examples).most_common(3)
    first = examples[0]
    return TooManyRejects(
        f"{rejected} of {seen} samples were rejected, more than limits.max_reject_fraction = "
        f"{config.limits.max_reject_fraction}; lately {', '.join(f'{count} x {reason}' for reason, count in reasons)}; "
        f"for example {first.key or first.position}: {first.message}; mend [input], or raise the limit"
    )


class RotationFitter:
    """Fits the PCA rotation of a new table, on samples taken evenly from up to 32 shards. Lives in an actor."""

    def __init__(self, config: EmbedConfig, threads: int) -> None:
        """Load the encoder."""
        self._sample_rows = config.rotation.sample_rows
        bare = config.model_copy(update={"input": config.input.model_copy(update={"keep": ()})})
        self._feeder, self._encoder = Feeder(bare, pa.schema([]), threads), WindowEncoder(bare, threads)
        self._rows = 0

    def run(self, shards: Sequence[Shard]) -> Rotation:
        """Encode the sample and fit.

        Raises:
            InputError: A shard cannot be read, or no sample of any can be embedded.
        """
        chosen = shards[:: -(-len(shards) // _FIT_SHARDS)]
        quota = -(-self._sample_rows // len(chosen))
        try:
            return fit_pca(block for shard in chosen for block in self._sample(shard, quota))
        except ValueError as error:
            raise InputError(f"no sample of {chosen[0].uri} can be embedded: {error}") from None

    def progress(self) -> dict[str, int]:
        """Return the vectors made so far."""
        return {"rows": self._rows}

    def _sample(self, shard: Shard, rows: int) -> Iterator[npt.NDArray[np.float32]]:
        for window in self._feeder.feed(Lease((shard,))):
            vectors_ND, good, _ = self._encoder.encode(window)
            taken = vectors_ND[good][:rows]
            if len(taken):
                yield taken
            rows -= len(taken)
            self._rows += len(taken)
            if rows <= 0:
                return
