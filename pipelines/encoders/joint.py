"""Two towers, one space: each input goes to the tower of its modality."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipelines.encoders.protocol import BadSample, Encoder, Prepared, Preparer, Raw, modality_of, modality_prepared
from schemas.errors import InputError
from schemas.records import Modality

T = TypeVar("T")


class JointPreparer:
    """Prepares words with the one tower's preparer and images with the other's."""

    def __init__(self, towers: Mapping[Modality, Preparer]) -> None:
        """Keep one preparer per modality."""
        self._towers = towers

    def prepare(self, values: Sequence[Raw]) -> Sequence[Prepared | BadSample]:
        """Prepare values of one modality, or of several mixed."""
        kinds = [modality_of(value) for value in values]
        if len(set(kinds)) == 1:
            return self._tower(kinds[0]).prepare(values)
        return [self._tower(kind).prepare([value])[0] for kind, value in zip(kinds, values, strict=True)]

    def units(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.int64]:
        """What the tower of their modality says."""
        return self._tower(modality_prepared(prepared[0])).units(prepared) if len(prepared) else np.empty(0, np.int64)

    def _tower(self, kind: Modality) -> Preparer:
        return tower(self._towers, kind)


class JointEncoder:
    """Encodes with the tower of the batch's modality, which is loaded when first needed."""

    def __init__(self, towers: Mapping[Modality, Callable[[], Encoder]]) -> None:
        """Keep how to load each tower."""
        self._loaders = towers
        self._loaded: dict[Modality, Encoder] = {}

    def encode(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.float32]:
        """Encode a batch of one modality to (B, D) float32 unit rows."""
        kind = modality_prepared(prepared[0])
        if kind not in self._loaded:
            self._loaded[kind] = tower(self._loaders, kind)()
        return self._loaded[kind].encode(prepared)


def tower(towers: Mapping[Modality, T], kind: Modality) -> T:
    """Return the tower of a modality.

    Raises:
        InputError: The model has none.
    """
    if kind not in towers:
        raise InputError(f"this encoder takes {' and '.join(towers)} inputs; it got one that is {kind}")
    return towers[kind]
