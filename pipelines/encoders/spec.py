"""EncoderSpec: the facts about one model, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from schemas.columns import Ladder, Step
from schemas.config import EncoderConfig
from schemas.errors import ConfigError, EncoderNotTrusted
from schemas.records import Modality, Side

FamilyName = Literal[
    "clip",
    "efficientnet",
    "head",
    "omni",
    "openclip",
    "own",
    "precomputed",
    "sentence",
    "served",
    "static",
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
    """The facts about one model; all of them are in `pipelines/encoders/catalogue.py`.

    Attributes:
        name: Name in configs.
        family: Module of `pipelines.encoders.families` that runs it.
        modalities: What it embeds into its one space; two of them make it a joint model.
        dims: Its ladder, ascending, up to its full width. A single dim: not Matryoshka-trained. None: a file says.
        licence: SPDX id or name.
        any_from: Smallest dim, where it was trained for every dim from there to its full width.
        repo: Repository on the Hugging Face hub.
        package: Python package that carries the weights.
        revision: The pinned commit of `repo`, version of `package`, or version of an API.
        prompts: Text in front of an input, by side.
        tasks: Adapter of the model, by side.
        pooling: How token or patch vectors become one; `model`: the model's own modules pool.
        steps: Applied to the pooled vector, in order, before it is stored.
        max_length: Tokens after which a text is cut.
        is_ragged: Whether a batch needs no padding.
        pads_to_max: Whether texts are always padded to `max_length`, as in training.
        pixels: Side of the square input image, where no preprocessor file says it.
        dtypes: Dtypes it may run in, the most exact first.
        text_tower: Registry name of the model that embeds texts into this model's space, where it is another one.
        runs_code: Whether loading it runs Python from its repository, at the pinned revision.
        is_gated: Whether downloading it needs an account that has accepted the licence.
        is_verified: Whether a test compares it with its reference implementation, on random weights where its own
            cannot be had. Not where that runs only from its repository.
        unconfirmed: What of this entry neither the model's code and card nor MTEB states, for people to look at; ""
            where they state all.
        shares: Name of the space that it shares with other entries: vectors of all of them may be compared.
    """

    name: str
    family: FamilyName
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
    is_verified: bool = True
    unconfirmed: str = ""
    shares: str = ""

    @property
    def ladder(self) -> Ladder:
        """The dims that its vectors may be cut to."""
        return Ladder(dims=self.dims, any_from=self.any_from)

    @property
    def is_matryoshka(self) -> bool:
        """Whether it was trained for shorter prefixes than its full width."""
        return len(self.dims) > 1

    @property
    def forbids_commerce(self) -> bool:
        """Whether its licence forbids commercial use."""
        return "NC" in self.licence.split("-")


def licence_notice(spec: EncoderSpec) -> str | None:
    """Return the terms of a model that a person must know before a run starts, or None."""
    terms = []
    if spec.forbids_commerce:
        terms.append(f"its licence ({spec.licence}) forbids commercial use")
    if spec.is_gated:
        terms.append(f"it is gated: accept its terms ({spec.licence}) at https://huggingface.co/{spec.repo} first")
    if spec.runs_code:
        terms.append(f"loading it runs Python code from {spec.repo} at revision {spec.revision}")
    return f"{spec.name}: {'; '.join(terms)}" if terms else None


def may_run_code(spec: EncoderSpec, config: EncoderConfig) -> bool:
    """Return whether loading a model runs the Python that comes with it; the one place that allows it.

    Raises:
        EncoderNotTrusted: The model needs to, and the config does not allow it.
    """
    if spec.runs_code and not config.trust_remote_code:
        source = config.path or f"{spec.repo} at revision {spec.revision}"
        raise EncoderNotTrusted(
            f"{spec.name} runs Python code from {source}, and encoder.trust_remote_code is false; read that code, then "
            "set encoder.trust_remote_code=true in the config, or pass --trust-remote-code to `mlake search`"
        )
    return spec.runs_code


def check_verified(spec: EncoderSpec, config: EncoderConfig) -> None:
    """Refuse a model that was never compared with its reference implementation, unless the config takes it.

    Raises:
        EncoderNotTrusted: It was not, and `encoder.unverified` is false.
    """
    if not spec.is_verified and not config.unverified:
        unknown = f" (not confirmed: {spec.unconfirmed})" if spec.unconfirmed else ""
        raise EncoderNotTrusted(
            f"{spec.name} is unverified: this release was not compared with its reference implementation, and takes "
            f"prompts and pooling as its card states them{unknown}; compare a few vectors with it, then set "
            "encoder.unverified=true in the config, or pass --unverified"
        )


def pick_dtype(spec: EncoderSpec, asked: str, *, has_gpu: bool) -> str:
    """Return the dtype that a model runs in; `auto` is bf16 on a GPU where the model allows it, else float32.

    Raises:
        ConfigError: The model must not run in the configured dtype.
    """
    if asked == "auto":
        return "bfloat16" if has_gpu and "bfloat16" in spec.dtypes else "float32"
    if asked not in spec.dtypes:
        raise ConfigError(f"encoder.dtype={asked}: {spec.name} must not run in it; allowed: {', '.join(spec.dtypes)}")
    return asked
