"""Nights of a small lake: what is new is embedded and derived, and only an audited version is published."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.__main__ import main
from jobs.embed import run as embed
from jobs.nightly import run as run_night
from pipelines.funnel import Funnel, Goal
from pipelines.nightly.plan import plan_night
from pipelines.tables.night_log import NightLock, read_nights
from pipelines.tables.publication_log import generation_uri
from pipelines.tables.table import VectorTable
from schemas.config import EmbedConfig, StorageConfig
from schemas.config.nightly import NightlyConfig
from schemas.nights import Night
from tests.support.funnel_tables import WIDTH, vectors

ROWS = 150
_NIGHT_THAT_LISTS_WHAT_IT_LOADED = """
import sys
from jobs.__main__ import main
main(["nightly", sys.argv[1]])
print({"torch", "ray", "transformers", "sklearn", "faiss"} & set(sys.modules))
"""


@dataclass
class Lake:
    """Shards of vectors, whose model can be changed, and the table that nights make of them."""

    folder: Path

    @property
    def table(self) -> str:
        return str(self.folder / "t.lance")

    def config(self, **settings: Any) -> NightlyConfig:
        return NightlyConfig.model_validate(
            {
                "shards": [str(self.folder / "shards")],
                "table": self.table,
                "input": {"id": "id", "vector": "vector", "keep": ["n"]},
                "encoder": {"name": "precomputed", "path": str(self.folder / "model.json")},
                "audit": {"queries": 60},
            }
            | settings
        )

    def set_model(self, revision: str) -> None:
        facts = {"model": "made-up", "revision": revision, "dims": [16, 32, WIDTH]}
        (self.folder / "model.json").write_text(json.dumps(facts))

    def write(self, name: str, seed: int, *, turn: np.ndarray | None = None, rejects: int = 0) -> None:
        x_ND = vectors(ROWS, seed).astype(np.float64)
        x_ND = x_ND if turn is None else x_ND @ turn
        rows = [{"id": f"{name}-{n}", "n": n, "vector": list(x_D)} for n, x_D in enumerate(x_ND)]
        for row in rows[:rejects]:
            row["vector"] = [0.0] * WIDTH
        (self.folder / "shards" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")

    def night(self, **settings: Any) -> Night:
        return run_night(self.config(**settings), log="json")

    def prod(self) -> dict[str, bytes]:
        return _contents(VectorTable.open(self.table, "prod"))

    def from_scratch(self) -> dict[str, bytes]:
        """Rows of a table that is made of the present shards at once."""
        uri = str(self.folder / f"fresh-{len(list(self.folder.glob('fresh-*')))}.lance")
        embed(self.config().embed_config(uri), log="json")
        return _contents(VectorTable.open(uri))


def _contents(table: VectorTable) -> dict[str, bytes]:
    rows = table.dataset.to_table(columns=["id", "n", "vector"]).to_pylist()
    found = {row["id"]: np.array([row["n"], *row["vector"]], np.float16).tobytes() for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.fixture
def lake(without_ray: None, tmp_path: Path) -> Lake:
    (tmp_path / "shards").mkdir()
    lake = Lake(tmp_path)
    lake.set_model("1")
    for seed, name in enumerate("ab"):
        lake.write(name, seed)
    return lake


def gates(night: Night) -> set[str]:
    return {gate.gate for gate in night.audit if not gate.passed}


def test_each_morning_prod_is_a_lake_made_from_scratch_or_that_of_yesterday(lake: Lake) -> None:
    lake.write("z", 5)
    first = lake.night(prefixes=[16])
    assert (first.state, first.counts.new, first.counts.encoded) == ("published", 3, 3 * ROWS)
    assert lake.prod() == lake.from_scratch()
    assert VectorTable.open(lake.table, "prod").prefix_dims == (16,)
    reader = VectorTable.open(lake.table, "prod")
    before = _contents(reader)

    nothing = lake.night()
    assert (nothing.state, nothing.counts.unchanged, nothing.publication) == ("nothing", 3, None)

    # One shard is added, one changed, one goes; the prefix column follows.
    Funnel.build(lake.table, Goal(recall=0.5, k=5, queries=60))
    lake.write("c", 7)
    lake.write("b", 8)
    (lake.folder / "shards" / "a.jsonl").unlink()
    night = lake.night(withdraw=True, audit={"queries": 60, "max_row_loss": 0.0})
    assert (night.state, gates(night)) == ("published", set())
    assert (night.counts.new, night.counts.changed, night.counts.vanished) == (1, 1, 1)
    assert (night.counts.encoded, night.counts.withdrawn, night.counts.rows) == (2 * ROWS, ROWS, 3 * ROWS)
    assert lake.prod() == lake.from_scratch()
    assert _contents(reader) == before
    assert {"recall in memory", "canary", "overlap"} <= {gate.gate for gate in night.audit if gate.measured is not None}

    # Too many rejects: the rows are in the table, and yesterday's stay published until somebody says otherwise.
    yesterday = lake.prod()
    lake.write("d", 9, rejects=7)
    refused = lake.night()
    assert (refused.state, gates(refused)) == ("refused", {"rejects"})
    again = lake.night()  # with nothing new to read
    assert (again.state, gates(again), again.counts.encoded) == ("refused", {"rejects"}, 0)
    assert lake.prod() == yesterday
    (verdict,) = (gate.verdict for gate in again.audit if not gate.passed)
    assert verdict == ("rejects: 7 of 150 samples were rejected; measured 0.04667, bound 0.01 (audit.max_rejects)")
    assert main(["publish", lake.table]) == 1
    assert main(["publish", lake.table, "--force"]) == 0
    assert len(lake.prod()) == 4 * ROWS - 7
    assert [night.state for night in read_nights(lake.table, StorageConfig())] == [
        "published",
        "nothing",
        "published",
        "refused",
        "refused",
    ]

    # Erased rows leave `prod` at once. No night, and no shard that is read again for its rejects, brings them back.
    for name in ("b-3", "d-20"):
        assert main(["delete", lake.table, "--where", f"id = '{name}'"]) == 0
    erased = lake.prod()
    assert len(erased) == 4 * ROWS - 9
    assert {"b-3", "d-20"}.isdisjoint(erased)
    assert lake.night().state == "nothing"
    embed(lake.config().embed_config(lake.table), log="json", retry_rejects=True)
    lake.write("e", 11)
    night = lake.night()
    assert (night.state, gates(night), night.counts.rows) == ("published", set(), 5 * ROWS - 9)
    assert lake.prod().items() > erased.items()


@pytest.mark.slow
def test_no_night_publishes_over_a_rollback(lake: Lake) -> None:
    lake.night()
    yesterday = lake.prod()
    lake.write("c", 7)
    lake.night()
    assert main(["rollback", lake.table]) == 0
    lake.write("d", 8)
    held = lake.night()
    assert (held.state, held.counts.encoded, gates(held), held.publication) == ("held", ROWS, set(), None)
    assert lake.night().state == "held"
    assert lake.prod() == yesterday
    assert main(["publish", lake.table]) == 0
    assert lake.prod() == lake.from_scratch()
    lake.write("e", 9)
    assert lake.night().state == "published"

    # To roll back and forth again holds nothing, and no more do files of a crash that `clean` removes.
    assert main(["rollback", lake.table]) == 0
    assert main(["rollback", lake.table, "--to", "5"]) == 0
    orphan = Path(lake.table) / "data" / "left-by-a-crash.lance"
    orphan.write_bytes(b"x")
    os.utime(orphan, (1, 1))
    version = VectorTable.open(lake.table).dataset.version
    assert main(["clean", lake.table, "--older-than", "0"]) == 0
    assert not orphan.exists()
    assert VectorTable.open(lake.table).dataset.version > version
    assert lake.night().state == "nothing"
    lake.write("f", 10)
    assert lake.night().state == "published"

    # Most of the files are gone at once, as where a disk is not mounted.
    yesterday = lake.prod()
    for name in "abcd":
        (lake.folder / "shards" / f"{name}.jsonl").unlink()
    refused = lake.night(withdraw=True)
    assert (refused.state, gates(refused)) == ("refused", {"withdrawn"})
    assert lake.prod() == yesterday


def test_a_new_model_has_a_generation_of_its_own_and_a_worse_one_is_refused(lake: Lake) -> None:
    lake.night()
    assert main(["delete", lake.table, "--where", "id = 'a-3'"]) == 0
    turn, _ = np.linalg.qr(np.random.default_rng(5).standard_normal((WIDTH, WIDTH)))
    lake.set_model("2")
    for seed, name in enumerate("ab"):
        lake.write(name, seed, turn=turn)
    # A budget spreads the generation over nights; the old one serves on.
    night = lake.night(budget={"rows": ROWS})
    assert (night.state, night.generation, night.counts.encoded) == ("unfinished", 2, ROWS - 1)
    assert night.counts.erased == 1
    assert VectorTable.open(lake.table, "prod").uri == lake.table
    night = lake.night(budget={"rows": ROWS})
    assert (night.state, night.generation, gates(night)) == ("published", 2, set())
    assert VectorTable.open(lake.table, "prod").uri == generation_uri(lake.table, 2)
    whole = lake.from_scratch()
    assert whole.pop("a-3")
    assert lake.prod() == whole  # the shards changed, and what was erased stays out

    yesterday = lake.prod()
    lake.set_model("3")
    for seed, name in enumerate("ab"):
        lake.write(name, seed + 100)  # vectors that have nothing to do with the samples
    night = lake.night()
    assert (night.state, night.generation, gates(night)) == ("refused", 3, {"overlap"})
    assert lake.prod() == yesterday
    assert VectorTable.open(lake.table, "prod").uri == generation_uri(lake.table, 2)


def test_a_new_rotation_is_derived_from_what_is_stored(lake: Lake) -> None:
    lake.night()
    lake.write("c", 7)
    config = lake.config(rotation={"kind": "pca"})
    plan = plan_night(config)
    assert plan.derivation is not None
    assert (plan.derivation.rows, len(plan.tonight), plan.is_cut) == (2 * ROWS, 1, False)
    night = lake.night(rotation={"kind": "pca"})
    assert (night.state, night.generation, gates(night)) == ("published", 2, set())
    assert (night.counts.derived, night.counts.encoded, night.counts.rows) == (2 * ROWS, ROWS, 3 * ROWS)
    canary, overlap = (next(gate for gate in night.audit if gate.gate == name) for name in ("canary", "overlap"))
    assert canary.measured is not None
    assert canary.measured > 0.9999, "half precision is all that is lost"
    assert overlap.measured == 1.0
    assert VectorTable.open(lake.table, "prod").rotation is not None
    assert lake.night(rotation={"kind": "pca"}).state == "nothing"


@pytest.mark.slow
def test_rows_that_another_tool_removed_are_noticed_once(lake: Lake) -> None:
    lake.night()
    VectorTable.open(lake.table).dataset.delete("id = 'a-3'")
    night = lake.night()
    assert (night.state, gates(night)) == ("refused", {"counts"})
    assert next(gate for gate in night.audit if gate.gate == "counts").examples[0].endswith("a.jsonl")
    assert main(["publish", lake.table, "--force"]) == 0
    lake.write("c", 4)
    assert lake.night().state == "published"


def test_vectors_that_another_encoder_made_are_found_by_the_canary(lake: Lake) -> None:
    lake.night()
    table = VectorTable.open(lake.table)
    other = json.dumps([float(x) for x in vectors(1, 99)[0]])
    table.dataset.update({"vector": f"arrow_cast({other}, 'FixedSizeList({WIDTH}, Float16)')"}, where="id = 'a-0'")
    night = lake.night()
    assert night.state == "refused"
    assert "canary" in gates(night)
    assert next(gate for gate in night.audit if gate.gate == "canary").rows == ("a-0",)
    assert main(["publish", lake.table, "--force"]) == 0
    records = [path.read_text() for name in ("_nights", "_publications") for path in Path(lake.table, name).iterdir()]
    assert not [record for record in records if '"a-0"' in record]  # it may be erased one day


def test_nights_do_not_overlap_and_hooks_are_told(
    lake: Lake, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "night.json"
    told = tmp_path / "told.json"
    raw = lake.config(hooks={"on_failure": f"cat > {told}", "on_success": f"cat > {told}"}).model_dump(
        mode="json", exclude_none=True
    )
    config = tmp_path / "night.toml"
    config.write_text(_toml(raw))
    assert main(["nightly", str(config), "--dry-run"]) == 0
    assert "2 new, 0 changed" in capsys.readouterr().out
    assert main(["nightly", str(config), "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert ([name[-7:] for name in plan["new"]], plan["changed"], plan["tonight"]) == (["a.jsonl", "b.jsonl"], [], 2)
    with NightLock(lake.table, StorageConfig()):
        assert main(["nightly", str(config)]) == 1
    assert "nights do not overlap" in " ".join(capsys.readouterr().err.split())
    assert main(["nightly", str(config)]) == 0
    assert json.loads(told.read_text())["state"] == "published"
    loaded = subprocess.run(
        [sys.executable, "-c", _NIGHT_THAT_LISTS_WHAT_IT_LOADED, str(config)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert json.loads(told.read_text())["state"] == "nothing"
    assert loaded[-1] == "set()", "a night with nothing to do loads neither torch nor Ray"
    lake.write("c", 3, rejects=6)
    capsys.readouterr()
    assert main(["nightly", str(config), "--json"]) == 1
    out, err = capsys.readouterr()
    refused = json.loads(out)
    assert json.loads(told.read_text())["state"] == refused["state"] == "refused"
    assert [gate["gate"] for gate in refused["audit"] if not gate["passed"]] == ["rejects"]
    said = " ".join(err.split())
    assert "rejects: 6 of 150 samples were rejected" in said
    assert "--force" in said


def _toml(raw: dict[str, Any]) -> str:
    """Write a config whose blocks are one level deep."""
    top = {key: value for key, value in raw.items() if not isinstance(value, dict)}
    blocks = {key: value for key, value in raw.items() if isinstance(value, dict)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in top.items()]
    for name, block in blocks.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in block.items())]
    return "\n".join(lines)


def test_an_embed_config_is_a_nightly_config() -> None:
    settings = {"shards": ["a"], "table": "t", "input": {"text": "x"}, "encoder": {"name": "wordllama"}}
    config = NightlyConfig.model_validate(settings)
    assert (
        config.embed_config("other").model_dump()
        == EmbedConfig.model_validate(settings | {"table": "other"}).model_dump()
    )
