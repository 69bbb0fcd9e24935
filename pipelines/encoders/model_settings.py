"""Settings of a config for a model of the user's own: which apply to it, and what they change in its spec."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipelines.encoders.spec import EncoderSpec
from schemas.columns import Space
from schemas.config import EncoderConfig, ModelSettings
from schemas.errors import ConfigError

_LADDER = ("dims", "any_from")
# The settings that each name takes.
_ALLOWED = {
    "sentence-transformers": (*_LADDER, "prompts", "max_length"),
    "transformers": (*_LADDER, "prompts", "pooling", "max_length"),
    "open_clip": (*_LADDER, "prompts"),
    "timm": _LADDER,
}


def check_settings(spec: EncoderSpec, config: EncoderConfig) -> None:
    """Refuse settings that belong to models of the user's own, for another encoder.

    Raises:
        ConfigError: The encoder does not take one that is set.
    """
    if config.class_ is not None and spec.name != "own":
        raise ConfigError(
            f"encoder.class={config.class_} is an encoder of your own, and encoder.name={spec.name} another one; leave "
            "one of them out"
        )
    allowed = _ALLOWED.get(spec.name, ())
    for name in ModelSettings.model_fields:
        if getattr(config, name) is not None and name not in allowed:
            takers = ", ".join(taker for taker, names in _ALLOWED.items() if name in names)
            source = "its own files" if spec.name in _ALLOWED or not spec.dims else "the registry"
            raise ConfigError(
                f"encoder.{name} is not a setting of {spec.name}, which takes it from {source}; it is one of {takers}; "
                "leave it out"
            )


def apply_settings(spec: EncoderSpec, config: EncoderConfig) -> EncoderSpec:
    """Return the spec of a model with what a config sets in place of what its files say.

    Raises:
        ConfigError: The model is narrower or shorter than a setting, or its pooling is not said anywhere.
    """
    changes: dict[str, Any] = {}
    width = spec.ladder.width
    if config.dims is not None or config.any_from is not None:
        for name, dim in (("dims", max(config.dims or (1,))), ("any_from", config.any_from or 1)):
            if dim > width:
                raise ConfigError(f"encoder.{name}: {dim} is more than the {width} dims of the model at {config.path}")
        changes |= {"dims": tuple(sorted({*(config.dims or spec.dims), width})), "any_from": config.any_from}
    if config.prompts is not None:
        if "text" not in spec.modalities:
            raise ConfigError(f"encoder.prompts: the model at {config.path} takes no text; leave it out")
        changes["prompts"] = {side: text for side, text in config.prompts.model_dump().items() if text}
    if config.max_length is not None:
        if spec.max_length is not None and config.max_length > spec.max_length:
            raise ConfigError(
                f"encoder.max_length={config.max_length}: the model at {config.path} takes at most {spec.max_length} "
                "tokens"
            )
        changes["max_length"] = config.max_length
    if config.pooling is not None:
        changes["pooling"] = config.pooling
    return _complete(replace(spec, **changes), config)


def _complete(spec: EncoderSpec, config: EncoderConfig) -> EncoderSpec:
    if spec.family == "transformer" and spec.pooling == "model":
        raise ConfigError(
            f"encoder.pooling is needed: the files at {config.path} do not say how token vectors become one; set it to "
            "mean, cls or last, as the model's card says"
        )
    if spec.family == "transformer" and spec.max_length is None:
        raise ConfigError(f"encoder.max_length is needed: the files at {config.path} do not say how long a text may be")
    if spec.family in ("vision", "clip") and config.pooling not in (None, spec.pooling):
        raise ConfigError(f"encoder.pooling={config.pooling}: an image model is pooled as it says; leave it out")
    return spec


def settings_of(space: Space) -> dict[str, Any]:
    """Return the settings with which a model of the user's own made a space; plain values, safe from any table."""
    allowed = _ALLOWED.get(space.encoder, ())
    found: dict[str, Any] = {"prompts": space.prompts, "max_length": space.max_length}
    if space.pooling != "model":
        found["pooling"] = space.pooling
    if space.rotation is None:
        found |= {"dims": space.ladder.dims, "any_from": space.ladder.any_from}
    return {name: value for name, value in found.items() if name in allowed}
