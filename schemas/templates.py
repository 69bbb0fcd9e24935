"""Templates of texts: `"{title}: {body}"` names the fields that a text is made of.

Owns the syntax. A text with braces is a template. `{field}` stands for the value of a field that each sample must
have, and `{field?}` for one that may be missing, in whose place nothing is put. Space around a name does not count.
`{{` and `}}` are braces.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PART = re.compile(r"(?P<brace>\{\{|\}\})|\{(?P<field>[^{}]*)\}|(?P<text>[^{}]+)|(?P<stray>[{}])")
_OPTIONAL = "?"


@dataclass(frozen=True)
class TemplatePart:
    """One part of a template.

    Attributes:
        text: Literal text, or the name of a field.
        is_field: Whether it names a field.
        is_optional: Whether a sample may lack the field.
    """

    text: str
    is_field: bool = False
    is_optional: bool = False


def is_template(text: str) -> bool:
    """Return whether a text is a template: it has a brace."""
    return "{" in text or "}" in text


def parse_template(text: str) -> tuple[TemplatePart, ...]:
    """Parse a template.

    Raises:
        ValueError: A brace stands alone, a field has no name, or there is no field.

    >>> [part.text for part in parse_template("{title}: {body?}")]
    ['title', ': ', 'body']
    """
    parts: list[TemplatePart] = []
    for found in _PART.finditer(text):
        name = found["field"]
        if found["stray"]:
            raise ValueError(
                f"the template {text!r} has a {found['stray']!r} without its other half at character "
                f"{found.start() + 1}; write a brace that is meant as text as {2 * found['stray']!r}"
            )
        if name is None:
            parts.append(TemplatePart(found["brace"][0] if found["brace"] else found["text"]))
            continue
        field = name.strip().removesuffix(_OPTIONAL).strip()
        if not field:
            raise ValueError(f"the template {text!r} names no field at character {found.start() + 1}; write {{FIELD}}")
        parts.append(TemplatePart(field, is_field=True, is_optional=name.strip().endswith(_OPTIONAL)))
    if not any(part.is_field for part in parts):
        raise ValueError(f"the template {text!r} names no field; write {{FIELD}} where a field's value goes")
    return tuple(parts)
