"""Compare an encoder with the reference implementation of its model, where one is installed.

The reference is the library that the model was published for: sentence-transformers, with the pooling and the prompts
that the model's own files state, or the image processor and features of transformers. Engines disagree about pooling
and normalisation of the same model, so a served one is compared too, where its description names the model. Owns no
samples; what is compared is passed in.

Shapes: B inputs, D full width.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from pipelines.encoders.inference import apply_steps
from pipelines.encoders.model_files import HUB, local_path, model_source
from pipelines.encoders.protocol import BadSample, Raw
from pipelines.encoders.registry import load_encoder, load_preparer, resolve
from pipelines.encoders.served_description import read_description
from pipelines.encoders.spec import EncoderSpec, may_run_code, pick_dtype
from pipelines.storage.device import pick_device
from schemas.config import EncoderConfig, LimitsConfig
from schemas.errors import ConfigError, EncoderError, EncoderMismatch, reason_of
from schemas.journal import Equality
from schemas.records import Modality, Side

_LEAST = {"float32": 0.99999}
_LEAST_IN_HALF = 0.999
_POOLINGS = {"mean": "mean", "cls": "cls", "last": "lasttoken"}
_OWN_PROMPTS: dict[Side, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage")}


@dataclass(frozen=True)
class Variant:
    """How a reference encodes: None is as the model's own files say."""

    prompt: str | None = None
    pooling: str | None = None
    layer_norm: bool | None = None


class Reference(Protocol):
    """The implementation that a model was published for."""

    name: str

    def encode(self, values: Sequence[Raw], side: Side, variant: Variant = Variant()) -> npt.NDArray[np.float32]:
        """Encode B inputs to (B, D) unit rows, in float32 arithmetic."""
        ...

    def variants(self, side: Side) -> Iterator[tuple[str, Variant]]:
        """Yield other ways to encode, each with what it says of an encoder that does so."""
        ...


def compare_with_reference(config: EncoderConfig, values: Sequence[Raw]) -> Equality | None:
    """Compare the vectors of a few inputs with those of the model's reference implementation.

    Args:
        config: The encoder block of a job.
        values: Inputs of one modality; texts are compared as documents and as queries.

    Returns:
        What was found; its `note` says why the reference could not be used. None where the model has none here.

    Raises:
        EncoderMismatch: They differ; the message says in what.
        LakeError: The encoder itself cannot be used.
    """
    spec = resolve(config)
    dtype = pick_dtype(spec, config.dtype, has_gpu=pick_device(config.device, "encoder.device").type == "cuda")
    least = _LEAST.get(dtype, _LEAST_IN_HALF)
    sides: tuple[Side, ...] = ("document", "query") if isinstance(values[0], str) else ("document",)
    ours = {side: _encode(config.model_copy(update={"side": side}), values) for side in sides}
    try:
        reference = find_reference(spec, config, "text" if isinstance(values[0], str) else "image")
        if reference is None:
            return None
        theirs = {side: reference.encode([values[at] for at in ours[side][0]], side) for side in sides}
    except (ConfigError, EncoderError):
        raise
    except Exception as error:  # a library, its files or the memory of this machine
        return Equality(note=f"{type(error).__name__}: {reason_of(error)}")
    cosine = 1.0
    for side in sides:
        places, x_BD = ours[side]
        found = _cosine(x_BD, theirs[side])
        cosine = min(cosine, found)
        if found < least:
            why = _explain(config, reference, side, [values[at] for at in places], x_BD, dtype)
            raise EncoderMismatch(
                f"{spec.name} does not make the vectors of its reference, {reference.name}: the smallest cosine of "
                f"{len(places)} samples, encoded as for a {side}, is {found:.6f}, and {least} is needed in {dtype}; "
                f"{why}; put it right, or set encoder.reference_samples=0 if you mean it so"
            )
    return Equality(reference.name, len(values), cosine, dtype)


