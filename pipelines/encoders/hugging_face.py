"""Loading from the Hugging Face libraries: tokenisers, models and image rules, at a pinned revision or from a folder.

Owns what every family of the transformers library shares. Pooling and towers belong to the family.

Shapes: B texts, L tokens of the longest.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging

from pipelines.encoders.image_preprocessing import ImageRule
from pipelines.encoders.inference import torch_dtype
from pipelines.encoders.model_files import model_source
from pipelines.encoders.protocol import BadSample, Prepared, Raw
from pipelines.encoders.spec import EncoderSpec, may_run_code
from pipelines.encoders.text_beginnings import encode_beginnings, joins_words
from pipelines.encoders.text_counts import count_cut, count_kept
from pipelines.encoders.token_lists import Ids, TokenLists, flatten, token_counts
from pipelines.encoders.token_places import TokenPlaces
from pipelines.storage.device import to_device
from schemas.config import EncoderConfig
from schemas.errors import ConfigError, EncoderError
from schemas.records import TextCounts

# Silences a warning about forks, which does not apply: nothing here forks, and all threads share one pool.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

_NO_LIMIT = 1_000_000  # a tokeniser without a limit states a far larger number


class TextPreparer:
    """Tokenises texts behind the prompt of their side; cuts them after `max_length` tokens."""

    def __init__(self, spec: EncoderSpec, config: EncoderConfig, where: str, revision: str | None) -> None:
        """Load the tokeniser from a local folder, or from a repository at a revision."""
        has_code = may_run_code(spec, config)
        tokenizer = AutoTokenizer.from_pretrained(where, revision=revision, trust_remote_code=has_code)
        self._prompt = spec.prompts.get(config.side, "")
        self._limit = min(spec.max_length or tokenizer.model_max_length, tokenizer.model_max_length)
        self._pads_to_max = spec.pads_to_max
        self._slow = tokenizer
        self._lock = threading.Lock()
        # A copy whose settings never change. Every call sets those of the shared one, so threads would race on it.
        self._fast = self._fast_copy()
        if self._fast is not None and self._pads_to_max:
            pad = tokenizer.pad_token
            self._fast.enable_padding(length=self._limit, pad_id=tokenizer.pad_token_id, pad_token=pad)

    def prepare(self, values: Sequence[Raw]) -> Sequence[Prepared | BadSample]:
        """Tokenise texts to int32 ids of shape (L,)."""
        texts = [cast(str, value) for value in values]
        prompted = [self._prompt + text for text in texts]
        ids = encode_beginnings(prompted, self._limit, self._token_lists, self._is_full, lambda: self._can_cut)
        if all(map(str.strip, texts)):
            return ids
        blank = BadSample("empty_text", "only white space")
        return [row if text.strip() else blank for row, text in zip(ids, texts, strict=True)]

    def units(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.int64]:
        """Count the tokens of each text, (B,)."""
        return token_counts(prepared)

    def count_texts(self, values: Sequence[Raw], prepared: Sequence[Prepared]) -> TextCounts:
        """Count the tokens of texts, and those that the encoder does not get; padding is none."""
        kept = token_counts(prepared)
        may_be_cut = kept >= self._limit
        if self._pads_to_max and len(values):
            kept, may_be_cut = count_kept(prepared, self._slow.pad_token_id, self._marks)
        return count_cut(values, kept, may_be_cut, self._limit, self._count_whole)

    def token_places(self) -> TokenPlaces | None:
        """Return what finds the tokens of whole texts; None for a tokeniser that is written in Python."""
        return self._places

    @cached_property
    def _places(self) -> TokenPlaces | None:
        return None if self._fast is None else TokenPlaces(self._fast, self._prompt, self._limit, has_special=True)

    @cached_property
    def _marks(self) -> int:
        """Tokens around a text that have the id of padding, as where a text ends with it."""
        return int(np.count_nonzero(np.array(self._slow("")["input_ids"]) == self._slow.pad_token_id))

    def _count_whole(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Count the tokens of each of B whole texts, (B,)."""
        if self._places is not None:
            return self._places.count(texts)
        with self._lock:
            encoded = self._slow([self._prompt + text for text in texts], truncation=False, verbose=False)
        return np.array([len(ids) for ids in encoded["input_ids"]], np.int64)

    def _fast_copy(self) -> Tokenizer | None:
        """Copy the fast tokeniser, if there is one, to cut where the encoder does and not to pad."""
        if not self._slow.is_fast:
            return None
        copied = Tokenizer.from_str(self._slow.backend_tokenizer.to_str())
        copied.enable_truncation(self._limit, direction=self._slow.truncation_side)
        copied.no_padding()
        return copied

    @cached_property
    def _can_cut(self) -> bool:
        """Return whether the first tokens of a text are those of its beginning."""
        return self._slow.truncation_side == "right" and not joins_words(self._slow.get_vocab())

    def _is_full(self, ids: Ids) -> bool:
        """Return whether a text was cut at the limit, though it may be padded to it."""
        if not self._pads_to_max:
            return len(ids) >= self._limit
        # Where the end is marked by the padding token, the last one tells nothing.
        return bool(ids[-1] != self._slow.pad_token_id or ids[-2] != self._slow.pad_token_id)

    def _token_lists(self, texts: Sequence[str]) -> TokenLists:
        if self._fast is not None:
            return TokenLists.of([encoding.ids for encoding in self._fast.encode_batch_fast(list(texts))])
        with self._lock:
            padding = "max_length" if self._pads_to_max else False
            encoded = self._slow(list(texts), truncation=True, max_length=self._limit, padding=padding)
        return TokenLists.of(cast(list[list[int]], encoded["input_ids"]))


