"""What a job needs of a fleet: unit costs measured by a pilot on this machine, and what follows from them.

Owns the pilot and the arithmetic. Rates grow with cores and machines as if nothing were shared: the store, the network
and the driver are not in it, so the estimate is the least that a fleet needs.
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.embedding.embedder import WindowEncoder
from pipelines.embedding.feeder import Feeder, Window
from pipelines.embedding.plan import EmbedPlan, expected_rows
from pipelines.storage.device import pick_device
from schemas.config import EmbedConfig
from schemas.errors import ConfigError, InputError
from schemas.records import Lease

_ENOUGH_S, _LEAST_S, _MOST_PASSES = 20.0, 1.0, 1000
_WARM_UP_ROWS = 8
_ROWS_AT_ONCE = 256
_START_S = 15.0
_VECTOR_BYTES = 2  # of a stored number


@dataclass(frozen=True)
class UnitCosts:
    """What one row costs, measured on this machine.

    Attributes:
        rows: Rows that were measured.
        prepare_s: Seconds of one CPU core for reading, decoding and tokenising a row.
        encode_s: Seconds of the encoder's device for a row.
        device: `cpu`, or the name of the accelerator; a CPU used `cores` of them at once.
        cores: CPU cores of this machine.
        stored_bytes: Bytes of a row in the table, before Lance compresses the kept columns.
        units: Tokens of a row, or 1 for an image.
        memory_bytes: Most memory that this process has used.
    """

    rows: int
    prepare_s: float
    encode_s: float
    device: str
    cores: int
    stored_bytes: float
    units: float
    memory_bytes: int


@dataclass(frozen=True)
class Fleet:
    """Machines of one kind.

    Attributes:
        machines: How many.
        cpus: CPU cores of each.
        gpus: GPUs of each.
        price_per_hour: Of one machine, in any currency.
        rows_per_s: Rows that one GPU or, without GPUs, one machine encodes in a second, where you know it.
    """

    machines: int = 1
    cpus: int = 1
    gpus: int = 0
    price_per_hour: float | None = None
    rows_per_s: float | None = None


@dataclass(frozen=True)
class Sizing:
    """What a job needs of a fleet.

    Attributes:
        rows: Rows that the job would embed, scaled from the shard of median size.
        read_bytes: Bytes of its shards.
        stored_bytes: Bytes of its rows in the table.
        seconds: Wall-clock, 15 seconds of start-up included.
        rows_per_s: Of the whole fleet.
        bound_by: What the fleet runs out of first: `encode` or `prepare`.
        actors: Encoder actors: one per GPU, or per machine.
        cores_per_gpu: Cores that keep one GPU busy; None without GPUs.
        memory_bytes: Of each actor.
        network_bytes_per_s: From the shards' store, over all machines.
        cost: In the currency of the price; None without one.
    """

    rows: int
    read_bytes: int
    stored_bytes: int
    seconds: float
    rows_per_s: float
    bound_by: str
    actors: int
    cores_per_gpu: float | None
    memory_bytes: int
    network_bytes_per_s: float
    cost: float | None


def measure(config: EmbedConfig, plan: EmbedPlan, rows: int) -> UnitCosts:
    """Prepare and encode some rows of the shard of median size, and write nothing.

    Args:
        config: The job.
        plan: Its plan; it has shards to embed.
        rows: How many rows to encode, if the shard has them; after 20 seconds fewer are enough.

    Raises:
        InputError: None of the rows can be embedded.
    """
    shard = sorted(plan.todo, key=lambda shard: shard.size)[len(plan.todo) // 2]
    cores = os.cpu_count() or 1
    pilot = _Pilot(WindowEncoder(config, cores), rows)
    windows = Feeder(config, _kept(config, plan), 1).feed(Lease((shard,)))
    while not pilot.is_enough:
        began = time.process_time()  # of all threads: a tokeniser has its own
        window = next(windows, None)
        if window is None:
            break
        pilot.add(window, time.process_time() - began)
    if not pilot.encoded:
        raise InputError(f"no sample of {shard.uri} can be embedded, so nothing is measured; try `mlake embed` on it")
    return UnitCosts(
        rows=pilot.encoded,
        prepare_s=pilot.prepare_s / pilot.prepared,
        encode_s=pilot.encode_s / pilot.timed,
        device=pick_device(config.encoder.device, "encoder.device").type,
        cores=cores,
        stored_bytes=pilot.stored_bytes / pilot.prepared + _VECTOR_BYTES * plan.space.ladder.width,
        units=pilot.units / pilot.prepared,
        memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
    )


def size(config: EmbedConfig, plan: EmbedPlan, costs: UnitCosts, fleet: Fleet) -> Sizing:
    """Compute what the job of a plan needs of a fleet.

    Raises:
        ConfigError: The fleet has GPUs, the costs were measured on a CPU, and nothing says what a GPU encodes.
    """
    if fleet.gpus and costs.device == "cpu" and fleet.rows_per_s is None:
        raise ConfigError(
            "--gpus: this machine has no GPU to measure on; run `mlake plan` on a machine of the fleet, or say with "
            "--rows-per-s how many rows one GPU encodes in a second"
        )
    rows, read_bytes = expected_rows(plan.todo, config), sum(shard.size for shard in plan.todo)
    cores = fleet.machines * fleet.cpus
    prepare_rate = cores / max(costs.prepare_s, 1e-9)
    if fleet.gpus:
        actors = fleet.machines * fleet.gpus
        encode_rate = actors * (fleet.rows_per_s or 1 / costs.encode_s)
        rate = min(encode_rate, prepare_rate)
    else:
        actors = fleet.machines
        encode_rate = actors * fleet.rows_per_s if fleet.rows_per_s else cores / (costs.encode_s * costs.cores)
        rate = 1 / (1 / encode_rate + 1 / prepare_rate)  # the same cores do both
    seconds = _START_S + rows / rate if rows else 0.0
    price = fleet.price_per_hour
    return Sizing(
        rows=rows,
        read_bytes=read_bytes,
        stored_bytes=round(rows * costs.stored_bytes),
        seconds=seconds,
        rows_per_s=rate,
        bound_by="encode" if encode_rate <= prepare_rate else "prepare",
        actors=actors,
        cores_per_gpu=encode_rate / actors * costs.prepare_s if fleet.gpus else None,
        memory_bytes=costs.memory_bytes,
        network_bytes_per_s=read_bytes * rate / rows if rows else 0.0,
        cost=None if price is None else fleet.machines * seconds / 3600 * price,
    )


def _kept(config: EmbedConfig, plan: EmbedPlan) -> pa.Schema:
    """Return the kept columns that the run would fill, with their types."""
    planned = {field.name: field for field in plan.columns.kept}
    held = {} if plan.table is None else {field.name: field for field in plan.table.kept}
    return pa.schema([(planned | held)[name] for name in config.input.columns if name in planned | held])


class _Pilot:
    def __init__(self, encoder: WindowEncoder, rows: int) -> None:
        self._encoder, self._rows, self._ends = encoder, rows, time.monotonic() + _ENOUGH_S
        self.prepared = self.encoded = self.timed = self.units = self.stored_bytes = 0
        self.prepare_s = self.encode_s = 0.0

    @property
    def is_enough(self) -> bool:
        return self.encoded >= self._rows or time.monotonic() > self._ends

    def add(self, window: Window, prepare_s: float) -> None:
        """Encode rows of a window, evenly spread over it, and again until there is a time to measure."""
        count = sum(map(len, window.costs))
        self.prepare_s, self.prepared = self.prepare_s + prepare_s, self.prepared + count
        self.units += window.units
        self.stored_bytes += sum(rows.nbytes for rows in window.rows)
        if not count:
            return
        chosen = np.unique(np.linspace(0, count - 1, min(count, self._rows - self.encoded)).astype(np.int64))
        self._encoder.encode(window, chosen[:_WARM_UP_ROWS])
        for passes in range(_MOST_PASSES):
            for part in np.array_split(chosen, -(-len(chosen) // _ROWS_AT_ONCE)):
                before = self._encoder.busy_s
                _, is_good_N, _ = self._encoder.encode(window, part)
                self.encode_s += self._encoder.busy_s - before
                self.timed += int(is_good_N.sum())
                self.encoded += 0 if passes else int(is_good_N.sum())
                if time.monotonic() > self._ends:
                    return
            if self.encode_s >= _LEAST_S or not self.timed:
                return