def _encode(config: EncoderConfig, values: Sequence[Raw]) -> tuple[list[int], npt.NDArray[np.float32]]:
    """Return the places of the inputs that are not bad, and their vectors."""
    prepared = load_preparer(config, LimitsConfig()).prepare(values)
    good = [(at, one) for at, one in enumerate(prepared) if not isinstance(one, BadSample)]
    return [at for at, _ in good], load_encoder(config).encode([one for _, one in good])


def _cosine(a_BD: npt.NDArray[np.float32], b_BD: npt.NDArray[np.float32]) -> float:
    """Return the smallest cosine of two rows of one input; -1 where their widths differ."""
    if a_BD.shape != b_BD.shape:
        return -1.0
    return float(np.einsum("bd,bd->b", a_BD.astype(np.float64), b_BD.astype(np.float64)).min())


def _explain(
    config: EncoderConfig,
    reference: Reference,
    side: Side,
    values: Sequence[Raw],
    x_BD: npt.NDArray[np.float32],
    dtype: str,
) -> str:
    """Say in what an encoder differs from its reference, as far as one change explains it."""
    tried = [
        (_cosine(x_BD, reference.encode(values, side, variant)), said) for said, variant in reference.variants(side)
    ]
    best, said = max(tried, default=(-1.0, ""))
    if best >= _LEAST.get(dtype, _LEAST_IN_HALF):
        return f"what differs is {said}"
    if dtype != "float32":
        exact = config.model_copy(update={"side": side, "dtype": "float32"})
        if _cosine(_encode(exact, values)[1], reference.encode(values, side)) >= _LEAST["float32"]:
            return f"what differs is the dtype: in float32 they are equal, and {dtype} is not exact enough"
    return "neither pooling, norm, prompt nor dtype alone explains it: the weights or the tokens may be others"


def find_reference(spec: EncoderSpec, config: EncoderConfig, modality: Modality) -> Reference | None:
    """Return the reference implementation of a model; None where none is installed, or the encoder is the reference.

    Raises:
        ConfigError: A description names a reference that is not there.
    """
    if spec.family == "served":
        said = read_description(local_path(config.path or ""))
        if not said.reference:
            return None
        spec = replace(spec, prompts=said.input_types if said.api == "openai" else {})
        return _sentence_reference(spec, config, str(local_path(said.reference)), None)
    if spec.package and config.path is None:
        return None  # the package holds the weights that this project's tests compare
    if spec.family in ("sentence", "transformer", "static") and modality == "text":
        return _sentence_reference(spec, config, *_sentence_source(spec, config))
    if spec.family in ("clip", "vision") and not spec.runs_code and modality == "image":
        return ImageReference(spec, config)
    return None


def _sentence_source(spec: EncoderSpec, config: EncoderConfig) -> tuple[str, str | None]:
    where, revision = model_source(spec, config)
    return where.removeprefix(HUB), revision


def _sentence_reference(spec: EncoderSpec, config: EncoderConfig, where: str, revision: str | None) -> Reference | None:
    if find_spec("sentence_transformers") is None or not _has_modules(where, revision):
        return None
    return SentenceReference(spec, config, where, revision)


def _has_modules(where: str, revision: str | None) -> bool:
    """Tell whether a model's files say how it is pooled; without them the library would guess."""
    if Path(where).is_dir():
        return (Path(where) / "modules.json").is_file()
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return bool(hf_hub_download(where, "modules.json", revision=revision))
    except EntryNotFoundError:
        return False


