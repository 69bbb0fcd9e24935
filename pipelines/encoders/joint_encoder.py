"""Joint models: two towers in one space. Each input goes to the tower of its modality."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipelines.encoders.protocol import (
    BadSample,
    Encoder,
    Prepared,
    Preparer,
    Raw,
    modality_of,
    modality_of_prepared,
)
from pipelines.encoders.text_counts import count_texts
from pipelines.encoders.token_places import TokenPlaces, token_places
from schemas.errors import InputError
from schemas.records import Modality, TextCounts

T = TypeVar("T")


class JointPreparer:
    """Prepares each input with the preparer of its modality."""

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
        """Return the cost of each of B inputs of one modality, (B,)."""
        if not len(prepared):
            return np.empty(0, np.int64)
        return self._tower(modality_of_prepared(prepared[0])).units(prepared)

    def count_texts(self, values: Sequence[Raw], prepared: Sequence[Prepared]) -> TextCounts:
        """Count the tokens of texts, of values of one modality."""
        return count_texts(self._tower(modality_of(values[0])), values, prepared) if len(values) else TextCounts()

    def token_places(self) -> TokenPlaces | None:
        """Return what finds the tokens of texts; None where there is no tower of texts, or it cannot say it."""
        return token_places(self._towers.get("text"))

    def _tower(self, modality: Modality) -> Preparer:
        return tower_of(self._towers, modality)


class JointEncoder:
    """Encodes with the tower of the batch's modality; each tower is loaded at its first batch."""

    def __init__(self, towers: Mapping[Modality, Callable[[], Encoder]]) -> None:
        """Keep a loader per modality."""
        self._loaders = towers
        self._loaded: dict[Modality, Encoder] = {}

    def encode(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.float32]:
        """Encode a batch of one modality to (B, D) float32 unit rows."""
        modality = modality_of_prepared(prepared[0])
        if modality not in self._loaded:
            self._loaded[modality] = tower_of(self._loaders, modality)()
        return self._loaded[modality].encode(prepared)


def tower_of(towers: Mapping[Modality, T], modality: Modality) -> T:
    """Return the tower of a modality.

    Raises:
        InputError: The model has none.
    """
    if modality not in towers:
        raise InputError(f"this encoder takes {' and '.join(towers)} inputs; this input is {modality}")
    return towers[modality]
