"""Alignment: systems are compared on the samples that all of them hold."""

from __future__ import annotations

from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import ndcg_score

from pipelines.evaluation.alignment import Aligned, align
from pipelines.evaluation.by_dim import measure
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.metrics import Labels
from pipelines.evaluation.prepare import prepare
from pipelines.tables.create import create_table
from pipelines.tables.splits import record_split
from pipelines.vectors.arrays import to_arrow
from pipelines.vectors.matryoshka import cut, unit
from schemas.columns import Ladder, Space
from schemas.config import EvaluateConfig
from schemas.errors import ConfigError, FieldNotFound, InputError
from schemas.source import TableSource, passage_fields
from schemas.splits import Split
from tests.support.labelled_tables import clouds, refuse_to_embed, write_table


def aligned(*systems: dict[str, object], **blocks: object) -> Aligned:
    config = EvaluateConfig.model_validate({"folder": "unused", "systems": systems} | blocks)
    return align(config, prepare(config, refuse_to_embed))


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    for name, rows in (("train", 120), ("val", 40)):
        write_table(folder / f"{name}.lance", *clouds(rows, rows))
    x_QD, labels_Q = clouds(40, 40)
    write_table(folder / "most.lance", x_QD[:30], labels_Q[:30])
    write_table(folder / "few.lance", x_QD[:10], labels_Q[:10])
    return folder


def system(tables: Path, queries: str | None = "val", name: str = "x", **changes: object) -> dict[str, object]:
    asked = {"queries": f"{tables}/{queries}.lance"} if queries else {}
    return {"name": name, "database": f"{tables}/train.lance", **asked, **changes}


def test_rows_are_put_in_the_order_of_their_ids(tables: Path) -> None:
    found = aligned(system(tables))
    ((nested, (database_ND, queries_QD)),) = found.systems()
    truth = found.samples.truth
    assert isinstance(truth, Labels)
    (x_ND, labels_N), (x_QD, labels_Q) = clouds(120, 120), clouds(40, 40)
    np.testing.assert_allclose(database_ND, x_ND, atol=1e-3)
    np.testing.assert_allclose(queries_QD, x_QD, atol=1e-3)
    np.testing.assert_array_equal(truth.database_N, labels_N)
    np.testing.assert_array_equal(truth.queries_Q, labels_Q)
    assert nested.dims == (4, 6, 8, 12, 16)


def test_one_table_is_split_into_database_and_queries_by_a_hash_of_the_id(tables: Path) -> None:
    found = aligned(system(tables, None), data={"held_out": 0.25})
    database, queries = (set(ids.to_pylist()) for ids in (found.samples.database, found.samples.queries))
    assert not database & queries
    assert len(database | queries) == 120
    assert 0.1 < len(queries) / 120 < 0.4


def test_queries_are_the_rows_that_the_head_of_a_table_held_out(tables: Path, tmp_path: Path) -> None:
    split = Split(column="label", share=0.4, seed=4)
    for name, one in (("head", split), ("other", Split(share=0.4)), ("all", Split(share=0)), ("old", None)):
        record_split(write_table(tmp_path / f"{name}.lance", *clouds(120, 120), encoder="matryoshka-head"), one)

    def head(name: str) -> dict[str, object]:
        return {"name": name, "database": f"{tmp_path}/{name}.lance"}

    for found in (aligned(head("head")), aligned(system(tables, None), head("head"))):
        assert isinstance(found.samples.truth, Labels)
        held = {number for number in range(4) if split.holds_out(f"class {number}")}
        assert held == {*found.samples.truth.queries_Q.tolist()}
        assert not held & {*found.samples.truth.database_N.tolist()}
        assert "did not learn from: 40% of the rows by label, seed 4" in found.notes[0]
    less = aligned(head("other"), data={"held_out": 0.1}).samples.queries.to_pylist()
    assert {*less} < {*aligned(head("other")).samples.queries.to_pylist()}
    assert len(aligned(head("old") | {"queries": f"{tmp_path}/other.lance"}).samples.queries) == 120
    for systems, data, said in (
        ([head("old")], {}, "does not say which rows it held out"),
        ([head("all")], {}, "learnt from every row"),
        ([head("head"), head("other")], {}, "held out different rows"),
        ([head("other")], {"held_out": 0.5}, "held out 40% of the rows by id, seed 0, and learnt from all others"),
    ):
        with pytest.raises(ConfigError, match=said):
            aligned(*systems, data=data)


