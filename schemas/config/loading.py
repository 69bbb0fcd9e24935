"""`load_config`: a TOML file and overrides become a checked config. The only I/O of this package."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from schemas.config.blocks import ConfigBlock
from schemas.errors import ConfigError, nearest

C = TypeVar("C", bound=ConfigBlock)
_SHOWN_CHARACTERS = 80
_SAID_AT_ONCE = 8


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
    raw = {} if path is None else _read_toml(path)
    for override in overrides:
        _apply_override(raw, override)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{path or 'config'}: " + "; ".join(_explain_all(model, error))) from None


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


def _explain_all(model: type[BaseModel], invalid: ValidationError) -> list[str]:
    """Return a sentence for each wrong key; what the alternatives of one value say is joined by "or"."""
    by_key: dict[str, list[Any]] = {}
    for error in invalid.errors():
        key = _key(model, error["loc"])
        by_key.setdefault(".".join(key), []).append(error | {"loc": key})
    # A list whose only item is wrong also counts as too short.
    keys = [key for key in by_key if not any(other.startswith(f"{key}.") for other in by_key)]
    said = [_explain(model, by_key[key]) for key in keys[:_SAID_AT_ONCE]]
    return said if len(keys) <= _SAID_AT_ONCE else [*said, f"and {len(keys) - _SAID_AT_ONCE} more"]


def _explain(model: type[BaseModel], errors: Sequence[Any]) -> str:
    first = errors[0]
    path = list(first["loc"])
    where = ".".join(path) or "the whole config"
    if first["type"] == "extra_forbidden":
        known = _known_keys(model, path[:-1])
        return f"unknown key {where!r}{nearest(path[-1], known)}; known here: {', '.join(known)}"
    if first["type"] == "missing":
        return f"{where!r} is missing"
    said = dict.fromkeys(error["msg"].removeprefix("Value error, ") for error in errors)
    text = " or ".join([*said][:1] + [message.removeprefix("Input should be ") for message in [*said][1:]])
    got = repr(first["input"])
    if len(got) > _SHOWN_CHARACTERS:
        got = f"{got[:_SHOWN_CHARACTERS]}…"
    text = text.replace("Tuple", "List").replace(" tuple", " list").replace(" after validation", "")
    return f"{where!r}: {text} (got {got})"


def _key(model: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """Return the dotted key of an error: pydantic ends its place with the alternative of a union that it tried."""
    key: list[str] = []
    here: Any = model
    for part in loc:
        if isinstance(part, str) and not (isinstance(here, type) and issubclass(here, BaseModel)):
            break
        key.append(str(part))
        if isinstance(part, str):
            field = here.model_fields.get(part)
            here = field and _block_of(field.annotation)
    return key


def _block_of(annotation: Any) -> Any:
    """Return the block that an annotation holds, alone, optional or in a tuple; None if it holds none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((block for arg in get_args(annotation) if (block := _block_of(arg))), None)


def _known_keys(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    here: Any = model
    for part in path:
        if not part.isdigit():
            here = _block_of(here.model_fields[part].annotation)
    return sorted(here.model_fields)
