"""Compare the encoder of a new table with its reference implementation, on a few of the user's own samples.

Owns which samples are taken. The comparison is in `pipelines/encoders/reference.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pyarrow as pa
import torch

from pipelines.encoders.image_preprocessing import thumbnail
from pipelines.encoders.model_files import local_path
from pipelines.encoders.protocol import BadSample, Raw
from pipelines.encoders.reference import compare_with_reference
from pipelines.encoders.registry import resolve
from pipelines.encoders.served_description import read_description
from pipelines.shards import read_blocks
from schemas.config import EmbedConfig
from schemas.errors import RunError
from schemas.journal import Equality
from schemas.records import Shard
from schemas.work import RetryPolicy, WorkPool

_CHARACTERS, _PIXELS = 2_000, 384  # of a sample, so that a few cost seconds


class EqualityChecker:
    """Compares the encoder of a job with its reference on the first samples of a shard. Lives in an actor."""

    def __init__(self, config: EmbedConfig, threads: int) -> None:
        """Load nothing yet."""
        torch.set_num_threads(threads)
        self._config = config

    def run(self, shard: Shard) -> Equality | None:
        """Compare.

        Returns:
            What was found; None where the model has no reference here, or the shard no samples.

        Raises:
            EncoderMismatch: The vectors differ.
            InputError: The shard cannot be read.
        """
        values = list(islice(self._samples(shard), self._config.encoder.reference_samples))
        return compare_with_reference(self._config.encoder, values) if values else None

    def progress(self) -> dict[str, int]:
        """Return no counters."""
        return {}

    def _samples(self, shard: Shard) -> Iterator[Raw]:
        config = self._config
        for block in read_blocks(shard, config.input, config.limits, config.storage, pa.schema([])):
            for value in block.rows.column("input").to_pylist():
                if isinstance(value, str) and value.strip():
                    yield value[:_CHARACTERS]
                elif isinstance(value, bytes):
                    try:  # small and lossless, so that only the encoders differ and not the readers of large JPEGs
                        yield thumbnail(value, _PIXELS, config.limits.max_pixels)
                    except BadSample:
                        continue


def may_compare(config: EmbedConfig) -> bool:
    """Tell whether a model of this kind can have a reference; where not, no actor is started to look for it."""
    spec = resolve(config.encoder)
    is_published = spec.family in ("clip", "sentence", "served", "static", "transformer", "vision")
    is_tested = bool(spec.package) and config.encoder.path is None
    if spec.family == "served":
        is_published = bool(read_description(local_path(config.encoder.path or "")).reference)
    return config.encoder.reference_samples > 0 and is_published and not is_tested


def check_equality(pool: WorkPool[Shard, Equality | None], shard: Shard, max_tries: int) -> Equality | None:
    """Compare in a pool of one `EqualityChecker`.

    Raises:
        LakeError: The checker's own error.
        RunError: The actor died `max_tries` times.
    """
    retry = RetryPolicy[Shard](max_tries, is_final=lambda error: True)
    (outcome,) = [outcome for outcome in pool.run([shard], retry) if outcome is not None]
    if outcome.died:
        raise RunError(
            f"the actor that compares the encoder with its reference died {max_tries} times; give it more memory, or "
            "set encoder.reference_samples=0"
        ) from outcome.error
    if outcome.error is not None:
        raise outcome.error
    return outcome.result