def test_samples_that_some_systems_lack_are_left_out_with_a_note(tables: Path) -> None:
    found = aligned(system(tables), system(tables, "most", name="y"))
    assert len(found.samples.queries) == 30
    assert found.notes == ["10 of 40 queries are not in every system's tables, and are left out"]
    with pytest.raises(InputError, match="of 40 queries only 10 are in every system's tables"):
        aligned(system(tables), system(tables, "few", name="y"))


def test_queries_are_thinned_out_evenly(tables: Path) -> None:
    found = aligned(system(tables), data={"queries": 20})
    assert found.samples.queries.to_pylist() == [f"{row:05d}" for row in range(0, 40, 2)]


def test_columns_and_dims_that_are_not_there_are_refused(tables: Path) -> None:
    with pytest.raises(FieldNotFound, match="did you mean 'label'"):
        aligned(system(tables), data={"label": "lable"})
    with pytest.raises(ConfigError, match="dim 99 is beyond its 16 dims"):
        list(aligned(system(tables, dims=(4, 99))).systems())


def test_passages_are_judged_by_their_document_which_is_as_near_as_the_nearest(tmp_path: Path) -> None:
    rng, folder = np.random.default_rng(3), tmp_path / "beir"
    x_ND, q_QD = (unit(rng.standard_normal((n, 16)).astype(np.float32)).astype(np.float16) for n in (300, 12))
    documents = [f"d{n:02d}" for n in np.sort(rng.integers(0, 40, 300))]
    write_passages(tmp_path / "p.lance", x_ND, documents)
    write_table(tmp_path / "q.lance", q_QD, np.zeros(12, int))
    folder.mkdir()
    for name in ("corpus", "queries"):
        (folder / f"{name}.jsonl").write_text("")
    known = sorted(set(documents))
    gains_QN = rng.integers(0, 3, (12, len(known))) * (rng.random((12, len(known))) < 0.3)
    gains_QN[:, 0] = 1
    lines = [f"{q:05d}\t{doc}\t{gains_QN[q, d]}" for q in range(12) for d, doc in enumerate(known)]
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(lines))
    asked = {"name": "x", "database": f"{tmp_path}/p.lance", "queries": f"{tmp_path}/q.lance", "dims": (4, 16)}
    found = aligned(asked, data={"beir": str(folder)}, measure={"between": False, "recall": (5,)})
    assert found.samples.database.to_pylist() == known
    ((system, _),) = found.systems()
    measured = measure(system, found.samples.truth, device="cpu")
    for dim in (4, 16):
        scores_QP = cut(q_QD.astype(np.float32), dim) @ cut(x_ND.astype(np.float32), dim).T
        best_QN = np.stack([scores_QP[:, np.array(documents) == doc].max(axis=1) for doc in known], axis=1)
        wanted = [ndcg_score(gains[None], best[None], k=10) for gains, best in zip(gains_QN, best_QN, strict=True)]
        np.testing.assert_allclose(measured[("x", dim, "nDCG@10")], wanted, atol=1e-6)
        first_QK = np.argsort(-best_QN, axis=1)[:, :5]
        hits_Q = (np.take_along_axis(gains_QN, first_QK, axis=1) > 0).sum(axis=1) / (gains_QN > 0).sum(axis=1)
        np.testing.assert_allclose(measured[("x", dim, "recall@5")], hits_Q)
    with pytest.raises(ConfigError, match=r"\[retrieval\] compares searches by row"):
        evaluate(aligned(asked, data={"beir": str(folder)}, retrieval={}, baselines=()))


def write_passages(path: Path, x_ND: np.ndarray, documents: list[str]) -> None:
    source = TableSource(id="id", modality="text", field="text", side="document", chunk="tokens = 8")
    space = Space(encoder="wordllama", revision="test", ladder=Ladder(dims=(4, 8, 16)))
    table = create_table(str(path), space, pa.schema(passage_fields()), source=source)
    shuffled = np.random.default_rng(0).permutation(len(x_ND))
    rows = pa.table(
        {
            "id": [f"{documents[n]}#{n}" for n in shuffled],
            "shard": [0] * len(x_ND),
            "document": [documents[n] for n in shuffled],
            "passage": shuffled,
            "start": [0] * len(x_ND),
            "stop": [1] * len(x_ND),
            "vector": to_arrow(x_ND[shuffled]),
        }
    )
    lance.write_dataset(rows.cast(table.dataset.schema), table.uri, mode="append")
