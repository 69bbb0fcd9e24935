"""The command line: every verb is there, and every ending has its exit code."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable

import pytest

from jobs.__main__ import VERBS, main
from schemas.errors import ConfigError, LakeError, RunError, ShardsFailed


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    words = capsys.readouterr().out
    assert VERBS[verb].split()[0] in words
    parser = argparse.ArgumentParser()
    importlib.import_module(f"jobs.{verb}").add_arguments(parser)
    assert [action.dest for action in parser._actions if not action.help] == []


def test_all_verbs_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    words = " ".join(capsys.readouterr().out.split())
    assert all(f"{verb} {help_text}" in words for verb, help_text in VERBS.items())


@pytest.mark.parametrize("argv", [[], ["embedd"], ["embed"], ["embed", "x.toml", "--nonsense"]])
def test_a_command_line_that_means_nothing_is_refused(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2


def raising(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("limits.x is not a key [so]"), 2, "error: limits.x is not a key [so]"),
        (LakeError("whatever else"), 2, "error: whatever else"),
        (RunError("could not"), 1, "error: could not"),
        (ShardsFailed({"a.tar": "broken"}, 3), 1, "1 of 3 shards failed"),
        (KeyboardInterrupt(), 130, "stopped; the same command resumes"),
        (OSError("LanceError(IO): no space, /x/y/local.rs:1:2"), 1, "error: LanceError(IO): no space; when that is"),
        (BrokenPipeError(), 0, ""),
    ],
)
def test_every_ending_has_its_code_and_is_said(
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("jobs.clean.main", raising(error))
    assert main(["clean", "t.lance"]) == code
    words = capfd.readouterr().err
    assert said in words
    assert "Traceback" not in words


def test_an_error_of_our_own_making_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.clean.main", raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["clean", "t.lance"])
