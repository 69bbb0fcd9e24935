"""Group prepared inputs into batches, and encode a batch so that a bad sample is rejected without its neighbours.

Owns batch sizes: how they are planned, how they grow, how they shrink. Owns no model and no thread.

Shapes: N inputs of a window, B inputs of a batch, D full width.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipelines.encoders.protocol import BadSample, Encoder, Prepared
from pipelines.encoders.registry import resolve
from pipelines.storage.device import pick_device
from pipelines.vectors.matryoshka import are_unit
from schemas.config import EncoderConfig
from schemas.errors import LakeError
from schemas.records import Modality

_MAX_WASTE = 0.02
# Below this share of a full batch, padding costs less than one more call of the model would.
_FREE_WASTE = 1 / 32
# (first size, largest size) in tokens or images. Larger ones were measured to be no faster.
_AUTO_UNITS = {
    ("text", "cpu"): (1_024, 4_096),
    ("text", "cuda"): (16_384, 262_144),
    ("image", "cpu"): (16, 32),
    ("image", "cuda"): (128, 2_048),
    ("ragged", "cpu"): (65_536, 65_536),
    ("ragged", "cuda"): (262_144, 262_144),
    ("vector", "cpu"): (4_096, 4_096),
    ("vector", "cuda"): (4_096, 4_096),
}
_MAX_ROWS = 4_096
_WINDOW_BATCHES = 64
_TYPICAL_TOKENS = 256
_LONGEST_TOKENS = 8_192  # where an encoder does not say how long a text may be
_WORTH_GROWING = 1.05
# Parts of the messages of torch on the CPU, onnxruntime and cuBLAS, which raise a plain RuntimeError.
_OUT_OF_MEMORY = ("allocate memory", "ALLOC_FAILED")


def plan_batches(
    lengths: Sequence[int] | npt.NDArray[np.int64], budget_units: int, max_rows: int
) -> list[npt.NDArray[np.int64]]:
    """Group the inputs of a window into batches of near-equal length, longest first.

    Every batch holds at most `max_rows` inputs, costs at most `budget_units` once padded to its longest input (an input
    longer than that stands alone), and wastes at most 2 % of that on padding, or 1/32 of a full batch if that is more.

    Args:
        lengths: (N,) cost of each input: tokens of a text, 1 for an image.
        budget_units: Padded tokens, or images, that one batch may have.
        max_rows: Inputs that one batch may have.

    Returns:
        Positions in `lengths`, one int64 array for each batch; together they are a permutation of 0…N-1.
    """
    cost_N = np.asarray(lengths, np.int64)
    order_N = np.argsort(-cost_N, kind="stable")
    sorted_N = cost_N[order_N]
    total = np.concatenate(([0], np.cumsum(sorted_N)))
    full_batch = min(budget_units, max_rows * total[-1] / max(1, len(sorted_N)))
    batches = []
    start = 0
    while start < len(order_N):
        longest = max(1, int(sorted_N[start]))
        most = min(max_rows, max(1, budget_units // longest), len(order_N) - start)
        padded = longest * np.arange(1, most + 1)
        waste = padded - (total[start + 1 : start + most + 1] - total[start])
        fits = waste <= np.maximum(_MAX_WASTE * padded, _FREE_WASTE * full_batch)
        stop = start + (most if fits.all() else max(1, int(np.argmin(fits))))
        batches.append(order_N[start:stop])
        start = stop
    return batches


@dataclass
class BatchBudget:
    """The size of a batch: grows while larger batches are faster, shrinks for good when memory runs out.

    Attributes:
        units: Padded tokens, or images, a batch may have.
        rows: Inputs a batch may have.
        ceiling: Units it may grow to; equal to `units` where the size is fixed.
        window_batches: How many batches of input are sorted together.
        pads: Whether the encoder pads the inputs of a batch to one length.
    """

    units: int
    rows: int
    ceiling: int
    window_batches: int = _WINDOW_BATCHES
    pads: bool = True
    _best_rate: float = 0.0
    _full_batches: int = 0
    _whole: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        """Remember the first size."""
        self._whole = self.ceiling, self.rows

    @property
    def window_units(self) -> int:
        """Units to gather before planning: texts are sorted by length among many, images are not."""
        return self.units * self.window_batches

    @classmethod
    def of(cls, config: EncoderConfig, modality: Modality | None = None) -> BatchBudget:
        """Make the budget of a config: `batch = "auto"` starts small and grows; a number stays until memory runs out.

        Args:
            config: The encoder block of a job.
            modality: The kind of input, where the encoder takes more than one.
        """
        spec = resolve(config)
        modality = modality or spec.modalities[0]
        pads = not spec.is_ragged
        window = _WINDOW_BATCHES if modality == "text" and pads else 1
        if isinstance(config.batch, int):
            longest = (spec.max_length or _LONGEST_TOKENS) if modality == "text" else 1
            units = config.batch * longest
            # Few texts have the longest length; a window sized for that would be far too large.
            window = max(1, window * min(longest, _TYPICAL_TOKENS) // longest)
            return cls(units=units, rows=config.batch, ceiling=units, window_batches=window, pads=pads)
        start, ceiling = _AUTO_UNITS[modality if pads else "ragged", pick_device(config.device, "encoder.device").type]
        return cls(units=start, rows=_MAX_ROWS, ceiling=ceiling, window_batches=window, pads=pads)

    def plan(self, lengths: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
        """Group the N inputs of a window into batches: by length where they are padded, else in their order.

        Returns:
            Positions in `lengths`, one int64 array for each batch; together they are a permutation of 0…N-1.
        """
        if self.pads:
            return plan_batches(lengths, self.units, self.rows)
        filled = (np.cumsum(lengths) - lengths) // self.units
        firsts = np.flatnonzero(np.diff(filled, prepend=-1))
        runs = [run for run in np.split(np.arange(len(lengths)), firsts) if len(run)]
        return [batch for run in runs for batch in np.array_split(run, -(-len(run) // self.rows))]

    def padding(self, lengths: npt.NDArray[np.int64]) -> int:
        """Return the units of padding in a batch of inputs of these lengths."""
        return int(lengths.max() * len(lengths) - lengths.sum()) if self.pads and len(lengths) else 0

    def on_success(self, units: int, seconds: float) -> None:
        """Count an encoded batch; after two full ones, double the size if the last doubling was 5 % faster or more."""
        if 2 * units <= self.units or self.units >= self.ceiling:
            return
        self._full_batches += 1
        if self._full_batches < 3:  # the first of a size includes warming up
            return
        rate = units / max(seconds, 1e-9)
        if rate < _WORTH_GROWING * self._best_rate:
            self.ceiling = self.units
            return
        self._best_rate, self._full_batches = rate, 0
        self.units = min(2 * self.units, self.ceiling)

    def lighten(self, halvings: int) -> None:
        """Allow at most the first size divided by 2^halvings from now on: the process was killed for want of memory."""
        units, rows = (max(1, whole >> halvings) for whole in self._whole)
        self.ceiling, self.rows = min(self.ceiling, units), min(self.rows, rows)
        self.units = min(self.units, self.ceiling)

    def on_out_of_memory(self, units: int) -> None:
        """Allow at most half of `units` from now on: a batch of that size did not fit."""
        self.units = self.ceiling = max(1, min(self.units, units // 2))


def most_halvings(config: EncoderConfig) -> int:
    """Return how often the batches of a config can be halved: down to single inputs, or to some hundred tokens."""
    largest = config.batch if isinstance(config.batch, int) else max(most for _, most in _AUTO_UNITS.values()) // 128
    return largest.bit_length() - 1


@dataclass(frozen=True)
class Encoded:
    """The result of one batch.

    Attributes:
        vectors_BD: float32 unit rows of the good inputs, in the order given.
        good: Positions of the good inputs in the batch, ascending.
        bad: Position of each bad input to its reason.
    """

    vectors_BD: npt.NDArray[np.float32]
    good: npt.NDArray[np.int64]
    bad: dict[int, BadSample]


def encode_safely(
    encoder: Encoder, prepared: Sequence[Prepared], units: Sequence[int] | npt.NDArray[np.int64], budget: BatchBudget
) -> Encoded:
    """Encode the good inputs of a batch and return the reasons of the bad ones.

    A batch that fails is bisected until the bad input stands alone. A batch that does not fit into memory is halved,
    and `budget` shrinks. A row that is not of unit length, as far as half precision can tell, is bad.

    Args:
        encoder: Any family.
        prepared: B outputs of the matching Preparer.
        units: (B,) their costs (`Preparer.units`).
        budget: Updated in place.

    Raises:
        LakeError: The encoder itself cannot work; no input is the cause.
        torch.AcceleratorError: The GPU has failed, and works again only in a new process.
    """
    parts: list[npt.NDArray[np.float32]] = []
    good: list[npt.NDArray[np.int64]] = []
    bad: dict[int, BadSample] = {}
    cost = np.asarray(units, np.int64)
    todo = [(0, len(prepared))] if len(prepared) else []
    while todo:
        start, stop = todo.pop()
        result = _encode(encoder, prepared[start:stop], int(cost[start:stop].max()) * (stop - start), budget)
        if isinstance(result, BadSample):
            if stop - start == 1:
                bad[start] = result
            else:
                middle = (start + stop) // 2
                todo += [(middle, stop), (start, middle)]
            continue
        usable = are_unit(result)
        parts.append(result if usable.all() else result[usable])
        good.append(start + np.flatnonzero(usable))
        bad |= {start + int(row): _why_unusable(result[row]) for row in np.flatnonzero(~usable)}
    if len(parts) == 1:
        return Encoded(parts[0], good[0], bad)
    width = max((part.shape[1] for part in parts), default=0)
    vectors = np.concatenate([part for part in parts if len(part)] or [np.empty((0, width), np.float32)])
    return Encoded(vectors, np.concatenate([np.empty(0, np.int64), *good]), bad)


def _encode(
    encoder: Encoder, prepared: Sequence[Prepared], units: int, budget: BatchBudget
) -> npt.NDArray[np.float32] | BadSample:
    try:
        began = time.perf_counter()
        vectors = encoder.encode(prepared)
        budget.on_success(units, time.perf_counter() - began)
        return vectors
    except (LakeError, torch.AcceleratorError):
        raise
    except BadSample as error:
        failure = error.with_traceback(None)
    except (torch.OutOfMemoryError, MemoryError) as error:
        failure = BadSample("out_of_memory", _one_line(error))
    except Exception as error:  # a model may raise anything on a strange input
        is_out_of_memory = any(sign in str(error) for sign in _OUT_OF_MEMORY)
        failure = BadSample("out_of_memory" if is_out_of_memory else "encode_failed", _one_line(error))
    # Only after the except block are the failed batch's tensors free and the cache can be emptied.
    if failure.reason == "out_of_memory":
        budget.on_out_of_memory(units)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return failure


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def _why_unusable(x_D: npt.NDArray[np.float32]) -> BadSample:
    if not np.isfinite(x_D).all():
        return BadSample("not_finite", "the encoder gave NaN or infinity")
    if not x_D.any():
        return BadSample("zero_vector", "the encoder gave all zeros, which has no direction")
    length = np.linalg.norm(x_D.astype(np.float64))
    return BadSample("not_unit", f"the encoder gave a row of length {length:.3g}; it must be 1")
