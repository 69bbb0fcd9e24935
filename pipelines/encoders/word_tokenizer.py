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
        tokenizer.enable_truncation(max_length)
        # A text that matches this is tokenised whole: runs of spaces and added tokens may be one token.
        added = [re.escape(token["content"]) for token in described["added_tokens"]]
        self._needs_whole = "|".join(["  ", "^ ", " $", _SPACE, *added])
        self._lock = threading.Lock()
        self._place_of = _Places()
        self._known = TokenLists.of([])

    def encode(self, texts: Sequence[str]) -> TokenLists:
        """Return the ids of B texts, without special tokens."""
        array = pa.array(texts, pa.large_string())
        is_whole = pc.match_substring_regex(array, self._needs_whole)
        words = pc.split_pattern(array, " ")
        if pc.any(is_whole).as_py():
            wholes = pa.ListArray.from_arrays(np.arange(len(texts) + 1, dtype=np.int32), array)
            words = pc.if_else(is_whole, wholes, words)
        return self._of_words(words).truncate(self._max_length)

    def _of_words(self, words: pa.ListArray) -> TokenLists:
        """Look up words and concatenate the ids of each text's words."""
        distinct = words.flatten().dictionary_encode()
        with self._lock:
            places = self._places(distinct.dictionary.to_pylist())
            known = self._known
        ids_W = known.take(places[distinct.indices.to_numpy()])
        offsets = words.offsets.to_numpy()
        return TokenLists(ids_W.flat, ids_W.starts[offsets - offsets[0]])

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
