"""Token ids of many texts as one flat array: a text costs no Python object on its way to the encoder.

Owns the container and the operations on prepared inputs, which may be other arrays as well.

Shapes: B texts, T tokens of all of them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar, cast, overload

import numpy as np
import numpy.typing as npt

from pipelines.encoders.protocol import Prepared

Ids = npt.NDArray[np.int32]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class TokenLists(Sequence[Ids]):
    """B lists of token ids, each an int32 array (L,).

    Attributes:
        flat: (T,) int32, the lists one after the other.
        starts: (B + 1,) int64; list i is `flat[starts[i] : starts[i + 1]]`.
    """

    flat: Ids
    starts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]]) -> TokenLists:
        """Make token lists from Python lists of ids."""
        starts = _starts(np.fromiter(map(len, lists), np.int64, len(lists)))
        return cls(np.fromiter(chain.from_iterable(lists), np.int32, int(starts[-1])), starts)

    @classmethod
    def concatenate(cls, parts: Sequence[TokenLists]) -> TokenLists:
        """Concatenate token lists."""
        lengths = np.concatenate([part.lengths for part in parts])
        return cls(np.concatenate([part.flat[part.starts[0] : part.starts[-1]] for part in parts]), _starts(lengths))

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Number of tokens in each list, (B,)."""
        return np.diff(self.starts)

    @property
    def nbytes(self) -> int:
        """Bytes of the ids."""
        return 4 * int(self.starts[-1] - self.starts[0])

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, place: int) -> Ids: ...
    @overload
    def __getitem__(self, place: slice) -> TokenLists: ...
    def __getitem__(self, place: int | slice) -> Ids | TokenLists:
        """Return one list, or a slice of them; neither copies."""
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            if step != 1:
                return self.take(np.arange(start, stop, step))
            return TokenLists(self.flat, self.starts[start : max(start, stop) + 1])
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        place %= len(self)
        return self.flat[self.starts[place] : self.starts[place + 1]]

    def take(self, places: npt.NDArray[np.int64]) -> TokenLists:
        """Return the lists at the given places, in that order."""
        return self._gather(self.starts[places], self.lengths[places])

    def truncate(self, longest: int) -> TokenLists:
        """Cut each list after its first `longest` ids."""
        lengths = self.lengths
        if len(lengths) == 0 or lengths.max() <= longest:
            return self
        return self._gather(self.starts[:-1], np.minimum(lengths, longest))

    def _gather(self, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> TokenLists:
        into = _starts(lengths)
        places_T = np.arange(into[-1]) + np.repeat(starts - into[:-1], lengths)
        return TokenLists(self.flat[places_T], into)


def _starts(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))


def concatenate(parts: Sequence[Sequence[T]]) -> Sequence[T]:
    """Concatenate prepared inputs, or anything that stands in their places."""
    if len(parts) == 1:
        return parts[0]
    if parts and all(isinstance(part, TokenLists) for part in parts):
        return cast("Sequence[T]", TokenLists.concatenate(cast("Sequence[TokenLists]", parts)))
    return list(chain.from_iterable(parts))


def select(prepared: Sequence[Prepared], places: npt.NDArray[np.int64]) -> Sequence[Prepared]:
    """Return the prepared inputs at the given places, in that order."""
    if isinstance(prepared, TokenLists):
        return prepared.take(places)
    return [prepared[place] for place in places]


def token_counts(prepared: Sequence[Prepared]) -> npt.NDArray[np.int64]:
    """Count the tokens of each of B texts, (B,)."""
    if isinstance(prepared, TokenLists):
        return prepared.lengths
    return np.fromiter(map(len, prepared), np.int64, len(prepared))


def flatten(prepared: Sequence[Prepared]) -> tuple[Ids, npt.NDArray[np.int64]]:
    """Return the ids of B texts one after the other, (T,) int32, and the length of each, (B,) int64."""
    if not isinstance(prepared, TokenLists):
        prepared = TokenLists.of(cast("Sequence[Sequence[int]]", prepared))
    return prepared.flat[prepared.starts[0] : prepared.starts[-1]], prepared.lengths
