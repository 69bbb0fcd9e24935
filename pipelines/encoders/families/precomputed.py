"""Vectors made elsewhere (OpenAI, Cohere, …): checked, brought to unit length, and given a space of their own.

The known makers are in the registry. Vectors of any other model enter as `brought`, with `encoder.path` naming a JSON
file that describes them: `{"model": "my-model", "revision": "2026-08", "dims": [64, 256, 768], "licence": "…"}`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.encoders.protocol import BadSample, Prepared, Raw
from pipelines.encoders.spec import EncoderSpec
from pipelines.vectors.matryoshka import unit
from schemas.config import EncoderConfig, LimitsConfig
from schemas.errors import ConfigError, SpaceMismatch


class Description(BaseModel):
    """The file at `encoder.path`: what its maker says of the vectors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    revision: str
    dims: tuple[int, ...] = Field(min_length=1)
    any_from: int | None = None
    licence: str = "its maker's"


class VectorPreparer:
    """Checks vectors: their width, that they are finite, and that they have a direction."""

    def __init__(self, spec: EncoderSpec) -> None:
        """Keep the width."""
        self._name, self._width = spec.name, spec.ladder.width

    def prepare(self, values: Sequence[Raw]) -> list[Prepared | BadSample]:
        """Turn vectors (D,) of any float dtype into float32.

        Raises:
            SpaceMismatch: Words or an image came instead: there is no model here that could embed them.
        """
        return [self._check(value) for value in values]

    def units(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.int64]:
        """One each."""
        return np.ones(len(prepared), np.int64)

    def _check(self, value: Raw) -> Prepared | BadSample:
        if isinstance(value, str | bytes):
            raise SpaceMismatch(
                f"{self._name} vectors are made elsewhere; embed the input there, and pass its {self._width} floats"
            )
        vector_D = np.asarray(value, np.float32)
        if vector_D.shape != (self._width,):
            return BadSample("wrong_width", f"shape {vector_D.shape}; {self._name} has {self._width} dims")
        if not np.isfinite(vector_D).all():
            return BadSample("not_finite", "the vector holds NaN or infinity")
        return vector_D if vector_D.any() else BadSample("zero_vector", "all zeros have no direction")


class VectorEncoder:
    """Brings vectors to unit length."""

    def encode(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.float32]:
        """Stack B vectors to (B, D) float32 unit rows."""
        return unit(np.stack(cast("list[npt.NDArray[np.float32]]", prepared)))


def describe(spec: EncoderSpec, path: Path) -> EncoderSpec:
    """Complete a spec with what the file says.

    Raises:
        ConfigError: The file is no such description.
    """
    try:
        said = Description.model_validate(json.loads(path.read_text()))
    except (OSError, ValueError, ValidationError) as error:
        raise ConfigError(f"encoder.path={path} must describe the vectors (model, revision, dims): {error}") from None
    dims = tuple(sorted(set(said.dims)))
    return replace(
        spec, dims=dims, any_from=said.any_from, revision=f"{said.model} {said.revision}", licence=said.licence
    )


def load_preparer(spec: EncoderSpec, config: EncoderConfig, limits: LimitsConfig) -> VectorPreparer:
    """Load the checks."""
    return VectorPreparer(spec)


def load_encoder(spec: EncoderSpec, config: EncoderConfig) -> VectorEncoder:
    """Load nothing: the vectors are there already."""
    return VectorEncoder()
