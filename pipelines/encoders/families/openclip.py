"""Joint models of the open_clip library. Optional: `pip install 'matryoshka-lake[openclip]'` (it needs torchvision)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from huggingface_hub import snapshot_download

from pipelines.encoders.image_preprocessing import ImagePreparer, ImageRule, normalise
from pipelines.encoders.inference import apply_steps, torch_dtype
from pipelines.encoders.joint_encoder import JointPreparer
from pipelines.encoders.model_files import local_path
from pipelines.encoders.protocol import BadSample, Family, Prepared, Raw, modality_of_prepared
from pipelines.encoders.spec import EncoderSpec
from pipelines.encoders.text_counts import Count, count_cut, count_kept
from pipelines.encoders.token_lists import token_counts
from pipelines.storage.device import pick_device, to_device
from schemas.config import EncoderConfig, LimitsConfig
from schemas.errors import ConfigError
from schemas.records import TextCounts


class OpenClipTextPreparer:
    """Tokenises as open_clip does: pads every text to the model's context length."""

    def __init__(self, spec: EncoderSpec, config: EncoderConfig, folder: Path) -> None:
        """Load the tokeniser."""
        self._tokenise: Any = open_clip.get_tokenizer(f"local-dir:{folder}", context_length=spec.max_length)
        self._prompt = spec.prompts.get(config.side, "")
        inner = getattr(self._tokenise, "tokenizer", None)
        self._pad = 0 if inner is None else inner.pad_token_id
        self._marks = 0 if inner is None else inner("")["input_ids"].count(self._pad)
        self._count_whole = self._counter(inner)

    def _counter(self, inner: Any) -> Count | None:
        """Return what counts the tokens of whole texts; None where the tokeniser has a rule of its own to cut them."""
        own = self._tokenise
        if getattr(own, "reduction_fn", None) is not None or getattr(own, "tokenizer_mode", None):
            return None

        def count(texts: Sequence[str]) -> npt.NDArray[np.int64]:
            prompted = [self._prompt + text for text in texts]
            if inner is None:  # a start and an end mark stand around each text
                return np.array([len(own.encode(text)) + 2 for text in prompted], np.int64)
            encoded = inner([own.clean_fn(text) for text in prompted], verbose=False)
            return np.array([len(ids) for ids in encoded["input_ids"]], np.int64)

        return count

    def prepare(self, values: Sequence[Raw]) -> list[Prepared | BadSample]:
        """Tokenise texts to int32 ids of shape (L,)."""
        texts = [cast(str, value) for value in values]
        ids_BL = self._tokenise([self._prompt + text for text in texts]).numpy().astype(np.int32)
        return [
            row if text.strip() else BadSample("empty_text", "only white space")
            for row, text in zip(ids_BL, texts, strict=True)
        ]

    def count_texts(self, values: Sequence[Raw], prepared: Sequence[Prepared]) -> TextCounts:
        """Count the tokens of texts without padding, and those beyond the context; nothing where it cannot know."""
        if not len(values) or self._count_whole is None:
            return TextCounts()
        kept, may_be_cut = count_kept(prepared, self._pad, self._marks)
        return count_cut(values, kept, may_be_cut, len(prepared[0]), self._count_whole)

    def units(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.int64]:
        """Count the tokens of each text, padding included: the model computes that as well."""
        return token_counts(prepared)


class OpenClipEncoder:
    """Both towers; each batch goes through the one of its modality."""

    def __init__(self, spec: EncoderSpec, config: EncoderConfig) -> None:
        """Load the model onto the device, in the config's dtype."""
        folder = _folder(spec, config)
        self._steps, self._device = spec.steps, pick_device(config.device, "encoder.device")
        self._dtype = torch_dtype(spec, config, self._device)
        model, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
        self._model: Any = model.to(self._device, self._dtype).eval()
        self._rule = _read_image_rule(folder)

    @torch.inference_mode()
    def encode(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.float32]:
        """Encode B token lists, or B images (H, W, 3) uint8, to (B, D) float32 unit rows."""
        if modality_of_prepared(prepared[0]) == "image":
            features = self._model.encode_image(normalise(prepared, self._rule, self._device).to(self._dtype))
        else:
            ids_BL = torch.from_numpy(np.stack(prepared).astype(np.int64))
            features = self._model.encode_text(to_device(ids_BL, self._device))
        return apply_steps(features, self._steps)


def _folder(spec: EncoderSpec, config: EncoderConfig) -> Path:
    return local_path(config.path) if config.path else Path(snapshot_download(spec.repo, revision=spec.revision))


def _read_image_rule(folder: Path) -> ImageRule:
    said = json.loads((folder / "open_clip_config.json").read_text())
    size, wanted = said["model_cfg"]["vision_cfg"]["image_size"], said["preprocess_cfg"]
    high, wide = (size, size) if isinstance(size, int) else size
    short = None if wanted.get("resize_mode") == "squash" else min(high, wide)
    return ImageRule((high, wide), short, mean=tuple(wanted["mean"]), std=tuple(wanted["std"]), rounds_crop=True)


class OpenClipFamily(Family):
    """Joint models of the open_clip library."""

    def describe(self, spec: EncoderSpec, path: Path) -> EncoderSpec:
        """Complete a spec from `open_clip_config.json`: the width of both towers, and the longest text.

        Raises:
            ConfigError: The folder is no model of open_clip.
        """
        try:
            model = json.loads((path / "open_clip_config.json").read_text())["model_cfg"]
            return replace(spec, dims=(model["embed_dim"],), max_length=model["text_cfg"].get("context_length", 77))
        except (OSError, ValueError, TypeError, LookupError):
            raise ConfigError(
                f"encoder.path={path} has no open_clip_config.json that says the width of a model"
            ) from None

    def load_preparer(self, spec: EncoderSpec, config: EncoderConfig, limits: LimitsConfig) -> JointPreparer:
        """Load the tokeniser and the image decoder."""
        folder = _folder(spec, config)
        image = ImagePreparer(_read_image_rule(folder), limits)
        return JointPreparer({"text": OpenClipTextPreparer(spec, config, folder), "image": image})

    def load_encoder(self, spec: EncoderSpec, config: EncoderConfig) -> OpenClipEncoder:
        """Load both towers."""
        return OpenClipEncoder(spec, config)
