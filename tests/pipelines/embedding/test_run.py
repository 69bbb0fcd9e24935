"""A run commits finished leases, splits failed ones, gives up what keeps failing, and writes its end to the journal."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.__main__ import main
from pipelines.embedding.embedder import Embedder
from pipelines.embedding.plan import make_plan
from pipelines.embedding.run import BusyMeter, EmbedRun
from pipelines.tables.ledger import records_of
from pipelines.tables.opening import open_dataset
from pipelines.tables.runs import RunRecord
from schemas.config import EmbedConfig
from schemas.errors import RunError, ShardChanged, ShardsFailed, TooManyRejects
from schemas.records import Lease, LeaseResult
from tests.support.corpus import Corpus, config_for, contents, differing, empty_table, truth, write_corpus
from tests.support.embedding import SilentDisplay
from tests.support.local_pool import LocalPool


class Trial:
    """A run over a small corpus in one lease of all shards, in this process."""

    def __init__(self, folder: Path, **fails: Exception) -> None:
        self.corpus: Corpus = write_corpus(folder / "src", shards=4, rows=5)
        limits = {"lease_bytes": 1 << 20, "commit_age_s": 0.0, "max_tries": 2}
        self.config: EmbedConfig = config_for(folder / "src", folder / "t.lance", limits=limits)
        self.table = empty_table(self.config)
        self.display = SilentDisplay()
        uris = {f"{folder}/src/{name}.jsonl": error for name, error in fails.items()}
        self.pool = LocalPool[Lease, LeaseResult](
            Embedder(self.config, 1),
            lambda lease: next((uris[shard.uri] for shard in lease.shards if shard.uri in uris), None),
        )
        self.run = EmbedRun(
            self.config,
            make_plan(self.config),
            self.table,
            RunRecord(self.table, "embed", self.config),
            self.display,
        )

    def go(self, is_stopping: bool = False) -> None:
        self.run.run(self.pool, lambda: is_stopping, time.time())

    def journal(self) -> tuple[str, dict[str, Any]]:
        (row,) = self.table.companion("runs").to_table().to_pylist()
        return row["state"], json.loads(row["summary"])


def test_a_run_commits_every_shard(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    trial.go()
    assert differing(contents(trial.table.uri), truth(trial.corpus)) == []
    state, summary = trial.journal()
    assert (state, summary["shards"], summary["rows"]) == ("complete", 4, 20)
    assert (trial.display.last.landed, trial.display.last.rows) == (4, 20)


def test_what_is_erased_while_a_run_reads_it_does_not_come_back(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    trial.go()
    plan = make_plan(trial.config)
    record = RunRecord(trial.table, "embed", trial.config)
    trial.run = EmbedRun(
        trial.config, replace(plan, todo=tuple(plan.shards)), trial.table, record, trial.display, replace=True
    )
    name = sorted(contents(trial.table.uri))[3]

    def erase(lease: Lease) -> None:
        if name in contents(trial.table.uri):
            assert main(["delete", trial.table.uri, "--where", f"id = '{name}'"]) == 0

    trial.pool = LocalPool(Embedder(trial.config, 1), erase)
    trial.go()
    left = trial.table.refresh().dataset.to_table(columns=["id"])["id"].to_pylist()
    assert (len(left), name in left) == (19, False)
    assert trial.run.summary.erased >= 1
    for version in trial.table.refresh().dataset.versions()[-3:]:  # nobody ever saw it again
        rows = open_dataset(trial.table.uri, trial.table.storage, version["version"]).to_table(columns=["id"])
        assert name not in rows["id"].to_pylist()
    assert sum(records_of(trial.table.refresh())["rows"].to_pylist()) == 19
    assert make_plan(trial.config).todo == ()


def test_a_failed_lease_is_split_and_only_the_bad_shard_given_up(tmp_path: Path) -> None:
    trial = Trial(tmp_path, s001=LookupError("no such thing"))
    with pytest.raises(ShardsFailed, match=r"1 of 4 shards failed.*s001\.jsonl: LookupError: no such thing"):
        trial.go()
    (bad,) = (uri for uri in trial.corpus if "s001" in uri)
    del trial.corpus[bad]
    assert differing(contents(trial.table.uri), truth(trial.corpus)) == []
    assert [len(lease.shards) for lease in trial.pool.done] == [1, 1, 1]
    assert trial.display.said == [f"given up {bad}: LookupError: no such thing"]
    assert trial.journal()[0] == "incomplete"


def test_a_shard_that_changed_is_read_again_with_its_new_identity(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    path = tmp_path / "src" / "s001.jsonl"
    is_rewritten: list[bool] = []

    def rewrite(lease: Lease) -> None:
        if not is_rewritten:
            path.write_text('{"id": "new", "text": "something else", "n": "1"}\n')
            is_rewritten.append(True)

    trial.pool = LocalPool(Embedder(trial.config, 1), rewrite)
    trial.go()
    ids = trial.table.refresh().dataset.to_table(columns=["id"])["id"].to_pylist()
    assert (len(ids), ids.count("new")) == (16, 1)
    assert trial.display.said == [f"{path} has changed while the run read it; it is read again"]
    assert make_plan(trial.config).todo == ()


def test_a_shard_that_changes_for_ever_is_given_up(tmp_path: Path) -> None:
    trial = Trial(tmp_path, s001=ShardChanged("has changed"))
    with pytest.raises(ShardsFailed, match=r"1 of 4 shards failed.*s001\.jsonl: ShardChanged: has changed"):
        trial.go()
    assert len(trial.display.said) == 3


def test_an_error_that_concerns_all_leases_ends_the_run(tmp_path: Path) -> None:
    trial = Trial(tmp_path, s001=TooManyRejects("too many", "a1: no text"))
    with pytest.raises(TooManyRejects, match="too many; for example a1: no text"):
        trial.go()
    assert trial.journal()[1]["error"] == "too many"


def test_a_store_that_refuses_again_and_again_ends_the_run(tmp_path: Path) -> None:
    refusals = {f"s{number:03d}": OSError("disk full") for number in range(4)}
    trial = Trial(tmp_path, **refusals)
    retry = trial.config.model_copy(update={"limits": trial.config.limits.model_copy(update={"max_tries": 20})})
    trial.run = EmbedRun(retry, make_plan(retry), trial.table, RunRecord(trial.table, "embed", retry), trial.display)
    with pytest.raises(RunError, match=r"17 leases in a row could not be written.*disk full"):
        trial.go()


def test_a_run_that_is_asked_to_stop_leaves_what_waits(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    trial.go(is_stopping=True)
    assert trial.run.summary.is_stopped
    assert trial.journal()[0] == "stopped"
    assert trial.display.said == ["stopping: finishing what is in flight, leaving 1 lease; again to stop now"]


def test_a_busy_share_is_of_the_last_seconds() -> None:
    meter = BusyMeter(0.0)
    assert meter.share(1.0, now_s=1.0) == 0
    assert meter.share(3.0, now_s=4.0) == pytest.approx(0.75)
    assert meter.share(4.0, now_s=8.0) == pytest.approx(0.25)
