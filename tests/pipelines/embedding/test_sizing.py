"""What a fleet needs follows from costs that are measured here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.__main__ import main
from pipelines.embedding.plan import make_plan
from pipelines.embedding.sizing import Fleet, UnitCosts, measure, size
from pipelines.vectors.arrays import to_numpy
from schemas.errors import ConfigError, InputError
from tests.support.corpus import config_for, settings, write_config, write_corpus
from tests.support.printed import Printed

# Half a millisecond of a core to prepare, and one of both cores to encode.
COSTS = UnitCosts(500, 0.0005, 0.001, "cpu", cores=2, stored_bytes=600.0, units=20.0, memory_bytes=1 << 30)


def test_a_fleet_is_computed_from_unit_costs(tmp_path: Path) -> None:
    write_corpus(tmp_path / "src", 6, 50)
    config = config_for(tmp_path / "src", tmp_path / "t.lance")
    plan = make_plan(config)
    read_bytes = sum(shard.size for shard in plan.shards)

    cpu = size(config, plan, COSTS, Fleet(machines=3, cpus=8, price_per_hour=4.0))
    assert cpu.rows == pytest.approx(300, rel=0.2)
    assert cpu.rows_per_s == pytest.approx(24 / (0.0005 + 2 * 0.001))  # the cores of 3 x 8 do both
    assert cpu.seconds == pytest.approx(15 + cpu.rows / cpu.rows_per_s)
    assert cpu.cost == pytest.approx(3 * 4.0 * cpu.seconds / 3600)
    assert cpu.network_bytes_per_s == pytest.approx(read_bytes / (cpu.rows / cpu.rows_per_s))
    assert (cpu.actors, cpu.bound_by, cpu.cores_per_gpu) == (3, "encode", None)
    assert cpu.stored_bytes == 600 * cpu.rows

    known = Fleet(machines=2, cpus=4, gpus=2, rows_per_s=1000.0)
    gpu = size(config, plan, COSTS, known)
    assert (gpu.actors, gpu.rows_per_s, gpu.bound_by, gpu.cores_per_gpu) == (4, 4000.0, "encode", 0.5)
    starved = size(config, plan, COSTS, replace(known, cpus=1))
    assert (starved.rows_per_s, starved.bound_by) == (4000.0, "encode")
    assert size(config, plan, replace(COSTS, prepare_s=0.01), known).bound_by == "prepare"
    assert size(config, plan, replace(COSTS, device="cuda"), replace(known, rows_per_s=None)).rows_per_s == 4000.0
    with pytest.raises(ConfigError, match="no GPU to measure on"):
        size(config, plan, COSTS, Fleet(gpus=1))


def test_costs_are_measured_on_rows_of_the_job(tmp_path: Path, without_ray: None, printed: Printed) -> None:
    write_corpus(tmp_path / "src", 3, 80)
    config = config_for(tmp_path / "src", tmp_path / "t.lance")
    costs = measure(config, make_plan(config), 30)
    assert (costs.rows, costs.device) == (30, "cpu")
    assert costs.prepare_s > 0 < costs.encode_s
    assert not (tmp_path / "t.lance").exists()

    job = str(write_config(tmp_path / "c.toml", settings(tmp_path / "src", tmp_path / "t.lance")))
    printed()
    assert main(["plan", job, "--machines", "2", "--price", "1.5", "--json"]) == 0
    said = json.loads(printed())
    assert (said["shards"], said["actors"], said["measured"]["cores"]) == (3, 2, said["fleet"]["cpus"])
    assert main(["plan", job]) == 0
    assert "3 shards, about 2" in printed()
    assert main(["embed", job]) == 0
    table = make_plan(config).table
    assert table is not None
    held = table.dataset.to_table(columns=["vector"])["vector"]
    assert costs.stored_bytes > to_numpy(held).nbytes / 240
    printed()
    assert main(["plan", job]) == 0
    assert "nothing to do" in printed()


def test_nothing_to_measure_is_said(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.jsonl").write_text('{"id": "a", "text": " ", "n": "1"}\n')
    config = config_for(tmp_path / "src", tmp_path / "t.lance")
    with pytest.raises(InputError, match=r"no sample of \S+a.jsonl can be embedded, so nothing is measured"):
        measure(config, make_plan(config), 10)
