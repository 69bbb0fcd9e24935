"""What a run exports is at the metrics endpoint of its node, under the names of the one table, with their help."""

from __future__ import annotations

import re
import time
import urllib.request
from dataclasses import dataclass

import pytest
import ray

from cluster.actors import ActorPool
from cluster.metrics import RunMetrics, WorkerMetrics
from jobs.embed import run
from pipelines.tables.runs import read_journal
from pipelines.tables.table import VectorTable
from schemas.config import EmbedConfig, load_config
from schemas.records import EmbedProgress
from schemas.run_metrics import BY_COUNTER, METRICS, MetricSpec
from tests.support.corpus import write_shard
from tests.support.embedded_lakes import make_lake

_SAMPLE = re.compile(r"^(ray_lake_\w+)\{([^}]*)\} (\S+)$", flags=re.M)


@dataclass(frozen=True)
class Scraped:
    """The answer of a metrics endpoint, and the id of the run that is looked for."""

    text: str
    run: str = ""

    def value(self, metric: str, **tags: str) -> float | None:
        """Return the sum of a metric's samples with these tags; None where there is none."""
        values = [
            float(value)
            for name, tag_text, value in _SAMPLE.findall(self.text)
            if name == METRICS[metric].exported
            and tags.items() <= dict(re.findall(r'(\w+)="([^"]*)"', tag_text)).items()
        ]
        return sum(values) if values else None


def scrape(run: str) -> Scraped:
    node = ray.nodes()[0]
    with urllib.request.urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics") as answer:
        return Scraped(answer.read().decode(), run)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Scraped:
    """The endpoint at the end of a run of 4 shards with 50 rows and 3 rejects, while its actors live."""
    folder, _, config = make_lake(tmp_path_factory.mktemp("lake"), shards=3, rows=15)
    write_shard(
        folder / "src" / "z.jsonl", {"z-0": "", "z-1": " ", "z-2": "\t"} | {f"z-{i}": "owl" for i in range(3, 8)}
    )
    seen = Scraped("")

    def leave(pool: ActorPool[object, object], *exc: object) -> None:
        nonlocal seen
        [entry] = read_journal(VectorTable.open(load_config(EmbedConfig, config).table))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            seen = scrape(entry.run)
            if _is_complete(seen):
                break
            time.sleep(0.2)
        end(pool, *exc)

    end = ActorPool.__exit__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ActorPool, "__exit__", leave)
        by_hand = WorkerMetrics({"job": "by-hand", "run": "r"})
        by_hand.update(dict.fromkeys(map(_counter, BY_COUNTER.values()), 1_000) | {"of no metric": 7})
        by_hand.update(dict.fromkeys(map(_counter, BY_COUNTER.values()), 3_000))
        RunMetrics("by-hand", "r").update(EmbedProgress(failed_leases=2, failed=1))
        run(load_config(EmbedConfig, config, ["limits.max_reject_fraction=1", "limits.max_tries=1"]))
    return seen


def _is_complete(seen: Scraped) -> bool:
    counted = ("lake_rows", "lake_committed_rows", "lake_committed_shards", "lake_open_leases")
    return [seen.value(name, run=seen.run) for name in counted] == [50, 50, 4, 0] and all(
        metric.exported in seen.text for metric in METRICS.values()
    )


def _counter(metric: MetricSpec) -> str:
    return metric.counter + "made_up" * metric.counter.endswith("/")


def test_every_metric_is_exported_with_its_help_and_kind(scraped: Scraped) -> None:
    for metric in METRICS.values():
        assert f"# HELP {metric.exported} {metric.help}\n# TYPE {metric.exported} {metric.kind}\n" in scraped.text, (
            metric
        )
        assert metric.help.endswith(".")
        assert metric.unit
        assert re.fullmatch(r"lake_[a-z_]+", metric.name)
        assert not metric.name.endswith("_total")
    assert set(re.findall(r"^# TYPE (ray_lake_\w+)", scraped.text, flags=re.M)) == {
        m.exported for m in METRICS.values()
    }


def test_a_run_exports_what_it_did(scraped: Scraped) -> None:
    def of_run(metric: str) -> float | None:
        return scraped.value(f"lake_{metric}", job="embed", run=scraped.run)

    assert [of_run(name) for name in ("planned_shards", "committed_shards", "committed_rows")] == [4, 4, 50]
    assert (of_run("actors"), of_run("pending_actors"), of_run("open_leases")) == (1, 0, 0)
    assert scraped.value("lake_rejects", run=scraped.run, reason="empty_text") == 3
    assert (of_run("commits") or 0) >= 1
    parts = [of_run(name) or 0.0 for name in ("encoder_busy_seconds", "encoder_wait_seconds", "actor_idle_seconds")]
    assert sum(parts) == pytest.approx(of_run("actor_up_seconds"), rel=0.05)
    assert min(of_run("read_bytes") or 0, of_run("written_bytes") or 0, of_run("batches") or 0) > 0


def test_a_counter_that_is_read_twice_is_counted_once(scraped: Scraped) -> None:
    for metric in BY_COUNTER.values():
        assert scraped.value(metric.name, job="by-hand") == pytest.approx(3_000 * metric.scale), metric
