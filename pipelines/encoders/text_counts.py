"""Count what of texts is cut, since an encoder takes only so many tokens.

Owns how whole texts are counted. Owns no tokeniser, and cuts no text.

Shapes: B texts, L tokens of a padded text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipelines.encoders.protocol import Prepared, Preparer, Raw
from pipelines.encoders.token_lists import TokenLists
from schemas.records import TextCounts

Counts = npt.NDArray[np.int64]
Count = Callable[[Sequence[str]], Counts]
# A tokeniser takes about 90 bytes and 0.5 to 1 us for each character. So of a longer text only the beginning is
# counted, so many characters for each token that the encoder takes; the rest is estimated to be like it.
_COUNTED_PER_TOKEN, _LEAST_COUNTED, _MOST_COUNTED = 64, 1 << 14, 1 << 20


@runtime_checkable
class CountsTexts(Protocol):
    """A preparer that knows how many tokens a text has, and how many the encoder gets."""

    def count_texts(self, values: Sequence[Raw], prepared: Sequence[Prepared]) -> TextCounts:
        """Count the tokens of texts, and those that the encoder does not get.

        Args:
            values: B texts.
            prepared: What `prepare` made of them, (B,); none is bad.
        """
        ...


def count_texts(preparer: Preparer, values: Sequence[Raw], prepared: Sequence[Prepared]) -> TextCounts:
    """Count the tokens of texts; nothing where a preparer does not tokenise them, as where a server does."""
    return preparer.count_texts(values, prepared) if isinstance(preparer, CountsTexts) else TextCounts()


def count_cut(
    values: Sequence[Raw], kept: Counts, may_be_cut: npt.NDArray[np.bool_], limit: int, count: Count
) -> TextCounts:
    """Count the tokens of texts, of which only those that may be cut are tokenised again.

    Args:
        values: B texts.
        kept: Tokens of each that the encoder gets, padding left out, (B,).
        may_be_cut: Whether each text may have more than `limit` tokens, (B,).
        limit: Most tokens that the encoder gets of a text.
        count: Counts the tokens of whole texts.
    """
    most = min(max(_LEAST_COUNTED, _COUNTED_PER_TOKEN * limit), _MOST_COUNTED)
    long = [cast(str, values[at]) for at in np.flatnonzero(may_be_cut).tolist()]
    whole = np.concatenate([np.empty(0, np.int64), *(_count(group, most, count) for group in _groups(long, most))])
    left_out = np.maximum(whole - limit, 0)
    tokens = int(kept[~may_be_cut].sum()) + int(whole.sum())
    return TextCounts(tokens, int((left_out > 0).sum()), int(left_out.sum()))


def count_kept(prepared: Sequence[Prepared], pad: int, marks: int) -> tuple[Counts, npt.NDArray[np.bool_]]:
    """Count the tokens of texts that are padded on the right to one length.

    Args:
        prepared: (B, L) ids.
        pad: The id of the padding.
        marks: How many of the tokens that end a text have this id as well.

    Returns:
        The tokens of each text without its padding, (B,), and whether it fills its row, so that it may be cut, (B,).
    """
    rows = prepared if not isinstance(prepared, TokenLists) else [prepared[at] for at in range(len(prepared))]
    is_text_BL = np.stack(rows) != pad
    length = is_text_BL.shape[1]
    kept = length - np.argmax(is_text_BL[:, ::-1], axis=1) + marks
    kept = np.where(is_text_BL.any(axis=1), kept, marks)
    return np.minimum(kept, length), kept >= length


def _groups(texts: Sequence[str], most: int) -> Iterator[list[str]]:
    """Yield the texts in groups of which at most `_MOST_COUNTED` characters are counted."""
    group, characters = list[str](), 0
    for text in texts:
        counted = min(len(text), most)
        if group and characters + counted > _MOST_COUNTED:
            yield group
            group, characters = [], 0
        group.append(text)
        characters += counted
    if group:
        yield group


def _count(texts: Sequence[str], most: int, count: Count) -> Counts:
    share = np.array([max(1.0, len(text) / most) for text in texts])
    counted = count([text[:most] for text in texts])
    return np.array(np.rint(counted * share), np.int64)
