"""The gates of the audit, on tables whose contents the test knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.nightly.audit import Subject, audit
from pipelines.tables.generations import PublishRequest, describe, publish
from pipelines.tables.ledger import commit_leases
from pipelines.tables.table import VectorTable
from schemas.config import EmbedConfig
from schemas.config.nightly import AuditConfig
from schemas.publications import GateResult
from tests.support.small_tables import a_shard, commit_shards, new_table, write_lease


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
