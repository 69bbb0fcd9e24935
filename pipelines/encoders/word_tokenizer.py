"""WordTokenizer: tokenises each distinct word once, for tokenisers whose tokens never join two words.

The BPE of the Llama family treats a whole text as one word. Its own cache therefore never hits, and it takes most of
the time of a fast encoder. But as long as no token has a space after its first other character, no merge crosses from
one word to the next: the ids of a text are those of its words, one after the other.

Shapes: B texts, W words of all of them together.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer

from pipelines.encoders.text_beginnings import BETWEEN_WORDS
from pipelines.encoders.token_lists import TokenLists

_SPACE = "▁"
_MAX_KNOWN_IDS = 1 << 21  # of known words; above that the cache is emptied


class WordTokenizer:
    """Gives the same ids as `tokenizer.encode_batch_fast(texts, add_special_tokens=False)`. Safe in threads."""

    def __init__(self, tokenizer: Tokenizer, max_length: int, max_known_ids: int = _MAX_KNOWN_IDS) -> None:
        """Check that no token joins two words.

        Args:
            tokenizer: BPE whose normaliser puts a space before each text and writes spaces as `▁`.
            max_length: Number of ids after which a text is cut.
            max_known_ids: Ids of known words in memory, above which the cache is emptied.

        Raises:
            ValueError: A token joins two words.
        """
        described = json.loads(tokenizer.to_str())
        if crossing := [token for token in described["model"]["vocab"] if _SPACE in token.lstrip(_SPACE)]:
            raise ValueError(f"the token {crossing[0]!r} joins two words, so that words cannot be tokenised alone")
        self._tokenizer, self._max_length, self._max_known_ids = tokenizer, max_length, max_known_ids
        tokenizer.no_truncation()
        # A text that matches this is tokenised whole: runs of spaces and added tokens may be one token.
        added = [re.escape(token["content"]) for token in described["added_tokens"]]
        self._needs_whole = "|".join(["  ", "^ ", " $", _SPACE, *added])
        self._lock = threading.Lock()
        self._place_of = _Places()
        self._known = TokenLists.of([])

    def encode(self, texts: Sequence[str]) -> TokenLists:
        """Return the ids of B texts, without special tokens."""
        array, is_whole, words = self._words(texts)
        if pc.any(is_whole).as_py():
            wholes = pa.ListArray.from_arrays(np.arange(len(texts) + 1, dtype=np.int32), array)
            words = pc.if_else(is_whole, wholes, words)
        known, places_W = self._known_words(words)
        ids_W = known.take(places_W)
        offsets = words.offsets.to_numpy()
        return TokenLists(ids_W.flat, ids_W.starts[offsets - offsets[0]]).truncate(self._max_length)

    def count(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Count the tokens of each of B whole texts, (B,)."""
        _, is_whole, words = self._words(texts)
        if pc.any(is_whole).as_py():
            # At a space between two words a text may be cut, however odd the rest of it is.
            parts = [BETWEEN_WORDS.split(text) for text in texts]
            words = pc.if_else(is_whole, pa.array(parts, words.type), words)
        known, places_W = self._known_words(words)
        before = np.concatenate((np.zeros(1, np.int64), np.cumsum(known.lengths[places_W])))
        offsets = words.offsets.to_numpy()
        return np.array(np.diff(before[offsets - offsets[0]]), np.int64)

    def _words(self, texts: Sequence[str]) -> tuple[pa.Array, pa.Array, pa.ListArray]:
        """Return texts, whether each must not be cut at every space, and their words."""
        array = pa.array(texts, pa.large_string())
        return array, pc.match_substring_regex(array, self._needs_whole), pc.split_pattern(array, " ")

    def _known_words(self, words: pa.ListArray) -> tuple[TokenLists, npt.NDArray[np.int64]]:
        """Return the ids of known words, and the place of each of W words among them, (W,)."""
        distinct = words.flatten().dictionary_encode()
        with self._lock:
            places = self._places(distinct.dictionary.to_pylist())
            known = self._known
        return known, places[distinct.indices.to_numpy()]

    def _places(self, words: list[str]) -> npt.NDArray[np.int64]:
        """Return the places of words in the cache; tokenise the new ones first."""
        if len(self._known.flat) > self._max_known_ids:
            self._place_of, self._known = _Places(), TokenLists.of([])
        places = np.fromiter(map(self._place_of.__getitem__, words), np.int64, len(words))
        new = [words[at] for at in np.flatnonzero(places >= len(self._known))]
        if new:
            encodings = self._tokenizer.encode_batch_fast(new, add_special_tokens=False)
            self._known = TokenLists.concatenate([self._known, TokenLists.of([e.ids for e in encodings])])
        return places


class _Places(dict[str, int]):
    """Gives each new key the next number."""

    def __missing__(self, key: str) -> int:
        place = self[key] = len(self)
        return place
