"""Brace ranges stand for the names that bash gives, and a pattern of too many is refused before any is made."""

from __future__ import annotations

import pytest

from pipelines.shards.braces import MOST_NAMES, expand_braces
from schemas.errors import ConfigError

_NAMES = {
    "x-{08..11}.tar": ["x-08.tar", "x-09.tar", "x-10.tar", "x-11.tar"],
    "{3..1}{a..e..2}": ["3a", "3c", "3e", "2a", "2c", "2e", "1a", "1c", "1e"],
    "{-1..1}": ["-1", "0", "1"],
    "{0..10..5},{,b}": ["0,", "0,b", "5,", "5,b", "10,", "10,b"],
    "{train-{0..1},val}/a": ["train-0/a", "train-1/a", "val/a"],
    "{a}{}{{x..z}}": ["{a}{}{x}", "{a}{}{y}", "{a}{}{z}"],
    "": [""],
    "é\\{1..1}": ["é\\1"],
}


@pytest.mark.parametrize("pattern", _NAMES)
def test_names_are_those_of_bash(pattern: str) -> None:
    assert expand_braces(pattern) == _NAMES[pattern]


def test_names_are_counted_not_ranges() -> None:
    assert len(expand_braces("{a{0..9999},b{0..9999}}")) == 20_000
    assert len(expand_braces("{0..100000000..1000}")) == 100_001
    assert len(expand_braces("{a,b}" * 5 + "{1..1}" * 900)) == 32


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (f"{{0..{MOST_NAMES}}}", "stands for more than 1,000,000 names, the most that one pattern may"),
        ("{x{0..99999999}{0..99999999},y}", "more than"),
        ("{a,b}" * 1000, "more than"),
        (
            "{a,b}" * 10**5,
            "has 100,000 pairs of braces, and 1,000 are the most: .{50,300}; write the names into a file",
        ),
        ("x{a}" * 10**5, "has 100,000 pairs of braces"),
        ("{" * 10**5 + "}" * 10**5, "nested more than 20 deep"),
        ("}{", "not balanced"),
        ("{a}}{", "not balanced"),
    ],
)
def test_refused_at_once(pattern: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        expand_braces(pattern)
