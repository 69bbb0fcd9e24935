"""`load_config`: a TOML file and overrides become a checked config. The only I/O of this package."""

from __future__ import annotations

import reprlib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from schemas.config.blocks import ConfigBlock
from schemas.config.given import check_path
from schemas.errors import ConfigError
from schemas.refusals import explain_invalid

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
        >>> load_config(EmbedConfig, "jobs/configs/news.toml", ["encoder.batch=64"])
    """
    if not isinstance(model, type) or not issubclass(model, ConfigBlock):
        raise ConfigError(f"model={reprlib.repr(model)}: pass the config's class, such as EmbedConfig")
    if (
        isinstance(overrides, str)
        or not isinstance(overrides, Sequence)
        or not all(isinstance(o, str) for o in overrides)
    ):
        raise ConfigError(f"overrides={reprlib.repr(overrides)}: pass a list, such as ['encoder.batch=64']")
    if path is not None:
        check_path(path=path)
    raw = {} if path is None else _read_toml(path)
    for override in overrides:
        _apply_override(raw, override)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{path or 'config'}: " + explain_invalid(model, error)) from None


def _read_toml(path: str | Path) -> dict[str, Any]:
    try:
        # TOML is UTF-8; editors on Windows put a byte order mark before it.
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"no config file at {path}; examples are in jobs/configs/") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read as a config file: {error.strerror or error}") from None
    except RecursionError:
        raise ConfigError(f"{path} is not valid TOML: it is nested too deep") from None
    except ValueError as error:  # not TOML, not UTF-8, a number of thousands of digits, or NUL in the path
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"--set {override!r}: write key=value, for example --set encoder.batch=64")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text
    *parents, leaf = key.split(".")
    for parent in parents:
        raw = raw.setdefault(parent, {})
        if not isinstance(raw, dict):
            raise ConfigError(f"--set {override!r}: {parent!r} is a value, not a block")
    raw[leaf] = value
