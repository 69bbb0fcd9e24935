"""EncoderSpec: everything that is known of one model, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from schemas.columns import Ladder, Step
from schemas.errors import ConfigError
from schemas.records import Modality, Side

Family = Literal[
    "clip",
    "efficientnet",
    "head",
    "openclip",
    "precomputed",
    "sentence",
    "timm",
    "trained",
    "transformer",
    "vision",
    "wordllama",
]
Prompts = Mapping[Side, str]
Pooling = Literal["mean", "cls", "last", "model"]
_ANY_FLOAT = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class EncoderSpec:
    """What is known of one model. Its place is `pipelines/encoders/catalogue.py`.

    Attributes:
        name: Name in configs.
        family: Module of `pipelines.encoders` that runs it.
        modalities: What it embeds into its one space; two of them make it a joint model.
        dims: Ladder it was trained for, ascending, the last its full width. One entry: not Matryoshka-trained.
        licence: SPDX id or name.
        any_from: Smallest dim, where it was trained for every dim from there to its width.
        repo: Repository on the Hugging Face hub.
        package: Python package that carries the weights.
        revision: What is pinned: a commit of `repo`, or the version of `package`, or the version of an API.
        prompts: Text put before an input, by side.
        tasks: Adapter of the model to use, by side.
        pooling: How token or patch vectors become one; `model`: by the model's own modules.
        steps: What is done to the pooled vector, in order, before it is stored.
        max_length: Tokens after which a text is cut.
        is_ragged: Texts of any lengths make one batch, without padding.
        pads_to_max: Texts are always padded to `max_length`, as in training.
        pixels: Side of the square an image is brought to, where the model's own preprocessor file does not say.
        dtypes: Arithmetic it may run in, the most exact first.
        text_tower: Registry name of the encoder that embeds texts into this model's space, where it is another model.
        runs_code: Loading it runs Python from its repository, at the pinned revision.
        is_gated: Downloading needs an account that has accepted the licence.
    """

    name: str
    family: Family
    modalities: tuple[Modality, ...]
    dims: tuple[int, ...]
    licence: str
    any_from: int | None = None
    repo: str = ""
    package: str = ""
    revision: str = ""
    prompts: Prompts = field(default_factory=dict)
    tasks: Mapping[Side, str] = field(default_factory=dict)
    pooling: Pooling = "model"
    steps: tuple[Step, ...] = ("l2",)
    max_length: int | None = None
    is_ragged: bool = False
    pads_to_max: bool = False
    pixels: int | None = None
    dtypes: tuple[str, ...] = _ANY_FLOAT
    text_tower: str | None = None
    runs_code: bool = False
    is_gated: bool = False

    @property
    def ladder(self) -> Ladder:
        """The dims its vectors may be cut to."""
        return Ladder(dims=self.dims, any_from=self.any_from)

    @property
    def is_matryoshka(self) -> bool:
        """Whether it was trained for more than its full width."""
        return len(self.dims) > 1


def licence_notice(spec: EncoderSpec) -> str | None:
    """Return what a person must know of a model's terms before a run starts, or None."""
    terms = []
    if "NC" in spec.licence.split("-"):
        terms.append(f"its licence ({spec.licence}) forbids commercial use")
    if spec.is_gated:
        terms.append(f"it is gated: accept its terms ({spec.licence}) at https://huggingface.co/{spec.repo} first")
    if spec.runs_code:
        terms.append(f"loading it runs Python code from {spec.repo} at revision {spec.revision}")
    return f"{spec.name}: {'; '.join(terms)}" if terms else None


def pick_dtype(spec: EncoderSpec, asked: str, *, has_gpu: bool) -> str:
    """Return the arithmetic a model runs in: what was asked; `auto` is bf16 on a GPU where the model allows it.

    Raises:
        ConfigError: The model must not run in what was asked.
    """
    if asked == "auto":
        return "bfloat16" if has_gpu and "bfloat16" in spec.dtypes else "float32"
    if asked not in spec.dtypes:
        raise ConfigError(f"encoder.dtype={asked}: {spec.name} must not run in it; allowed: {', '.join(spec.dtypes)}")
    return asked
