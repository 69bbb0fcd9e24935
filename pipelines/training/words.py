"""Token ids of texts for models trained here: a tokeniser trained on the texts themselves, or one that is given.

Shapes: B texts, L tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from schemas.errors import ConfigError

PAD, UNKNOWN, START, END, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL = (PAD, UNKNOWN, START, END, MASK)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Train BERT's kind of tokeniser on texts: lower case, WordPiece, `[CLS] … [SEP]`."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=list(SPECIAL), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    ids = {token: place for place, token in enumerate(SPECIAL)}
    tokenizer.post_processor = processors.BertProcessing((END, ids[END]), (START, ids[START]))
    return tokenizer


def read_tokenizer(path: str | Path) -> Tokenizer:
    """Read a `tokenizer.json` that has BERT's special tokens.

    Raises:
        ConfigError: It is not there, is no such file, or lacks them.
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