def pad(prepared: Sequence[Prepared], device: torch.device) -> dict[str, Any]:
    """Pad token ids on the right: `input_ids` and `attention_mask`, (B, L) int64.

    The padding id is 0 for every model, because the mask hides it.
    """
    ids_T, lengths_B = flatten(prepared)
    mask_BL = np.arange(lengths_B.max()) < lengths_B[:, None]
    ids_BL = np.zeros(mask_BL.shape, np.int64)
    ids_BL[mask_BL] = ids_T
    return {
        "input_ids": to_device(torch.from_numpy(ids_BL), device),
        "attention_mask": to_device(torch.from_numpy(mask_BL.astype(np.int64)), device),
    }


def load_pretrained(spec: EncoderSpec, config: EncoderConfig, device: torch.device) -> Any:
    """Load a model's own class onto a device, in the config's dtype and in evaluation mode."""
    silence_progress_bars()
    where, revision = model_source(spec, config)
    has_code, dtype = may_run_code(spec, config), torch_dtype(spec, config, device)
    model = AutoModel.from_pretrained(where, revision=revision, trust_remote_code=has_code, dtype=dtype)
    return model.to(device).eval()


def read_model(spec: EncoderSpec, folder: Path) -> EncoderSpec:
    """Complete a spec from a folder of transformers: family, modalities, width, and the longest text.

    Raises:
        ConfigError: It holds no model that the library knows without code of its own, or does not say its width.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        said = str(error).strip().partition("\n")[0]
        raise ConfigError(f"encoder.path={folder} holds no model that transformers knows: {said}") from None
    if hasattr(config, "text_config") and hasattr(config, "vision_config"):
        text = config.text_config
        width = next((w for w in (getattr(config, "projection_dim", None), text.hidden_size) if w), None)
        facts: dict[str, Any] = {"family": "clip", "modalities": ("text", "image")}
        facts |= {"max_length": _longest(folder, text), "pads_to_max": "siglip" in config.model_type}
    elif hasattr(config, "image_size"):
        width, facts = getattr(config, "hidden_size", None), {"family": "vision", "modalities": ("image",)}
        facts["pooling"] = "cls"
    else:
        width, facts = getattr(config, "hidden_size", None), {"modalities": ("text",)}
        facts["max_length"] = _longest(folder, config)
    if not isinstance(width, int):
        raise ConfigError(f"encoder.path={folder}: its config.json does not say how wide the vectors of the model are")
    return replace(spec, dims=(width,), **facts)


def _longest(folder: Path, config: Any) -> int | None:
    """Return the most tokens that both the tokeniser and the places of a model allow; None where neither says."""
    said = AutoTokenizer.from_pretrained(folder, trust_remote_code=False).model_max_length
    places = getattr(config, "max_position_embeddings", None)
    known = [length for length in (said, places) if isinstance(length, int) and length < _NO_LIMIT]
    return min(known, default=None)


def silence_progress_bars() -> None:
    """Turn off the library's progress bars: one per actor and model would hide the run's own progress."""
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def read_image_rule(spec: EncoderSpec, config: EncoderConfig) -> ImageRule:
    """Read the image rule from a model's preprocessor file.

    Raises:
        EncoderError: The file asks for other steps than scaling, centre-cropping and normalising.
    """
    from transformers.models.auto.image_processing_auto import AutoImageProcessor  # slow to import

    where, revision = model_source(spec, config)
    processor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
        where, revision=revision, trust_remote_code=may_run_code(spec, config), backend="pil"
    )
    if not (processor.do_resize and processor.do_rescale and processor.do_normalize):
        raise EncoderError(f"{where}: its preprocessor file neither scales nor normalises; that is not supported")
    size, crops = processor.size, bool(getattr(processor, "do_center_crop", False))
    target = processor.crop_size if crops else size
    if target.height is None or target.width is None or (size.shortest_edge is None and crops):
        raise EncoderError(f"{where}: its preprocessor file gives size {size}; height and width are needed, or a crop")
    return ImageRule(
        crop=(target.height, target.width),
        short=size.shortest_edge if crops else None,
        resample=Image.Resampling(processor.resample),
        mean=tuple(processor.image_mean),
        std=tuple(processor.image_std),
    )