class SentenceReference:
    """sentence-transformers, as the model's own files tell it to encode."""

    def __init__(self, spec: EncoderSpec, config: EncoderConfig, where: str, revision: str | None) -> None:
        """Load the model in float32."""
        from sentence_transformers import SentenceTransformer

        self.name = f"sentence-transformers {version('sentence-transformers')}"
        device = pick_device(config.device, "encoder.device")
        self._model: Any = SentenceTransformer(
            where,
            revision=revision,
            device=str(device),
            trust_remote_code=may_run_code(spec, config),
            model_kwargs={"dtype": torch.float32},
        )
        if spec.max_length is not None and spec.family != "static":
            self._model.max_seq_length = spec.max_length
        self._spec, self._is_set_by_user = spec, config.prompts is not None

    def encode(self, values: Sequence[Raw], side: Side, variant: Variant = Variant()) -> npt.NDArray[np.float32]:
        """Encode B texts to (B, D) unit rows."""
        prompt = self._prompt(side) if variant.prompt is None else variant.prompt
        pools = [module for module in self._model if hasattr(module, "pooling_mode")]
        before = [module.pooling_mode for module in pools]
        task = {"task": self._spec.tasks[side]} if self._spec.tasks else {}
        try:
            for module in pools if variant.pooling else ():
                module.pooling_mode = variant.pooling
            encoded = self._model.encode(
                [str(value) for value in values],
                prompt=prompt or None,
                convert_to_tensor=True,
                show_progress_bar=False,
                **task,
            )
        finally:
            for module, mode in zip(pools, before, strict=True):
                module.pooling_mode = mode
        steps = self._spec.steps
        if variant.layer_norm is not None:
            steps = ("layer_norm", "l2") if variant.layer_norm else ("l2",)
        return apply_steps(torch.as_tensor(encoded), steps)

    def variants(self, side: Side) -> Iterator[tuple[str, Variant]]:
        """Yield one change at a time: prompt, pooling, norm."""
        own, ours = self._prompt(side), self._spec.prompts.get(side, "")
        other = self._prompt("document" if side == "query" else "query")
        for prompt in dict.fromkeys((ours, "", other)):
            if prompt != own:
                yield f"the prompt, {prompt!r} here and {own!r} in the reference", Variant(prompt=prompt)
        modes = [module.pooling_mode for module in self._model if hasattr(module, "pooling_mode")]
        for name, mode in _POOLINGS.items():
            if modes and mode not in modes:
                is_at = {there: here for here, there in _POOLINGS.items()}.get(str(modes[0]), modes[0])
                yield f"pooling, {name} here and {is_at} in the reference", Variant(pooling=mode)
        has_norm = "layer_norm" in self._spec.steps
        said = ("without", "with") if has_norm else ("with", "without")
        yield f"the norm, {said[0]} layer_norm here and {said[1]} it in the reference", Variant(layer_norm=not has_norm)

    def _prompt(self, side: Side) -> str:
        """Return the prompt that the model's files state; where they state none, or the user says another, that."""
        stated = [self._model.prompts.get(name) for name in _OWN_PROMPTS[side]]
        own = next((text for text in stated if text), None)
        return self._spec.prompts.get(side, "") if own is None or self._is_set_by_user else own


class ImageReference:
    """The image processor and the image features of transformers."""

    def __init__(self, spec: EncoderSpec, config: EncoderConfig) -> None:
        """Load the processor and the model, in float32."""
        from transformers import AutoModel
        from transformers.models.auto.image_processing_auto import AutoImageProcessor

        self.name = f"transformers {version('transformers')}"
        where, revision = model_source(spec, config)
        make: Callable[..., Any] = AutoImageProcessor.from_pretrained
        self._processor = make(where, revision=revision, backend="pil")
        self._device = pick_device(config.device, "encoder.device")
        model: Any = AutoModel.from_pretrained(where, revision=revision, dtype=torch.float32)
        self._model, self._spec = model.to(self._device).eval(), spec

    @torch.inference_mode()
    def encode(self, values: Sequence[Raw], side: Side, variant: Variant = Variant()) -> npt.NDArray[np.float32]:
        """Encode the bytes of B images to (B, D) unit rows."""
        images = [Image.open(io.BytesIO(cast(bytes, value))).convert("RGB") for value in values]
        pixels = self._processor(images, return_tensors="pt")["pixel_values"].to(self._device)
        if self._spec.family == "clip":
            features = self._model.get_image_features(pixel_values=pixels)
            pooled_BD = getattr(features, "pooler_output", features)
        else:
            pooled_BD = self._model(pixel_values=pixels).last_hidden_state[:, 0]
        return apply_steps(pooled_BD, self._spec.steps)

    def variants(self, side: Side) -> Iterator[tuple[str, Variant]]:
        """Yield nothing: images have neither prompts nor another pooling."""
        return iter(())
