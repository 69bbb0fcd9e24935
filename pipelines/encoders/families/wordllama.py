"""WordLlama: mean of static token vectors, Matryoshka-trained at 64, 128 and 256 dims; the wheel holds all of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from safetensors.torch import load_file
from tokenizers import Tokenizer

from pipelines.encoders.embedding_bag import BagEncoder
from pipelines.encoders.model_files import local_path
from pipelines.encoders.protocol import BadSample, Family, Prepared, Raw
from pipelines.encoders.spec import EncoderSpec
from pipelines.encoders.text_beginnings import encode_beginnings
from pipelines.encoders.text_counts import count_cut
from pipelines.encoders.token_lists import token_counts
from pipelines.encoders.token_places import TokenPlaces
from pipelines.encoders.word_tokenizer import WordTokenizer
from schemas.config import EncoderConfig, LimitsConfig
from schemas.errors import DependencyMissing
from schemas.records import TextCounts


def _package(config: EncoderConfig) -> Path:
    if config.path:
        return local_path(config.path)
    # Found without importing it: importing it would configure the process's logging.
    spec = find_spec("wordllama")
    if spec is None or spec.origin is None:
        raise DependencyMissing("wordllama is not installed; run: pip install wordllama")
    return Path(spec.origin).parent


class WordLlamaPreparer:
    """Tokenises texts; cuts them after `max_length` tokens."""

    def __init__(self, spec: EncoderSpec, config: EncoderConfig) -> None:
        """Read the tokeniser that the package carries."""
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        path = _package(config) / "tokenizers" / "l2_supercat_tokenizer_config.json"
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_padding()
        self._max_length = spec.max_length or 1024
        self._prompt = spec.prompts.get(config.side, "")
        self._tokenizer = tokenizer
        self._words = WordTokenizer(tokenizer, self._max_length)

    def prepare(self, values: Sequence[Raw]) -> Sequence[Prepared | BadSample]:
        """Tokenise texts to int32 ids of shape (L,)."""
        texts = [self._prompt + cast(str, value) for value in values]
        ids = encode_beginnings(texts, self._max_length, self._words.encode)
        if ids.lengths.all():
            return ids
        return [row if len(row) else BadSample("empty_text", "no tokens are left after tokenising") for row in ids]

    def count_texts(self, values: Sequence[Raw], prepared: Sequence[Prepared]) -> TextCounts:
        """Count the tokens of texts, and those beyond `max_length`."""
        kept = token_counts(prepared)
        return count_cut(values, kept, kept >= self._max_length, self._max_length, self._count_whole)

    def token_places(self) -> TokenPlaces:
        """Return what finds the tokens of whole texts."""
        return self._places

    def _count_whole(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        return self._words.count([self._prompt + text for text in texts])

    @cached_property
    def _places(self) -> TokenPlaces:
        return TokenPlaces(self._tokenizer, self._prompt, self._max_length, has_special=False)

    def units(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.int64]:
        """Count the tokens of each text, (B,)."""
        return token_counts(prepared)


class WordLlamaFamily(Family):
    """WordLlama."""

    def load_preparer(self, spec: EncoderSpec, config: EncoderConfig, limits: LimitsConfig) -> WordLlamaPreparer:
        """Load the tokeniser."""
        return WordLlamaPreparer(spec, config)

    def load_encoder(self, spec: EncoderSpec, config: EncoderConfig) -> BagEncoder:
        """Load the vectors of its tokens, (32000, 256)."""
        weights = load_file(_package(config) / "weights" / "l2_supercat_256.safetensors")["embedding.weight"]
        return BagEncoder(weights, config)
