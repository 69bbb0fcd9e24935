"""Words to token ids, and token ids to padded batches: the CPU half of every Hugging Face text model.

Shapes: B texts, L tokens of the longest.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from pipelines.encoders.protocol import BadSample, Prepared, Raw
from pipelines.encoders.spec import EncoderSpec
from pipelines.encoders.tokens import TokenLists, flattened, token_counts
from pipelines.storage.device import to_device
from schemas.config import EncoderConfig

# Rayon shares one pool between threads; the fork warning that this silences cannot apply, since nothing here forks.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


class TextPreparer:
    """Puts the side's prompt before each text and tokenises it; what is past `max_length` tokens is cut off."""

    def __init__(self, spec: EncoderSpec, config: EncoderConfig, where: str, revision: str | None) -> None:
        """Load the tokeniser from a local folder, or from a repository at a revision."""
        tokenizer = AutoTokenizer.from_pretrained(where, revision=revision, trust_remote_code=spec.runs_code)
        self._prompt = spec.prompts.get(config.side, "")
        self._limit = min(spec.max_length or tokenizer.model_max_length, tokenizer.model_max_length)
        self._pads_to_max = spec.pads_to_max
        self._slow = tokenizer
        self._lock = threading.Lock()
        # A copy whose settings never change: the shared one is re-set by every call, and threads would race on it.
        self._fast: Tokenizer | None = None
        if tokenizer.is_fast:
            self._fast = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
            self._fast.enable_truncation(self._limit)
            self._fast.no_padding()
            if self._pads_to_max:
                pad = tokenizer.pad_token
                self._fast.enable_padding(length=self._limit, pad_id=tokenizer.pad_token_id, pad_token=pad)

    def prepare(self, values: Sequence[Raw]) -> Sequence[Prepared | BadSample]:
        """Tokenise texts to int32 ids of shape (L,)."""
        texts = [cast(str, value) for value in values]
        ids = TokenLists.of(self._tokenise([self._prompt + text for text in texts]))
        if all(map(str.strip, texts)):
            return ids
        blank = BadSample("empty_text", "nothing but white space")
        return [row if text.strip() else blank for row, text in zip(ids, texts, strict=True)]

    def units(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.int64]:
        """Tokens of each text."""
        return token_counts(prepared)

    def _tokenise(self, texts: list[str]) -> list[list[int]]:
        if self._fast is not None:
            return [encoding.ids for encoding in self._fast.encode_batch_fast(texts)]
        padding = "max_length" if self._pads_to_max else False
        with self._lock:
            encoded = self._slow(texts, truncation=True, max_length=self._limit, padding=padding)
        return cast(list[list[int]], encoded["input_ids"])


def pad(prepared: Sequence[Prepared], device: torch.device) -> dict[str, Any]:
    """Pad token ids on the right: `input_ids` and `attention_mask`, (B, L) int64.

    What the padding id is makes no difference: the mask hides it.
    """
    ids_T, lengths_B = flattened(prepared)
    mask_BL = np.arange(lengths_B.max()) < lengths_B[:, None]
    ids_BL = np.zeros(mask_BL.shape, np.int64)
    ids_BL[mask_BL] = ids_T
    return {
        "input_ids": to_device(torch.from_numpy(ids_BL), device),
        "attention_mask": to_device(torch.from_numpy(mask_BL.astype(np.int64)), device),
    }
