"""Long texts: a tokeniser gets only their beginning, since an encoder keeps only the first tokens.

A tokeniser takes about 90 bytes of memory for each byte of text, so a text of 4 MB would take 360 MB for the 1,024
tokens that are kept. Owns where a text is cut, so that the tokens that are kept are those of the whole text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from pipelines.encoders.token_lists import Ids, TokenLists

# No token joins two words, so a space between two words can be cut at without any effect on the tokens before it.
BETWEEN_WORDS = re.compile(r"(?<=\w) (?=\w)")
_SPACES = ("▁", "Ġ", " ")
# Characters for each token that is kept. Most languages have two to five.
_FIRST_TRY = 16
# A text with no space between two words for so long is cut within a word, far behind the last token that is kept.
_LONGEST_WORD = 48
_GROWTH = 4


def encode_beginnings(
    texts: Sequence[str],
    max_length: int,
    encode: Callable[[Sequence[str]], TokenLists],
    is_full: Callable[[Ids], bool] | None = None,
    can_cut: Callable[[], bool] = lambda: True,
) -> TokenLists:
    """Tokenise texts, of the long ones only as much as gives `max_length` tokens.

    Args:
        texts: B texts.
        max_length: Tokens after which `encode` cuts a text.
        encode: Tokenises texts.
        is_full: Whether the tokens of a text were cut; by default, whether they are `max_length`.
        can_cut: Whether no token joins two words; asked only where a text is long.

    Returns:
        The tokens of each text, equal to `encode(texts)`.
    """
    enough = is_full or (lambda ids: len(ids) >= max_length)
    scale = max_length
    if max(map(len, texts), default=0) <= _FIRST_TRY * scale or not can_cut():
        return encode(texts)
    beginnings = [_beginning(text, scale) for text in texts]
    found = encode(beginnings)
    lists: list[Ids] = list(found)
    short = [at for at, text in enumerate(texts) if len(beginnings[at]) < len(text) and not enough(lists[at])]
    if not short:
        return found
    while short:
        scale *= _GROWTH
        again = [_beginning(texts[at], scale) for at in short]
        for at, ids in zip(short, encode(again), strict=True):
            lists[at] = ids
        short = [
            at for at, text in zip(short, again, strict=True) if len(text) < len(texts[at]) and not enough(lists[at])
        ]
    return TokenLists.concatenate([TokenLists(ids, np.array([0, len(ids)])) for ids in lists])


def joins_words(vocabulary: Iterable[str]) -> bool:
    """Return whether a token has a space after its first other character, so that it may join two words."""
    return any(space in token.lstrip("".join(_SPACES)) for token in vocabulary for space in _SPACES)


def _beginning(text: str, scale: int) -> str:
    first, last = _FIRST_TRY * scale, (_FIRST_TRY + _LONGEST_WORD) * scale
    if len(text) <= first:
        return text
    space = BETWEEN_WORDS.search(text, first, last)
    return text[: space.start() if space else last]
