"""Make texts from templates: the fields are read as kept columns that no table sees, and put together by column.

Owns what a value is as text: JSON keeps the digits of a number and writes lists and objects as JSON; other formats are
cast by Arrow. `schemas.templates` owns the syntax.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.shards.kept_values import convert
from schemas.config import InputConfig
from schemas.errors import FieldNotFound
from schemas.templates import parse_template

_HIDDEN = "\0"  # no name in a config holds this character


def as_read(config: InputConfig) -> InputConfig:
    """Add the fields of the template to the kept fields; a config without a template stays as it is."""
    if not config.has_template:
        return config
    fields = dict.fromkeys(part.text for part in parse_template(config.text or "") if part.is_field)
    return config.model_copy(update={"keep": (*config.keep, *(f"{name} as {_hidden(name)}" for name in fields))})


def without_template_fields(schema: pa.Schema, uri: str) -> pa.Schema:
    """Return the kept columns without the fields of a template.

    Raises:
        FieldNotFound: A field of the template has a type that is no text.
    """
    for field in schema:
        if field.name.startswith(_HIDDEN):
            _check_text(field.type, field.name.removeprefix(_HIDDEN).replace(_HIDDEN, " "), uri)
    return pa.schema([field for field in schema if not field.name.startswith(_HIDDEN)])


@dataclass(frozen=True)
class TemplateTexts:
    """The texts of N samples.

    Attributes:
        texts: (N,) string; null where a sample lacks a field that it must have, or all fields where it must have none.
        are_null: Where each field is missing, (N,), by its name; of those that may be missing only if all may be.
        are_utf8: Where each field is valid UTF-8, (N,), by its name.
    """

    texts: pa.Array
    are_null: Mapping[str, npt.NDArray[np.bool_]]
    are_utf8: Mapping[str, npt.NDArray[np.bool_]]

    def lacking(self, row: int) -> str:
        """Name the fields that a sample lacks."""
        return " and no ".join(name for name, is_null_N in self.are_null.items() if is_null_N[row])


class TextTemplate:
    """A template that makes the texts of a shard."""

    def __init__(self, text: str, uri: str) -> None:
        """Parse a template; `uri` is the shard of the messages."""
        self._parts, self._uri = parse_template(text), uri
        self._needed = {part.text for part in self._parts if part.is_field and not part.is_optional}
        self._fields = list(dict.fromkeys(part.text for part in self._parts if part.is_field))

    def fill(self, kept: Mapping[str, pa.Array]) -> TemplateTexts:
        """Make the texts of N samples from the columns that `as_read` added."""
        columns, are_null, are_utf8 = {}, {}, {}
        for name in self._fields:
            array = kept[_hidden(name)]
            _check_text(array.type, name, self._uri)
            texts, are_utf8[name] = convert(array, pa.string())
            if name in self._needed or not self._needed:
                are_null[name] = texts.is_null().to_numpy(zero_copy_only=False)
            columns[name] = texts if name in self._needed else pc.fill_null(texts, "")
        pieces = [columns[part.text] if part.is_field else pa.scalar(part.text) for part in self._parts]
        made = pc.binary_join_element_wise(*pieces, "")
        if not self._needed:
            made = pc.if_else(np.logical_and.reduce([*are_null.values()]), None, made)
        return TemplateTexts(made, are_null, are_utf8)


def _hidden(name: str) -> str:
    return _HIDDEN + name.replace(" ", _HIDDEN)  # so that `keep` reads no ` as ` and cuts no space


def _check_text(kind: pa.DataType, name: str, uri: str) -> None:
    try:
        convert(pa.nulls(0, kind), pa.string())
    except TypeError:
        raise FieldNotFound(
            f"{uri}: field {name!r} is {kind}, which input.text cannot put into a text; name texts or numbers"
        ) from None
