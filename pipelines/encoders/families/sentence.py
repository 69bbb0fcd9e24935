"""Models published for sentence-transformers: the model's own modules do the pooling."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer

from pipelines.encoders.families.static import read_static
from pipelines.encoders.hugging_face import TextPreparer, pad, silence_progress_bars
from pipelines.encoders.inference import apply_steps, torch_dtype
from pipelines.encoders.model_files import ModelSource, model_source
from pipelines.encoders.protocol import Encoder, Family, Prepared, Preparer
from pipelines.encoders.spec import EncoderSpec, may_run_code
from pipelines.storage.device import pick_device
from schemas.config import EncoderConfig, LimitsConfig
from schemas.errors import ConfigError, EncoderError, EncoderNotTrusted
from schemas.records import Side

_LONGEST, _SAFE_LENGTH = 1_000_000, 512


class SentenceEncoder:
    """The modules of a SentenceTransformer, without its own tokenising, sorting and batching."""

    def __init__(self, spec: EncoderSpec, config: EncoderConfig) -> None:
        """Load the modules onto the device, in the config's dtype.

        Raises:
            EncoderError: The local folder is no sentence-transformers model, so its pooling is unknown.
        """
        where, revision = _model_source(spec, config)
        has_code = may_run_code(spec, config)
        if Path(where).is_dir() and not (Path(where) / "modules.json").exists():
            raise EncoderError(f"{where} has no modules.json, so it does not say how {spec.name} pools its tokens")
        if Path(where).is_dir() and not has_code:
            check_modules(Path(where) / "modules.json")
        self._device, self._steps = pick_device(config.device, "encoder.device"), spec.steps
        self._model = load_model(spec, config, where, revision, self._device)
        self._task = {"task": spec.tasks[config.side]} if spec.tasks else {}
        if not spec.tasks and any("task" in getattr(module, "forward_kwargs", ()) for module in self._model):
            self._task = {"task": config.side}  # as the library's `encode_query` and `encode_document` do
        self._prompt_length = self._length_without_pooling(spec.prompts.get(config.side, ""))
        if config.compile:
            self._model.compile(dynamic=True)

    @torch.inference_mode()
    def encode(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.float32]:
        """Encode B token lists to (B, D) float32 unit rows."""
        features = self._model(pad(prepared, self._device) | self._prompt_length, **self._task)
        return apply_steps(features["sentence_embedding"], self._steps)

    def _length_without_pooling(self, prompt: str) -> dict[str, int]:
        """Return how many tokens of a prompt the model leaves out of its pooling; nothing where it pools them too."""
        if not prompt or all(getattr(module, "include_prompt", True) for module in self._model):
            return {}
        tokenizer = self._model.tokenizer
        ids = tokenizer(prompt)["input_ids"]
        return {"prompt_length": len(ids) - (ids[-1] in tokenizer.all_special_ids)}


def load_model(
    spec: EncoderSpec, config: EncoderConfig, where: str, revision: str | None, device: torch.device
) -> SentenceTransformer:
    """Load a model of the library onto a device, in the config's dtype."""
    silence_progress_bars()
    return SentenceTransformer(
        where,
        revision=revision,
        device=str(device),
        trust_remote_code=may_run_code(spec, config),
        model_kwargs={"dtype": torch_dtype(spec, config, device)},
    ).eval()


def check_modules(file: Path) -> None:
    """Refuse modules from outside sentence-transformers: some of its releases import them from a folder unasked."""
    try:
        types = [str(module["type"]) for module in json.loads(file.read_text())]
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise EncoderError(f"{file} does not list the model's modules: {error}") from None
    if foreign := [name for name in types if not name.startswith("sentence_transformers.")]:
        raise EncoderNotTrusted(
            f"{file} names the module {foreign[0]!r}, which is not part of sentence-transformers: loading it would run "
            "Python from that folder; use a model without code of its own"
        )


