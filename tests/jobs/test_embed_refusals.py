"""`mlake embed` refuses what cannot work before it does anything, and names the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.embedded_lakes import embed, make_lake
from tests.support.printed import Printed


def refusal(printed: Printed, config: Path, *options: str) -> str:
    printed()
    assert embed(config, *options) == 2
    return printed()


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("encoder.nmae=wordllama", ["encoder.nmae", "did you mean 'name'?"]),
        ("limit.max_tries=3", ["limit", "did you mean 'limits'?"]),
        ("limits.max_tries=none", ["limits.max_tries", "integer"]),
        (
            "encoder.name=wordlama",
            ["no encoder is named 'wordlama'", "did you mean 'wordllama'?", "efficientnet-lite0"],
        ),
        ("input.text=txet", ["txet", "text"]),
        ('input.keep=["m"]', ["s000.jsonl", "'m'", "n"]),
        ("input.image=png", ["exactly one of"]),
        ("encoder.name=efficientnet-lite0", ["does not embed that", "input.image"]),
        ("shards=SRC/s00{0..9}.jsonl", ["s003.jsonl", "not there"]),
        ("shards=SRC/*.tar", ["matches nothing"]),
        ("encoder.dtype=float16", ["float16"]),
        ("table=SRC/s000.jsonl/t.lance", ["s000.jsonl is a file, so no table can be at"]),
        (f"table=SRC/{'x' * 300}.lance", ["File name too long", "a shorter name"]),
    ],
)
def test_a_config_that_cannot_work_is_refused_before_anything_is_done(
    tmp_path: Path, printed: Printed, override: str, parts: list[str]
) -> None:
    folder, _, config = make_lake(tmp_path)
    words = refusal(printed, config, "--set", override.replace("SRC", str(folder / "src")))
    assert words.startswith("error: ")
    assert all(part in words for part in parts), words
    assert not (folder / "t.lance").exists()


def test_a_config_that_is_not_there_or_not_toml_is_refused(tmp_path: Path, printed: Printed) -> None:
    assert "no config file at" in refusal(printed, tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("shards = [")
    assert "not valid TOML" in refusal(printed, tmp_path / "bad.toml")
    assert "write key=value" in refusal(printed, make_lake(tmp_path)[2], "--set", "encoder")
