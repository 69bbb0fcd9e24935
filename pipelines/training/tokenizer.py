"""Tokenisers of models trained here: train, read, apply and save.

Shapes: B texts, L tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from schemas.errors import ConfigError

PAD, UNKNOWN, START, END, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL = (PAD, UNKNOWN, START, END, MASK)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Train a tokeniser as BERT's on texts: lower case, WordPiece, `[CLS] … [SEP]`."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=list(SPECIAL), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    ids = {token: place for place, token in enumerate(SPECIAL)}
    tokenizer.post_processor = processors.BertProcessing((END, ids[END]), (START, ids[START]))
    return tokenizer


def read_tokenizer(path: str | Path) -> Tokenizer:
    """Read a `tokenizer.json` that has the special tokens of BERT.

    Raises:
        ConfigError: The file is missing, is not a tokeniser, or lacks a special token.
    """
    try:
        tokenizer = Tokenizer.from_str(Path(path).read_text())
    except Exception as error:  # the library raises a bare Exception
        raise ConfigError(f"model.tokenizer={path} cannot be read: {error}") from None
    if lacking := [token for token in SPECIAL if tokenizer.token_to_id(token) is None]:
        raise ConfigError(f"model.tokenizer={path} lacks the tokens {', '.join(lacking)}; leave it out to train one")
    return tokenizer


def to_ids(tokenizer: Tokenizer, texts: Sequence[str], max_length: int) -> tuple[Tensor, Tensor]:
    """Tokenise B texts: ids and mask, (B, L) int64, padded on the right, cut after `max_length` tokens."""
    tokenizer.enable_truncation(max_length)
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(PAD), pad_token=PAD)
    encodings = tokenizer.encode_batch(list(texts))
    ids_BL = np.asarray([encoding.ids for encoding in encodings], np.int64)
    mask_BL = np.asarray([encoding.attention_mask for encoding in encodings], np.int64)
    return torch.from_numpy(ids_BL), torch.from_numpy(mask_BL)


def save_tokenizer(tokenizer: str, folder: Path, max_length: int) -> None:
    """Write a tokeniser, given as JSON, in the layout of the transformers library."""
    from transformers import PreTrainedTokenizerFast

    fast = cast(Any, PreTrainedTokenizerFast)(
        tokenizer_object=Tokenizer.from_str(tokenizer),
        pad_token=PAD,
        unk_token=UNKNOWN,
        cls_token=START,
        sep_token=END,
        mask_token=MASK,
        model_max_length=max_length,
    )
    fast.save_pretrained(str(folder))