def _model_source(spec: EncoderSpec, config: EncoderConfig) -> ModelSource:
    if spec.package and config.path is None:
        return ModelSource(str(files(spec.package.replace("-", "_")) / "model"), None)
    return model_source(spec, config)


class SentenceFamily(Family):
    """Models published for sentence-transformers."""

    def describe(self, spec: EncoderSpec, path: Path) -> EncoderSpec:
        """Read width, prompts and length of a model in a local folder; its licence and ladder are not in the files.

        Raises:
            ConfigError: The folder is no model of sentence-transformers.
        """
        if _is_static(path):
            return replace(read_static(spec, path), prompts=_prompts(path))
        return replace(
            spec,
            dims=(_width(path),),
            prompts=_prompts(path),
            max_length=_max_length(path),
        )

    def load_preparer(self, spec: EncoderSpec, config: EncoderConfig, limits: LimitsConfig) -> Preparer:
        """Load the tokeniser."""
        where, revision = _model_source(spec, config)
        return TextPreparer(
            spec, config, str(_transformer_folder(Path(where))) if Path(where).is_dir() else where, revision
        )

    def load_encoder(self, spec: EncoderSpec, config: EncoderConfig) -> Encoder:
        """Load the modules."""
        return SentenceEncoder(spec, config)


def _width(folder: Path) -> int:
    """Return the width that the last module of a model gives."""
    try:
        modules = [folder / str(module["path"]) for module in json.loads((folder / "modules.json").read_text())]
    except (OSError, ValueError, TypeError, LookupError):
        raise ConfigError(
            f"encoder.path={folder} is no folder of sentence-transformers: it has no readable modules.json"
        ) from None
    for module in reversed(modules):
        facts = _read(module / "config.json")
        for key in ("out_features", "word_embedding_dimension", "embedding_dimension", "hidden_size"):
            if isinstance(width := facts.get(key), int) and width > 0:
                return width * _modes(facts)
    raise ConfigError(f"encoder.path={folder}: no module says how wide its vectors are")


def _is_static(folder: Path) -> bool:
    try:
        modules = json.loads((folder / "modules.json").read_text())
        return str(modules[0]["type"]).endswith(".StaticEmbedding")
    except (OSError, ValueError, TypeError, LookupError):
        return False


def _transformer_folder(folder: Path) -> Path:
    """Return where the tokeniser of a model is: beside its list of modules, or in the first module's own folder."""
    if (folder / "config.json").exists():
        return folder
    modules = json.loads((folder / "modules.json").read_text())
    return folder / str(modules[0]["path"]) if modules else folder


def _max_length(folder: Path) -> int:
    """Return the tokens after which a text is cut: as the library's file says, else as many as the model has places."""
    inner = _transformer_folder(folder)
    own = _read(inner / "sentence_bert_config.json").get("max_seq_length")
    places = _read(inner / "config.json").get("max_position_embeddings")
    return next((value for value in (own, places) if isinstance(value, int) and 0 < value <= _LONGEST), _SAFE_LENGTH)


def _modes(pooling: Mapping[str, Any]) -> int:
    """Return how many ways of pooling a module puts one after the other."""
    named = pooling.get("pooling_mode")
    if isinstance(named, (list, tuple)):
        return max(1, len(named))
    return max(1, sum(value is True for key, value in pooling.items() if key.startswith("pooling_mode_")))


def _prompts(folder: Path) -> dict[Side, str]:
    prompts = _read(folder / "config_sentence_transformers.json").get("prompts") or {}
    found = {"document": prompts.get("document", prompts.get("passage", "")), "query": prompts.get("query", "")}
    return {side: str(text) for side, text in found.items() if text}  # type: ignore[misc]


def _read(file: Path) -> dict[str, Any]:
    try:
        facts = json.loads(file.read_text())
    except OSError:
        return {}
    except ValueError as error:
        raise ConfigError(f"{file} is no JSON: {error}") from None
    return facts if isinstance(facts, dict) else {}
