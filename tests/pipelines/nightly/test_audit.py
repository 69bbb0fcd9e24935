"""The gates of the audit, on tables whose contents the test knows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import bootstrap

from pipelines.funnel import Funnel, Goal
from pipelines.nightly.audit import Subject, audit
from pipelines.nightly.judged import compare_judged, read_judged
from pipelines.nightly.plan import withdraw
from pipelines.tables.generations import PublishRequest, describe, publish
from pipelines.tables.ledger import commit_leases
from pipelines.tables.table import VectorTable
from schemas.config import EmbedConfig
from schemas.config.nightly import AuditConfig
from schemas.errors import TableError
from schemas.publications import GateResult
from tests.support.small_tables import LADDER, a_shard, commit_shards, new_table, write_lease
from tests.support.wordllama_tables import wordllama_table

WIDTH = LADDER[-1]
PLACES = ("in Rome", "by the sea", "at night", "in a small town", "of the north")


def counts(table: VectorTable) -> GateResult:
    settings = {"shards": ["/src"], "table": table.uri, "input": {"text": "x"}, "encoder": {"name": "wordllama"}}
    prod = VectorTable.open(table.uri, "prod")
    subject = Subject(table.refresh(), prod, EmbedConfig.model_validate(settings), [a_shard("a"), a_shard("b")])
    gates = audit(subject, AuditConfig(queries=4, canary_rows=0))
    return next(gate for gate in gates if gate.gate == "counts")


@pytest.mark.parametrize(("rows", "removed", "passed"), [(8, "", True), (8, "n = 2", False), (5, "n = 2", False)])
def test_a_shard_that_was_read_again_for_its_rejects_has_the_rows_that_its_run_recorded(
    tmp_path: Path, rows: int, removed: str, passed: bool
) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"), a_shard("b"), rows=5, rejects=3)
    publish(table.uri, describe(table.refresh(), 1), table.storage, PublishRequest())
    if rows != 5:
        commit_leases(table, [write_lease(table, a_shard("a"), rows=rows)], "retry", replace=True)
    if removed:
        table.refresh().dataset.delete(f"{removed} AND shard = {a_shard('a').id}")
    gate = counts(table)
    assert gate.passed == passed, gate
    assert gate.examples == (() if passed else ("/src/a.jsonl",))


def test_every_gate_that_fails_names_what_shows_it(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    commit_shards(table, a_shard("a"), a_shard("b"), rows=40)
    Funnel.build(table, Goal(recall=0.5, k=5, queries=16))
    publish(table.uri, describe(table.refresh(), 1), table.storage, PublishRequest())
    prod = VectorTable.open(table.uri, "prod")
    table.refresh().dataset.delete(f"n < 16 AND shard = {a_shard('a').id}")
    withdraw(table, [a_shard("b").id], "test")
    commit_leases(table, [write_lease(table, a_shard("c"), a_shard("d"), rows=6, rejects=9)], "test")
    ones = json.dumps([1.0] + (WIDTH - 1) * [0.0])
    changes = {"vector": f"arrow_cast({ones}, 'FixedSizeList({WIDTH}, Float16)')"}
    table.refresh().dataset.update(changes, where=f"shard = {a_shard('c').id} OR shard = {a_shard('d').id}")
    table = table.refresh()
    settings = {"shards": ["/src"], "table": table.uri, "input": {"text": "x"}, "encoder": {"name": "wordllama"}}
    subject = Subject(table, prod, EmbedConfig.model_validate(settings), [a_shard(n) for n in "acd"], withdraws=True)
    tight = dict.fromkeys(("row_loss", "withdrawn", "rejects", "mean_shift", "spectrum_shift"), 0.0)
    bounds = {f"max_{name}": bound for name, bound in tight.items()}
    others = {"queries": 60, "canary_rows": 0, "min_overlap": 1.0, "label": "half", "recall_slack": 0.0}
    gates = {gate.gate: gate for gate in audit(subject, AuditConfig.model_validate(bounds | others))}
    failed = {name for name, gate in gates.items() if not gate.passed}
    assert failed >= {"counts", "row loss", "withdrawn", "rejects", "overlap", "mean shift", "spectrum shift"}
    assert all(gates[name].examples or gates[name].rows for name in failed)
    assert gates["row loss"].examples == ("/src/a.jsonl",)
    assert gates["withdrawn"].examples == ("/src/b.jsonl",)
    assert set(gates["rejects"].examples) == {"/src/c.jsonl", "/src/d.jsonl"}
    for shift in ("mean shift", "spectrum shift"):
        assert set(gates[shift].examples[:2]) == {"/src/c.jsonl", "/src/d.jsonl"}, "all of its rows are one vector"
    assert not any(gate.examples or gate.rows for gate in gates.values() if gate.passed)


def test_judged_queries_must_not_lose_for_certain(tmp_path: Path) -> None:
    texts = [f"{what} {where}" for what in ("a cat", "a red car", "the price of oil", "a violin") for where in PLACES]
    prod = wordllama_table(tmp_path / "a.lance", texts)
    worse = wordllama_table(tmp_path / "b.lance", texts[7:] + texts[:7])  # ids stand for other texts
    folder = tmp_path / "judged"
    folder.mkdir()
    asked = {f"q{n}": text.partition(" ")[2] for n, text in enumerate(texts)}
    lines = [json.dumps({"_id": name, "text": text}) for name, text in asked.items()]
    (folder / "queries.jsonl").write_text("\n".join(lines))
    (folder / "qrels.tsv").write_text("".join(f"q{n}\ts{n}\t2\nq{n}\ts{(n + 1) % 20}\t1\n" for n in range(len(texts))))

    judged = read_judged(folder, 200)
    same, lost = (compare_judged(prod, table, judged, 3) for table in (prod, worse))
    assert same.change is not None
    assert (same.change.mean, same.change.high, same.worst) == (0.0, 0.0, ())
    scores = np.zeros((2, len(texts)))
    for row, table in zip(scores, (prod, worse), strict=True):
        for n, text in enumerate(asked.values()):
            found = [str(name) for name in table.search(text, k=10)["id"]]
            gains = [2.0 * (name == f"s{n}") + (name == f"s{(n + 1) % 20}") for name in found]
            row[n] = sum(gain / np.log2(rank) for rank, gain in enumerate(gains, 2)) / (2 + 1 / np.log2(3))
    assert lost.before is not None
    assert lost.change is not None
    assert (lost.before.mean, lost.now.mean) == pytest.approx(tuple(scores.mean(axis=1)))
    drawn = bootstrap((scores[1] - scores[0],), np.mean, method="percentile", random_state=0).confidence_interval
    assert (lost.change.low, lost.change.high) == pytest.approx((drawn.low, drawn.high), abs=0.03)
    worst = int(np.argmin(scores[1] - scores[0]))
    assert lost.worst[0].startswith(repr(asked[f"q{worst}"]))
    assert len(read_judged(folder, 7).texts) == 7

    settings = {"shards": ["/src"], "table": prod.uri, "input": {"text": "x"}, "encoder": {"name": "wordllama"}}
    subject = Subject(worse, prod, EmbedConfig.model_validate(settings), [])
    bounds = {"judged": str(folder), "canary_rows": 0, "min_overlap": 0.0}
    gate = audit(subject, AuditConfig.model_validate(bounds))[-1]
    assert (gate.gate, gate.passed, gate.setting) == ("judged queries", False, "audit.max_ndcg_loss")
    assert gate.examples[:3] == lost.worst
    assert gate.measured == pytest.approx(-lost.change.high)
    assert audit(subject, AuditConfig.model_validate(bounds | {"max_ndcg_loss": 0.9}))[-1].passed
    (folder / "qrels.tsv").write_text("q0\tother\t1\n")
    with pytest.raises(TableError, match=r"no id that its judgements name .* ids are like \['s0'\]"):
        audit(subject, AuditConfig.model_validate(bounds))
