"""Where the tokens of a text are, for those who cut it into passages.

Owns what a tokeniser of the tokenizers library says of a whole text: no text is cut here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Places = npt.NDArray[np.int64]


class TokenPlaces:
    """Finds and counts the tokens of texts. Safe in threads."""

    def __init__(self, tokenizer: Tokenizer, prompt: str, most: int, *, has_special: bool) -> None:
        """Copy the tokeniser, so that it neither cuts nor pads.

        Args:
            tokenizer: As the preparer has it.
            prompt: Stands before each text.
            most: Tokens that the encoder takes.
            has_special: Whether the encoder gets special tokens around a text.
        """
        self._tokenizer = type(tokenizer).from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._prompt, self._has_special, self.most = prompt, has_special, most

    def starts(self, text: str) -> Places:
        """Return the characters at which the tokens of a text begin, ascending, without those of the prompt."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return np.sort(np.fromiter((start for start, _ in encoding.offsets), np.int64, len(encoding.ids)))

    def count(self, texts: Sequence[str]) -> Places:
        """Return how many tokens the encoder would get of each of B whole texts, (B,), those of the prompt included."""
        prompted = [self._prompt + text for text in texts]
        encodings = self._tokenizer.encode_batch_fast(prompted, add_special_tokens=self._has_special)
        return np.fromiter((len(encoding.ids) for encoding in encodings), np.int64, len(texts))


@runtime_checkable
class FindsTokens(Protocol):
    """A preparer that knows where the tokens of a text are."""

    def token_places(self) -> TokenPlaces | None:
        """Return what finds them; None where the model's tokeniser cannot say it."""
        ...


def token_places(preparer: object) -> TokenPlaces | None:
    """Return what finds the tokens of a preparer's texts; None where it has none, or a server makes them."""
    return preparer.token_places() if isinstance(preparer, FindsTokens) else None
