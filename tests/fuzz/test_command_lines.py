"""No command line and no config ends in a traceback, an internal error, a wait, or an escape sequence on the screen."""

from __future__ import annotations

import io
import json
import random
import re
import sys
import time
from pathlib import Path

import pytest

from jobs import failures
from jobs.__main__ import main
from jobs.verbs import VERBS
from tests.fuzz.command_lines import OPTIONS, command_line
from tests.support.wordllama_tables import wordllama_table

_MAX_S = 30.0
_FEW, _MANY = 150, 2000


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A table that words can search."""
    texts = ["a river", "the [/] sea", "\x1b[2Jship"] * 20
    return wordllama_table(tmp_path_factory.mktemp("fuzz") / "t.lance", texts).uri


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a shard, which is the current one; no verb reaches Ray, a network, or the user's own files."""
    (tmp_path / "shards").mkdir()
    lines = [json.dumps({"text": f"text {n}", "n": n}) for n in range(5)]
    (tmp_path / "shards" / "a.jsonl").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    return tmp_path


def faults(
    seed: int, table: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> list[str]:
    """Run one command line; return what is wrong with how it ended."""
    words = command_line(random.Random(seed), table, folder)
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n"))
    began = time.monotonic()
    try:
        code = main(words)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else -1
    except BaseException as error:
        return [f"{words} raises {type(error).__name__}: {error}"]
    took_s = time.monotonic() - began
    out, err = capfd.readouterr()
    wrong = []
    no_cluster = (3,) if words[0] in ("jobs", "submit") else ()
    if code not in (0, 1, 2, *no_cluster):
        wrong.append(f"exit code {code}")
    if code and not err:
        wrong.append(f"exit code {code} without a word")
    if "internal:" in err or "Traceback" in err:
        wrong.append(err[-600:])
    if took_s > _MAX_S:
        wrong.append(f"took {took_s:.0f} s")
    if re.search("\x1b|\r", out + err):
        wrong.append("an escape sequence is printed")
    return [f"seed {seed}: {words}: {what}" for what in wrong]


def check(
    seeds: range, table: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(failures.tempfile, "tempdir", str(folder))
    found = [fault for seed in seeds for fault in faults(seed, table, folder, monkeypatch, capfd)]
    assert not found, "\n".join(found)


def test_every_verb_is_among_them() -> None:
    assert set(OPTIONS) == set(VERBS)


def test_a_few_command_lines(
    table: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    check(range(_FEW), table, folder, monkeypatch, capfd)


@pytest.mark.slow
def test_many_command_lines(
    table: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    check(range(_FEW, _MANY), table, folder, monkeypatch, capfd)
