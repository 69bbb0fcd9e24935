"""Static models of sentence-transformers (`StaticEmbedding`): the mean of token vectors, in a folder or on the hub."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers import Tokenizer

from pipelines.encoders.embedding_bag import BagEncoder
from pipelines.encoders.model_files import HUB, local_path
from pipelines.encoders.protocol import BadSample, Family, Prepared, Raw
from pipelines.encoders.spec import EncoderSpec
from pipelines.encoders.text_counts import count_cut
from pipelines.encoders.token_lists import TokenLists, token_counts
from pipelines.encoders.token_places import TokenPlaces
from schemas.config import EncoderConfig, LimitsConfig
from schemas.errors import ConfigError
from schemas.records import TextCounts

_WEIGHTS = "embedding.weight"
LONGEST = 1 << 17
"""Tokens after which a text is cut: such a model has no limit of its own."""


class StaticPreparer:
    """Tokenises texts without special tokens."""

    def __init__(self, spec: EncoderSpec, config: EncoderConfig) -> None:
        """Read the tokeniser."""
        self._tokenizer = Tokenizer.from_file(str(_folder(spec, config) / "tokenizer.json"))
        self._tokenizer.no_padding()
        own = (self._tokenizer.truncation or {}).get("max_length", LONGEST)
        self._limit = min(own, spec.max_length or LONGEST)
        self._prompt = spec.prompts.get(config.side, "")
        self._tokenizer.enable_truncation(self._limit)

    def prepare(self, values: Sequence[Raw]) -> Sequence[Prepared | BadSample]:
        """Tokenise texts to int32 ids of shape (L,)."""
        texts = [self._prompt + cast(str, value) for value in values]
        ids = TokenLists.of([e.ids for e in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)])
        return [row if len(row) else BadSample("empty_text", "no tokens are left after tokenising") for row in ids]

    def units(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.int64]:
        """Count the tokens of each text, (B,)."""
        return token_counts(prepared)

    def count_texts(self, values: Sequence[Raw], prepared: Sequence[Prepared]) -> TextCounts:
        """Count the tokens of texts, and those that the encoder does not get."""
        kept = token_counts(prepared)
        return count_cut(values, kept, kept >= self._limit, self._limit, lambda texts: self._places.count(texts))

    def token_places(self) -> TokenPlaces:
        """Return what finds the tokens of whole texts."""
        return self._places

    @cached_property
    def _places(self) -> TokenPlaces:
        return TokenPlaces(self._tokenizer, self._prompt, self._limit, has_special=False)


class StaticFamily(Family):
    """Static models of sentence-transformers."""

    def load_preparer(self, spec: EncoderSpec, config: EncoderConfig, limits: LimitsConfig) -> StaticPreparer:
        """Load the tokeniser."""
        return StaticPreparer(spec, config)

    def load_encoder(self, spec: EncoderSpec, config: EncoderConfig) -> BagEncoder:
        """Load the token vectors."""
        return BagEncoder(load_file(_folder(spec, config) / "model.safetensors")[_WEIGHTS], config)


def read_static(spec: EncoderSpec, folder: Path) -> EncoderSpec:
    """Complete a spec from a folder of sentence-transformers whose first module is static.

    Raises:
        ConfigError: Its weights are not those of that library.
    """
    file = _module_folder(folder) / "model.safetensors"
    try:
        with safe_open(file, "numpy") as weights:
            width = weights.get_slice(_WEIGHTS).get_shape()[1]
    except Exception as error:  # safetensors raises errors of its own, and what the system says
        raise ConfigError(f"encoder.path={folder}: {file} holds no table {_WEIGHTS!r}: {error}") from None
    return replace(spec, family="static", dims=(width,), max_length=LONGEST, is_ragged=True, dtypes=("float32",))


def _folder(spec: EncoderSpec, config: EncoderConfig) -> Path:
    return _module_folder(local_path(config.path or f"{HUB}{spec.repo}@{spec.revision}"))


def _module_folder(folder: Path) -> Path:
    """Return the folder of the first module, which holds tokeniser and weights."""
    try:
        modules = json.loads((folder / "modules.json").read_text())
        return folder / str(modules[0]["path"])
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise ConfigError(f"encoder.path={folder} is no folder of sentence-transformers: {error}") from None
