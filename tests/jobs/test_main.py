"""The command line: every verb and option explains itself, and every ending has its exit code."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from cyclopts import App

from jobs.__main__ import command_line, main
from jobs.verbs import VERBS
from pipelines.tables.table import VectorTable
from schemas import __version__
from schemas.errors import ConfigError, LakeError, RunError, ShardsFailed


def verb_app(verb: str) -> App:
    app = command_line(chosen=verb)[verb]
    assert isinstance(app, App)
    return app


@pytest.fixture(autouse=True)
def narrow_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_and_option_has_a_help_text(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    words = " ".join(" ".join(lines).split())
    summary, example = VERBS[verb]
    assert summary in words
    assert example in words
    assert max(map(len, lines)) <= 80
    options = list(verb_app(verb).assemble_argument_collection(parse_docstring=True))
    assert [option.name for option in options if option.show and not option.parameter.help] == []


@pytest.mark.parametrize("verb", VERBS)
def test_the_example_of_every_verb_is_a_valid_command(verb: str) -> None:
    program, *words = shlex.split(VERBS[verb][1])
    assert program == "mlake"
    command, _, _ = command_line(chosen=verb).parse_args(words, exit_on_error=False)
    assert command.__module__ == f"jobs.{verb}"


def test_all_verbs_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    words = " ".join(" ".join(lines).replace("│", "").split())
    assert all(f"{verb} {summary}" in words for verb, (summary, _) in VERBS.items())
    assert max(map(len, lines)) <= 80


def test_help_and_version_import_no_verb(capsys: pytest.CaptureFixture[str]) -> None:
    program = (
        "import sys; from jobs.__main__ import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'ray', 'lance', 'pyarrow', 'numpy'} & set(sys.modules); print(heavy); sys.exit(code)"
    )
    for flag, said in ("--help", "embed"), ("--version", __version__):
        done = subprocess.run([sys.executable, "-c", program, flag], capture_output=True, text=True, check=True)
        assert said in done.stdout
        assert done.stdout.endswith("set()\n")


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["embedd"],
        ["embed"],
        ["embed", "x.toml", "--nonsense"],
        ["embed", "x.toml", "--log", "yaml"],
        ["search", "t.lance", "words", "--dims", "64", "--exact"],
        ["search", "t.lance", "words", "--k", "ten"],
        ["funnel", "t.lance", "--recall", "1.5"],
        ["funnel", "t.lance", "--recall", "nan"],
        ["funnel", "t.lance", "--k", "0"],
        ["funnel", "t.lance", "--bytes", "0"],
        ["funnel", "t.lance", "--held-out", "1"],
        ["search", "t.lance", "words", "--k", "0"],
        ["search", "t.lance", "words", "--k", "-1"],
        ["search", "t.lance", "words", "--dims", "0"],
        ["search", "t.lance", "words", "--recall", "2"],
        ["search", "t.lance", "words", "--where", " "],
        ["search", "", "words"],
        ["search", "t.lance", "words", "--endpoint", ""],
        ["clean", "t.lance", "--older-than", "nan"],
        ["clean", "t.lance", "--older-than", "1e9"],
        ["rejects", "t.lance", "--limit", "-1"],
    ],
)
def test_a_command_line_that_means_nothing_is_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert capsys.readouterr().err


def test_what_a_refused_word_holds_does_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["x\x1b[2J[/]"], ["rejects", "t", "--limit", "x\x1b[2J[/]"], ["clean", "t", "--x\x1b[2J[/]"]):
        with pytest.raises(SystemExit):
            main(words)
        said = capsys.readouterr().err
        assert "\x1b" not in said
        assert "x\u241b[2J[/]" in said


def test_an_unknown_verb_names_its_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["embedd"])
    assert 'Did you mean "embed"?' in capsys.readouterr().err


@pytest.mark.parametrize(
    "columns", [["--columns", "a", "b"], ["--columns", "a", "--columns", "b"], ["--columns", "a,b"]]
)
def test_several_columns_may_be_written_in_three_ways(columns: list[str]) -> None:
    for words in (["t.lance", "-", *columns, "--k", "3"], ["--k", "3", *columns, "--", "t.lance", "-"]):
        _, given, _ = command_line(chosen="search").parse_args(["search", *words], exit_on_error=False)
        assert given.arguments["options"].columns == ["a", "b"]
        assert given.arguments["options"].k == 3
        assert given.args == ("t.lance", "-")


def raising(error: BaseException) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("limits.x is not a key [so]"), 2, "error: limits.x is not a key [so]"),
        (LakeError("whatever else"), 2, "error: whatever else"),
        (RunError("could not"), 1, "error: could not"),
        (ShardsFailed({"a.tar": "broken"}, 3), 1, "1 of 3 shards failed"),
        (KeyboardInterrupt(), 130, "stopped; the same command resumes"),
        (pa.ArrowInvalid("External error: KeyboardInterrupt: "), 130, "stopped; the same command resumes"),
        (OSError("LanceError(IO): no space, /x/y/local.rs:1:2"), 1, "error: LanceError(IO): no space; fix the cause"),
        (BrokenPipeError(), 0, ""),
    ],
)
def test_every_error_has_its_exit_code_and_message(
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(VectorTable, "open", raising(error))
    assert main(["clean", "t.lance"]) == code
    words = " ".join(capfd.readouterr().err.split())
    assert said in words
    assert "Traceback" not in words


def test_a_programming_error_is_called_internal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(VectorTable, "open", raising(ZeroDivisionError("[/] \x1b[2J")))
    assert main(["clean", "t.lance"]) == 1
    assert "error: internal: ZeroDivisionError: [/] \u241b[2J; this is a fault of mlake" in capfd.readouterr().err


def test_shell_completion_knows_every_verb_and_its_options() -> None:
    script = command_line(chosen="").generate_completion(shell="bash")
    assert all(verb in script for verb in VERBS)
    assert all(option in script for option in ("--retry-rejects", "--columns", "--set"))
