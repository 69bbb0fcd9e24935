"""`load_config`: a TOML file and overrides become a checked config. The only I/O of this package."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from schemas.config.blocks import ConfigBlock
from schemas.errors import ConfigError, nearest

C = TypeVar("C", bound=ConfigBlock)


def load_config(model: type[C], path: str | Path | None, overrides: Sequence[str] = ()) -> C:
    """Read a TOML file, apply `key.sub=value` overrides, and check the result.

    Args:
        model: The job's config model.
        path: TOML file; None starts from an empty config.
        overrides: `dotted.key=value`; the value is TOML, or a plain string if it is not valid TOML.

    Raises:
        ConfigError: The file is missing or not TOML, an override is malformed, or the result does not fit the model.

    Example:
        >>> load_config(EmbedConfig, "news.toml", ["encoder.batch=64"])  # doctest: +SKIP
    """
    raw: dict[str, Any] = {}
    if path is not None:
        try:
            raw = tomllib.loads(Path(path).read_text())
        except FileNotFoundError:
            raise ConfigError(f"no config file at {path}; examples are in jobs/configs/") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from None
    for override in overrides:
        _apply_override(raw, override)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{path or 'config'}: " + "; ".join(_explain(model, e) for e in error.errors())) from None


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override!r}: write key=value, for example --set encoder.batch=64")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, leaf = key.split(".")
    for parent in parents:
        raw = raw.setdefault(parent, {})
        if not isinstance(raw, dict):
            raise ConfigError(f"--set {override!r}: {parent!r} is a value, not a block")
    raw[leaf] = value


def _explain(model: type[BaseModel], error: Any) -> str:
    path = [str(part) for part in error["loc"]]
    where = ".".join(path) or "the whole config"
    if error["type"] == "extra_forbidden":
        known = _known_keys(model, path[:-1])
        return f"unknown key {where!r}{nearest(path[-1], known)}; known here: {', '.join(known)}"
    if error["type"] == "missing":
        return f"{where!r} is missing"
    return f"{where!r}: {error['msg'].removeprefix('Value error, ')} (got {error['input']!r})"


def _known_keys(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    for part in path:
        field = model.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            break
        model = field.annotation
    return sorted(model.model_fields)
