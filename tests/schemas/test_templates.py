"""Templates of texts: what a brace means, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.config import InputConfig
from schemas.errors import ConfigError
from schemas.templates import is_template, parse_template

LITERALS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
NAMES = st.text("ab :!.[]0", min_size=1, max_size=5).map(str.strip).filter(bool)


@given(st.lists(st.tuples(LITERALS, NAMES, st.booleans()), min_size=1, max_size=4), LITERALS)
def test_a_template_gives_back_the_parts_it_was_written_from(parts: list[tuple[str, str, bool]], end: str) -> None:
    def doubled(text: str) -> str:
        return text.replace("{", "{{").replace("}", "}}")

    written = "".join(f"{doubled(text)}{{{name}{'?' * optional}}}" for text, name, optional in parts) + doubled(end)
    assert is_template(written)
    filled = "".join(f"<{p.text}{p.is_optional}>" if p.is_field else p.text for p in parse_template(written))
    assert filled == "".join(f"{text}<{name}{optional}>" for text, name, optional in parts) + end


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{title", "'{' without its other half at character 1; write a brace that is meant as text as '{{'"),
        ("{title}}", "'}' without its other half at character 8"),
        ("a {b{c}", "'{' without its other half at character 3"),
        ("{}", "names no field at character 1"),
        ("{title}{ ?}", "names no field at character 8"),
        ("{{title}}", "names no field; write {FIELD} where"),
    ],
)
def test_a_template_that_cannot_be_read_is_refused_in_the_config(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        InputConfig(text=text)
    assert says in str(refused.value)
