"""Every number of every config has two ends, and no field takes what no library could use."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, get_args

import annotated_types
import pytest
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from schemas.config import DemoConfig, EmbedConfig, EvaluateConfig, ShortlistConfig, TrainConfig
from schemas.config.blocks import ConfigBlock

ENDS = annotated_types.Gt, annotated_types.Ge, annotated_types.Lt, annotated_types.Le
WRONG: dict[type, tuple[Any, ...]] = {
    int: (-(10**18), -1, 10**18, 10**400, math.nan, math.inf, True, 0.5, ""),
    float: (-math.inf, -1, 1e300, 10**400, math.nan, math.inf, True, ""),
    str: ("", "a\0b", 3, True, b"\xff", "\udcff"),
}


def blocks(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for part in parts(field.annotation):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from blocks(part)


def parts(annotation: Any) -> Iterator[Any]:
    """Yield an annotation and all that it is made of."""
    yield annotation
    for part in get_args(annotation):
        yield from parts(part)


BLOCKS = {b for c in (DemoConfig, EmbedConfig, EvaluateConfig, ShortlistConfig, TrainConfig) for b in blocks(c)}
FIELDS = [
    pytest.param(block, field.alias or name, field, id=f"{block.__name__}.{name}")
    for block in sorted(BLOCKS, key=lambda block: block.__name__)
    for name, field in block.model_fields.items()
]


def messages(block: type[BaseModel], name: str, value: Any) -> list[str]:
    """Return what is wrong with one field."""
    try:
        block.model_validate({name: value})
    except ValidationError as error:
        return [e["msg"] for e in error.errors() if e["loc"][:1] == (name,)]
    return []


@pytest.mark.parametrize(("block", "name", "field"), FIELDS)
def test_no_field_takes_a_value_out_of_its_bounds(block: type[BaseModel], name: str, field: FieldInfo) -> None:
    assert issubclass(block, ConfigBlock)
    found = set(parts(field.annotation))
    for kind, values in WRONG.items():
        if kind in found:
            for value in values:
                assert messages(block, name, (value,) if tuple in map(_origin, found) else value), value


def _origin(annotation: Any) -> Any:
    return getattr(annotation, "__origin__", annotation)


@pytest.mark.parametrize("text", ["shards = []", "shards = ['']", "encoder.batch = 0", "cluster.actors = 100000"])
def test_a_value_out_of_bounds_is_refused_with_its_key_and_what_is_allowed(text: str) -> None:
    from schemas.config import load_config
    from schemas.errors import ConfigError

    base = ["shards=a.tar", "table=t", "input.image=png", "encoder.name=m"]
    key = text.split(" =")[0]
    with pytest.raises(ConfigError, match=rf"'{key}(\.0)?': .*(at least 1|greater than|less than).* \(got "):
        load_config(EmbedConfig, None, [*base, text.replace(" = ", "=")])
