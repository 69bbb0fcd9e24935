"""Fit the PCA rotation of a new table on a sample of its shards, before anything is embedded.

Owns which samples are taken. The fit itself is in `pipelines/vectors/rotation.py`; rotating a table that already holds
vectors is in `pipelines/tables`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.embedding.embedder import WindowEncoder
from pipelines.embedding.feeder import Feeder
from pipelines.vectors.rotation import Rotation, fit_pca
from schemas.config import EmbedConfig
from schemas.errors import InputError, RunError
from schemas.records import Lease, Shard
from schemas.work import RetryPolicy, WorkPool

_MAX_SHARDS = 32


class RotationFitter:
    """Fits a rotation on samples taken evenly from up to 32 shards. Lives in an actor."""

    def __init__(self, config: EmbedConfig, threads: int) -> None:
        """Load the encoder."""
        self._sample_rows = config.rotation.sample_rows
        without_kept = config.model_copy(update={"input": config.input.model_copy(update={"keep": ()})})
        self._feeder = Feeder(without_kept, pa.schema([]), threads)
        self._encoder = WindowEncoder(without_kept, threads)
        self._rows = 0

    def run(self, shards: Sequence[Shard]) -> Rotation:
        """Encode the sample and fit.

        Raises:
            InputError: A shard cannot be read, or no sample of any can be embedded.
        """
        sampled = shards[:: -(-len(shards) // _MAX_SHARDS)]
        rows_each = -(-self._sample_rows // len(sampled))
        try:
            return fit_pca(x_BD for shard in sampled for x_BD in self._sample(shard, rows_each))
        except ValueError as error:
            raise InputError(f"no sample of {sampled[0].uri} can be embedded: {error}") from None

    def progress(self) -> dict[str, int]:
        """Return the vectors encoded so far."""
        return {"rows": self._rows}

    def _sample(self, shard: Shard, rows: int) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the vectors of a shard's first rows."""
        for window in self._feeder.feed(Lease((shard,))):
            vectors_ND, is_good_N, _ = self._encoder.encode(window)
            taken = vectors_ND[is_good_N][:rows]
            if len(taken):
                yield taken
            rows -= len(taken)
            self._rows += len(taken)
            if rows <= 0:
                return


def fit_rotation(
    pool: WorkPool[tuple[Shard, ...], Rotation],
    shards: tuple[Shard, ...],
    max_tries: int,
    tell: Callable[[int], None] = lambda rows: None,
) -> Rotation:
    """Fit a rotation in a pool of one `RotationFitter`.

    Args:
        pool: The pool.
        shards: Sampled evenly.
        max_tries: How often the actor may die.
        tell: Told now and then how many samples are encoded.

    Raises:
        LakeError: The fitter's own error.
        RunError: The actor died `max_tries` times.
    """
    retry = RetryPolicy[tuple[Shard, ...]](max_tries, is_final=lambda error: True)
    outcomes = []
    for outcome in pool.run([shards], retry):
        if outcome is None:
            tell(pool.progress().get("rows", 0))
        else:
            outcomes.append(outcome)
    (outcome,) = outcomes
    if outcome.result is not None:
        return outcome.result
    if outcome.died:
        raise RunError(
            f"the actor that fits the rotation died {max_tries} times; give it more memory, or lower sample_rows"
        ) from outcome.error
    raise outcome.error or RunError("the actor that fits the rotation gave no reason")
