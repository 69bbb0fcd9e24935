"""What is said where settings do not fit their model: the same for a file and for a Python program.

Owns the words, and `SaysWhatIsWrong`, by which a model says them when it is made by its name.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from schemas.errors import ConfigError, nearest

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)  # it has no public name

_SHOWN_CHARACTERS = 80
_SAID_AT_ONCE = 8


class SaysWhatIsWrong(ModelMetaclass):
    """Metaclass of models that a person makes: `Model(wrong=1)` raises ConfigError with the nearest key.

    It is a metaclass since only a call by a person may speak: models within models report to the outermost.
    """

    if not TYPE_CHECKING:  # type checkers read the fields

        def __call__(cls, *args: object, **settings: object) -> object:  # noqa: N805 - of a metaclass
            """Make a model.

            Raises:
                ConfigError: A setting is unknown, missing or wrong.
            """
            if args:
                given = f"{cls.__name__}({reprlib.repr(args[0])})"
                raise ConfigError(f"{given}: pass settings by their names: {', '.join(cls.model_fields)}")
            try:
                return super().__call__(**settings)
            except ValidationError as error:
                raise ConfigError(f"{cls.__name__}: {explain_invalid(cls, error)}") from None


def explain_invalid(model: type[BaseModel], invalid: ValidationError) -> str:
    """Return what is wrong with each key; what the alternatives of one value say is joined by "or"."""
    by_key: dict[str, list[Any]] = {}
    for error in invalid.errors():
        key = _key(model, error["loc"])
        by_key.setdefault(".".join(key), []).append(error | {"loc": key})
    # A list whose only item is wrong also counts as too short.
    keys = [key for key in by_key if not any(other.startswith(f"{key}.") for other in by_key)]
    said = [_explain(model, by_key[key]) for key in keys[:_SAID_AT_ONCE]]
    return "; ".join(said if len(keys) <= _SAID_AT_ONCE else [*said, f"and {len(keys) - _SAID_AT_ONCE} more"])


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
    return sorted(field.alias or name for name, field in here.model_fields.items())
