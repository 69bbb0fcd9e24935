"""The advice after a run names what took the most time, and a setting that exists."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.embedding.advice import advise, time_shares
from pipelines.embedding.worker_times import WorkerTimes
from schemas.config import EmbedConfig
from schemas.journal import EmbedSummary
from schemas.records import StageSeconds, WorkerCounters

CONFIG = EmbedConfig.model_validate(
    {"shards": ["x"], "table": "t.lance", "input": {"text": "t"}, "encoder": {"name": "wordllama"}}
)
# 100 s of work by two actors, all of it in the encoders.
BUSY = EmbedSummary(
    shards=8,
    rows=10_000,
    units=100_000,
    text_tokens=110_000,
    seconds=100.0,
    actors=2,
    actor_s=200.0,
    busy_s=200.0,
    leases=8,
)


def with_settings(**blocks: dict[str, Any]) -> EmbedConfig:
    return EmbedConfig.model_validate(CONFIG.model_dump() | blocks)


@pytest.mark.parametrize(
    ("about", "measured"),
    [
        ("encode", {}),
        ("list", {"plan_s": 300.0}),
        ("start", {"start_s": 300.0}),
        ("commit", {"flush_s": 80.0}),
        ("idle", {"busy_s": 20.0, "idle_s": 180.0}),
        ("read", {"busy_s": 20.0, "stages": StageSeconds(encoder_waited=90, read=80, prepare=1)}),
        ("prepare", {"busy_s": 20.0, "stages": StageSeconds(encoder_waited=90, read=1, prepare=80)}),
        ("write", {"busy_s": 20.0, "stages": StageSeconds(encoder_waited=1, read=1, prepare=1, write=90)}),
    ],
)
def test_the_first_advice_names_where_most_of_the_time_went(about: str, measured: dict[str, Any]) -> None:
    first = advise(dataclasses.replace(BUSY, **measured), CONFIG)[0]
    assert first.about == about
    assert first.share > 0.7
    assert f"{first.share:.0%}" in first.text
    assert first.setting in first.text
    functools.reduce(lambda block, name: getattr(block, name), first.setting.split("."), CONFIG)  # it exists


def test_a_setting_is_named_that_the_config_can_still_change() -> None:
    image = with_settings(input={"image": "jpg"}, encoder={"name": "wordllama", "batch": 8})
    slow = dataclasses.replace(BUSY, busy_s=1.0, stages=StageSeconds(encoder_waited=9, prepare=9))
    assert advise(slow, image)[0].setting == "cluster.decode_threads"
    assert advise(BUSY, image)[0].setting == "encoder.batch"
    assert advise(BUSY, CONFIG)[0].setting == "cluster.actors"


def test_padding_cuts_rejects_and_failures_are_said_from_where_they_matter_on() -> None:
    assert [one.about for one in advise(BUSY, CONFIG)] == ["encode"]
    wasted = dataclasses.replace(
        BUSY, padding_units=100_000, cut_texts=2_750, cut_tokens=11_000, rejects=1_000, failed_leases=2
    )
    notes = {one.about: one for one in advise(wasted, CONFIG)}
    assert list(notes) == ["encode", "padding", "cut", "rejects", "failures"]
    assert notes["padding"].share == 0.5
    assert notes["failures"].share == 0.2
    assert notes["cut"].text.startswith("cut, since longer than the encoder takes: 2,750 texts (25.0%)")
    assert "it did not get 11,000 tokens (10.0%)" in notes["cut"].text
    unseen = {one.about: one for one in advise(dataclasses.replace(BUSY, text_tokens=0), CONFIG)}
    assert unseen["cut"].text == "wordllama tokenises texts itself, so whether it cut some is not known"
    assert "mlake rejects t.lance" in notes["rejects"].text


def test_a_run_that_did_nothing_gets_no_advice() -> None:
    assert advise(EmbedSummary(), CONFIG) == ()


SECONDS = st.floats(0, 1e6)


@given(
    st.builds(
        EmbedSummary,
        seconds=SECONDS,
        start_s=SECONDS,
        plan_s=SECONDS,
        flush_s=SECONDS,
        actor_s=SECONDS,
        busy_s=SECONDS,
        idle_s=SECONDS,
        stages=st.builds(StageSeconds, SECONDS, SECONDS, SECONDS, SECONDS, SECONDS, SECONDS),
    )
)
def test_no_share_is_below_nothing_and_together_they_are_all_of_the_time(summary: EmbedSummary) -> None:
    shares = time_shares(summary)
    assert min(shares.values()) >= 0
    worked = summary.seconds > min(summary.flush_s, summary.seconds) and summary.actor_s + summary.busy_s > 0
    assert sum(shares.values()) == pytest.approx(1) or not worked
    assert len({one.about for one in advise(summary, CONFIG)}) == len(advise(summary, CONFIG))


def test_actors_are_idle_after_their_last_lease_and_when_they_never_had_one() -> None:
    times = WorkerTimes()
    early = {"up_ms": 4_000, "busy_ms": 3_000, "idle_ms": 500, "batches": 2, "padding_units": 7}
    times.add(WorkerCounters("a", {name: value // 2 for name, value in early.items()}), 2.0)  # replaced by the next
    times.add(WorkerCounters("a", early | {"read_bytes": 10, "written_bytes": 20}), 4.0)
    times.add(WorkerCounters("b", {"up_ms": 10_000, "busy_ms": 9_000, "idle_ms": 0}), 10.0)
    times.add(None, 10.0)
    times.end(10.0)
    summary = EmbedSummary(actors=3, seconds=11.0, flush_s=1.0)
    times.add_to(summary)
    assert (summary.actor_s, summary.busy_s, summary.idle_s) == (30.0, 12.0, 16.5)
    assert (summary.batches, summary.padding_units, summary.read_bytes, summary.written_bytes) == (2, 7, 10, 20)


def test_a_short_run_is_not_told_how_to_be_faster_but_what_it_left_out() -> None:
    short = dataclasses.replace(BUSY, seconds=3.0, start_s=9.0, cut_texts=4)
    assert [advice.about for advice in advise(short, CONFIG)] == ["cut"]
