"""Every known encoder with its exact Matryoshka rule. Adding one is one entry here.

Owns the facts about models (ladder, prompts, order of operations, licence); owns no model code: that is in the families.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from pipelines.encoders.protocol import Encoder, Preparer
from schemas.columns import Ladder, Space, Step
from schemas.config import EncoderConfig, LimitsConfig
from schemas.errors import ConfigError, DependencyMissing, EncoderNotFound, nearest
from schemas.records import Modality


@dataclass(frozen=True)
class EncoderSpec:
    """What is known of one model.

    Attributes:
        name: Name in configs.
        family: Module of `pipelines.encoders` that runs it.
        modality: What it embeds.
        dims: Ladder it was trained for, ascending, the last its full width. One entry: not Matryoshka-trained.
        revision: Pinned revision: a commit of the model's repository, or the version of the package that carries it.
        licence: SPDX id or name.
        prompts: Text put before an input, by side.
        pooling: How token or patch vectors become one.
        steps: What is done to the pooled vector before it is stored.
        max_length: Tokens after which a text is cut; None for images.
        pixels: Side of the square an image is brought to; None for text.
        dtypes: Arithmetic it may run in, the preferred one first.
    """

    name: str
    family: str
    modality: Modality
    dims: tuple[int, ...]
    revision: str
    licence: str
    prompts: Mapping[str, str] = field(default_factory=dict)
    pooling: str = "mean"
    steps: tuple[Step, ...] = ("l2",)
    max_length: int | None = None
    pixels: int | None = None
    dtypes: tuple[str, ...] = ("float32",)


_SPECS = (
    EncoderSpec(
        name="wordllama",
        family="wordllama",
        modality="text",
        dims=(64, 128, 256),
        revision="0.4.0.post1",
        licence="MIT",
        max_length=1024,
    ),
    EncoderSpec(
        name="efficientnet-lite0",
        family="efficientnet",
        modality="image",
        dims=(1280,),
        revision="0.1.0",
        licence="Apache-2.0",
        pixels=224,
    ),
)
REGISTRY: dict[str, EncoderSpec] = {spec.name: spec for spec in _SPECS}


def encoder_spec(name: str) -> EncoderSpec:
    """Look an encoder up.

    Raises:
        EncoderNotFound: No such name; the message lists those there are.
    """
    if name not in REGISTRY:
        raise EncoderNotFound(
            f"no encoder is named {name!r}{nearest(name, REGISTRY)}; there are: {', '.join(sorted(REGISTRY))}"
        )
    return REGISTRY[name]


def spec_of(space: Space) -> EncoderSpec:
    """Return the spec of the encoder that made a space."""
    return encoder_spec(space.encoder)


def make_space(config: EncoderConfig, *, has_gpu: bool = False) -> Space:
    """Say what space an encoder config embeds into, before any rotation.

    Args:
        config: The encoder block of a job.
        has_gpu: Whether the actors will have a GPU: decides what dtype `auto` means.

    Raises:
        EncoderNotFound: No such encoder.
        ConfigError: The model must not run in the asked dtype.
    """
    spec = encoder_spec(config.name)
    dtype = config.dtype
    if dtype == "auto":
        dtype = "bfloat16" if has_gpu and "bfloat16" in spec.dtypes else "float32"
    if dtype not in spec.dtypes:
        raise ConfigError(f"encoder.dtype={dtype}: {spec.name} must not run in it; allowed: {', '.join(spec.dtypes)}")
    return Space(
        encoder=spec.name,
        revision=spec.revision,
        prompts=dict(spec.prompts),
        pooling=spec.pooling,
        steps=spec.steps,
        max_length=spec.max_length,
        dtype=dtype,
        ladder=Ladder(dims=spec.dims),
    )


def load_preparer(config: EncoderConfig, limits: LimitsConfig) -> Preparer:
    """Load the CPU half of an encoder."""
    spec = encoder_spec(config.name)
    return cast(Preparer, _family(spec).load_preparer(spec, config, limits))


def load_encoder(config: EncoderConfig) -> Encoder:
    """Load the accelerator half of an encoder onto `config.device`."""
    spec = encoder_spec(config.name)
    return cast(Encoder, _family(spec).load_encoder(spec, config))


def _family(spec: EncoderSpec):  # type: ignore[no-untyped-def]
    try:
        return importlib.import_module(f"pipelines.encoders.{spec.family}")
    except ModuleNotFoundError as error:
        raise DependencyMissing(
            f"{spec.name} needs the library {error.name!r}, which is not installed; "
            f"run: pip install 'matryoshka-lake[{spec.family}]'"
        ) from error
