"""Progress is a screen for people and JSON lines for machines."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest

from pipelines.reports.progress import JsonScreen, PersonScreen, StepBars, open_screen
from schemas.records import EmbedProgress

PROGRESS = EmbedProgress(shards=3, shards_total=4, landed=2, rows=1_000, rejects=7, bound_by="encode")


def test_json_lines_carry_every_number(capsys: pytest.CaptureFixture[str]) -> None:
    with open_screen("json", "embed") as screen:
        assert isinstance(screen, JsonScreen)
        screen.say("a [notice]")
        screen.show(PROGRESS)
        screen.show(PROGRESS)  # too soon
        screen.show(PROGRESS, is_last=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["message"] == "a [notice]"
    assert len(lines) == 3
    assert {line["job"] for line in lines} == {"embed"}
    assert (lines[-1]["shards"], lines[-1]["rejects"], lines[-1]["bound_by"]) == (3, 7, "encode")
    assert lines[-1]["rows_per_s"] > 0 == lines[-1]["tokens_per_s"]


def test_off_a_terminal_everything_is_a_line_of_json_on_the_error_stream(capsys: pytest.CaptureFixture[str]) -> None:
    warn = logging.getLogger("cluster.actors").warning
    with open_screen("auto", "embed") as screen:
        screen.begin("connecting to Ray")
        screen.name_run("r-1")
        warn("2 of %d actors wait for room", 3)
        screen.show(replace(PROGRESS, oldest_leases=(("s3://b/a.tar", 2, 62.0),), pending_actors=2))
    warn("not of this job any more")
    out, err = capsys.readouterr()
    step, warning, progress = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert out == ""
    assert (step["step"], "run" in step) == ("connecting to Ray", False)
    assert (warning["level"], warning["message"], warning["run"]) == ("warning", "2 of 3 actors wait for room", "r-1")
    assert (progress["oldest_leases"], progress["pending_actors"]) == ([["s3://b/a.tar", 2, 62.0]], 2)


def test_a_person_reads_messages_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    with open_screen("screen", "embed") as screen:
        assert isinstance(screen, PersonScreen)
        screen.say("given up /src/[a].jsonl")
        screen.show(PROGRESS, is_last=True)
    assert "given up /src/[a].jsonl" in capsys.readouterr().err


def test_a_bar_counts_the_items_of_its_step(capsys: pytest.CaptureFixture[str]) -> None:
    with StepBars() as bars:
        bars.advance()  # of no step: nothing happens
        bars.begin("prefixes", total=2)
        bars.advance()
    assert capsys.readouterr().out == ""
