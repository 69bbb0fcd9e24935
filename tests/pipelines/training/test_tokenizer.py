"""Tokenisers: trained, applied, saved for transformers, read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.training.tokenizer import (
    END,
    PAD,
    SPECIAL,
    START,
    read_tokenizer,
    save_tokenizer,
    to_ids,
    train_tokenizer,
)
from schemas.errors import ConfigError

TEXTS = ["the owl sleeps by the river", "the owl"] * 5


def test_ids_begin_and_end_with_special_tokens_and_are_padded_and_cut() -> None:
    tokenizer = train_tokenizer(TEXTS, 100)
    ids_BL, mask_BL = to_ids(tokenizer, TEXTS[:2], 6)
    start, end, pad = (tokenizer.token_to_id(token) for token in (START, END, PAD))
    assert ids_BL.shape == (2, 6)
    assert ids_BL[:, 0].tolist() == [start, start]
    assert ids_BL[1].tolist()[3:] == [end, pad, pad]
    assert mask_BL.sum(1).tolist() == [6, 4]


def test_a_saved_tokeniser_is_read_again(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, 100)
    save_tokenizer(tokenizer.to_str(), tmp_path, 8)
    again = read_tokenizer(tmp_path / "tokenizer.json")
    assert [again.token_to_id(token) for token in SPECIAL] == list(range(5))
    assert again.encode("the owl").ids == tokenizer.encode("the owl").ids


def test_files_that_are_not_such_a_tokeniser_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_tokenizer(tmp_path / "none.json")
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordPiece(unk_token="[UNK]")).save(str(tmp_path / "bare.json"))
    with pytest.raises(ConfigError, match=r"lacks the tokens \[PAD\]"):
        read_tokenizer(tmp_path / "bare.json")
