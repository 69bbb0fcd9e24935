"""From the space of a table to the encoder of this user that made it, or answers in it.

A table may be a stranger's: nothing that it names is opened or imported. Owns what `TrustConfig` allows.
"""

from __future__ import annotations

import re

from pipelines.encoders.model_settings import settings_of
from pipelines.encoders.own_class import offered
from pipelines.encoders.registry import REGISTRY, encoder_spec, make_space, resolve, weights_of
from pipelines.encoders.spec import EncoderSpec
from schemas.columns import Space
from schemas.config import EncoderConfig, TrustConfig
from schemas.config.blocks import CLASS_EXAMPLE, CLASS_NAME
from schemas.errors import ConfigError, EncoderNotTrusted, SpaceMismatch


def spec_of(space: Space, trust: TrustConfig = TrustConfig()) -> EncoderSpec:
    """Return the spec of the encoder that made a space; the file or class that describes it must be this user's."""
    if space.class_name is not None:
        return resolve(config_of(space, trust))
    spec = encoder_spec(space.encoder)
    return spec if spec.dims else resolve(config_of(space, trust))


def config_of(space: Space, trust: TrustConfig = TrustConfig()) -> EncoderConfig:
    """Return the config that loads the encoder of a space, as a query's.

    A space comes from a table, which may be a stranger's. So its path is never opened, and its class never imported:
    this user names the weights or the class, and they must be those that the space states.

    Args:
        space: The table's space.
        trust: What this user allows.

    Raises:
        EncoderNotTrusted: The space was made with local weights or a class, and this user names none.
        SpaceMismatch: What this user names did not make the space.
        ConfigError: It is not there.
    """
    _check_class(space, trust)
    if space.path is None and trust.encoder_path is not None:
        raise SpaceMismatch(
            f"the table's encoder {space.encoder_name} is the registered one, not one with local weights; leave the "
            f"path {trust.encoder_path} out"
        )
    if space.path is not None and trust.encoder_path is None:
        raise EncoderNotTrusted(
            f"the table was made by {space.encoder_name} with local weights, which its maker had at {space.path!r}; a "
            "path in a table is never opened, so name your copy of them: --encoder-path PATH, or "
            "VectorTable.open(…, trust=TrustConfig(encoder_path=PATH))"
        )
    named = {"path": trust.encoder_path, "trust_remote_code": trust.trust_remote_code, "unverified": trust.unverified}
    config = EncoderConfig(side="query", **named, **_name(space, trust), **settings_of(space))
    if (trust.encoder_path or trust.encoder_class) is not None and weights_of(config) != space.weights:
        parts = [f"the class {trust.encoder_class}"] * (trust.encoder_class is not None)
        parts += [f"the files at {trust.encoder_path}"] * (trust.encoder_path is not None)
        raise SpaceMismatch(
            f"{' and '.join(parts)} are not those that made this space; restore them, or embed the table again"
        )
    return config


def config_of_sharing(space: Space, trust: TrustConfig) -> EncoderConfig:
    """Return the config that loads `trust.encoder`, as a query's: a model that shares the space of a table.

    Raises:
        SpaceMismatch: Its makers do not state that it shares this space, or its vectors cannot be cut to this width.
        ConfigError: A class is named as well.
        EncoderNotFound: No encoder has this name.
    """
    if trust.encoder_class is not None:
        raise ConfigError(f"encoder={trust.encoder} and encoder_class={trust.encoder_class}: name one of them")
    config = EncoderConfig(
        name=trust.encoder or "",
        path=trust.encoder_path,
        side="query",
        trust_remote_code=trust.trust_remote_code,
        unverified=trust.unverified,
    )
    name, others = _shared_name(space), sharing(space)
    here = make_space(config)
    if not name or here.shares != name:
        allowed = f"models that share its space: {', '.join(others)}" if others else "no other model shares its space"
        raise SpaceMismatch(
            f"{trust.encoder} does not answer for {space.encoder_name}: no maker states that they share a space; "
            f"{allowed}"
        )
    if space.ladder.width > here.ladder.width:
        raise SpaceMismatch(
            f"the table's vectors have {space.ladder.width} dims, and {trust.encoder} gives {here.ladder.width}; pass "
            "a vector as the query"
        )
    here.ladder.check(space.ladder.width, trust.encoder or "")
    return config


def sharing(space: Space) -> list[str]:
    """Name the registered models that take words or pictures and share a space, by their makers' word."""
    name = _shared_name(space)
    found = (spec for spec in REGISTRY.values() if name and spec.shares == name)
    return [spec.name for spec in found if "vector" not in spec.modalities and spec.name != space.encoder]


def _shared_name(space: Space) -> str:
    """Return what a space is named among models that share it; tables of earlier releases do not say it."""
    is_registered = space.path is None and space.class_name is None and space.encoder in REGISTRY
    return space.shares or (REGISTRY[space.encoder].shares if is_registered else "")


def _name(space: Space, trust: TrustConfig) -> dict[str, str]:
    named = trust.encoder_class
    if named is None:
        return {"name": space.encoder}
    return {"class_": named} if ":" in named else {"name": named}


def _check_class(space: Space, trust: TrustConfig) -> None:
    named = trust.encoder_class
    if space.class_name is not None and named is None:
        raise EncoderNotTrusted(
            f"the table was made by the class {space.class_name} of its maker; a class that a table names is never "
            f"imported, so name yours: --encoder-class {CLASS_EXAMPLE}, or VectorTable.open(…, "
            "trust=TrustConfig(encoder_class=…))"
        )
    if named is None:
        return
    if space.class_name is None:
        raise SpaceMismatch(f"no class made this table, but {space.encoder_name}; leave the class {named} out")
    if re.fullmatch(CLASS_NAME, named) is None and named not in offered():
        raise ConfigError(
            f"encoder_class={named}: write module:Class, such as {CLASS_EXAMPLE}, or the name of an encoder that "
            f"an installed package offers: {', '.join(sorted(offered())) or 'none does'}"
        )


def check_encoder(space: Space, config: EncoderConfig) -> None:
    """Check that the encoder that is installed here makes vectors of a space; dtype and rotation aside.

    Args:
        space: The table's space.
        config: The config that loads its encoder.

    Raises:
        SpaceMismatch: Another revision, pooling, prompt, length or width would answer; scores would mean nothing.
    """
    here = make_space(config)
    settings = ("revision", "weights", "prompts", "pooling", "steps", "max_length")
    differing = [name for name in settings if getattr(space, name) != getattr(here, name)]
    if here.ladder.width != space.ladder.width:
        differing.append("ladder")
    if differing:
        said = "; ".join(f"{name}: table {getattr(space, name)!s}, here {getattr(here, name)!s}" for name in differing)
        raise SpaceMismatch(
            f"the encoder {space.encoder_name} that is installed here does not make the table's vectors ({said}); "
            "install the one that made them, embed the table again, or pass a vector as the query"
        )


def check_same_code(space: Space, config: EncoderConfig) -> None:
    """Check that this machine has the user's own code that the table's maker has, where such made the space.

    Raises:
        SpaceMismatch: It has another state of it.
    """
    if encoder_spec(config.name).family == "own" and (here := weights_of(config)) != space.weights:
        raise SpaceMismatch(
            f"{config.class_ or config.path or config.name} is another one on this machine than where the run began "
            f"({here[:12]}, there {space.weights[:12]}); install or copy the same version on all machines"
        )
