"""A real Prometheus scrapes a real run: each query of the dashboard and of the alert rules finds what it asks for."""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from cluster.actors import ActorPool
from cluster.deploy.render import render
from cluster.metrics import RunMetrics
from jobs.__main__ import main
from schemas.config.deploy import DeployConfig
from schemas.records import EmbedProgress
from schemas.run_metrics import METRICS
from tests.cluster.test_deploy import SETTINGS
from tests.support.corpus import settings, write_config, write_corpus, write_shard
from tests.support.drivers import wait_until
from tests.support.s3 import free_ports

_FIRES = {"LakeShardsGivenUp", "LakeManyRejects"}  # what this run does wrong
_QUIET = {
    "LakeProdIsOld": "the table was published a moment ago",
    "LakeActorsNotPlaced": "its actor is up",
    "LakeStalled": "it has encoded",
    "Share of padding: padding": "wordllama pads nothing",
    "Tokens asked of servers, per second: tokens": "it asks no server",
    "Paid to servers: cost": "it asks no server",
}
Sample = dict[str, Any]


class Prometheus:
    """A running server."""

    def __init__(self, port: int) -> None:
        self._at = f"http://127.0.0.1:{port}/api/v1"

    def ask(self, path: str, **arguments: str) -> Any:
        with urllib.request.urlopen(f"{self._at}/{path}?{urllib.parse.urlencode(arguments)}") as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[Sample]:
        found: list[Sample] = self.ask("query", query=expression)["result"]
        return found

    def is_up(self) -> bool:
        with suppress(OSError):
            return bool(self.ask("targets"))
        return False


def queries(files: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the name and the expression of each query: those of the panels, then the alerts."""
    for panel in json.loads(files["dashboard.json"])["panels"]:
        for target in panel.get("targets", []):
            yield f"{panel['title']}: {target['legendFormat']}", target["expr"]
    for group in yaml.safe_load(files["alerts.yaml"])["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


@contextmanager
def scraping(folder: Path, files: dict[str, str], targets: dict[str, str]) -> Iterator[Prometheus]:
    """Run Prometheus with the rendered rules, and what the rendered PodMonitor says of labels."""
    (port,) = free_ports(1)
    (folder / "alerts.yaml").write_text(files["alerts.yaml"])
    monitor = next(each for each in yaml.safe_load_all(files["monitoring.yaml"]) if each["kind"] == "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    jobs = [
        {
            "job_name": name,
            "honor_labels": endpoint.get("honorLabels", False),
            "static_configs": [{"targets": [target]}],
        }
        for name, target in targets.items()
    ]
    config = {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": ["alerts.yaml"]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config | {"scrape_configs": jobs}))
    words = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    words += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    process = subprocess.Popen(["prometheus", *words])
    try:
        server = Prometheus(port)
        wait_until(lambda: process.poll() is not None or server.is_up(), within_s=60)
        assert process.poll() is None
        yield server
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def serving(text: str) -> Iterator[str]:
    """Serve a text as a metrics endpoint, as the textfile collector of a node exporter does; yield its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_every_query_finds_what_it_asks_for_in_a_scraped_run(
    tmp_path: Path, local_ray: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = render(DeployConfig.model_validate(SETTINGS))
    published = tmp_path / "published.lance"
    write_corpus(tmp_path / "small", 1, 5)
    assert main(["embed", str(write_config(tmp_path / "small.toml", settings(tmp_path / "small", published)))]) == 0
    assert main(["publish", str(published)]) == 0
    capsys.readouterr()
    assert main(["prod", str(published), "--metrics"]) == 0
    age = capsys.readouterr().out

    for number in range(1200):  # rejects and cut texts come all the time, so that they have a rate
        rows = {f"{number}-0": "", f"{number}-1": "an owl " * 2000, f"{number}-2": "an owl"}
        write_shard(tmp_path / "src" / f"{number:04d}.jsonl", rows)
    (tmp_path / "src" / "broken.parquet").write_text("no parquet")
    raw = settings(tmp_path / "src", tmp_path / "t.lance", limits={"max_reject_fraction": 1, "max_tries": 1})
    config = write_config(tmp_path / "c.toml", raw | {"shards": [f"{tmp_path}/src/*"]})
    node = ray.nodes()[0]
    targets = {"ray": f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"}
    asked = list(queries(files))
    answers: dict[str, list[Sample]] = {}
    with serving(age) as other, scraping(tmp_path, files, targets | {"nodes": other}) as prometheus:

        def leave(pool: ActorPool[object, object], *exc: object) -> None:
            def all_found() -> bool:
                time.sleep(1)
                update(*shown[-1])  # as the driver of a run does all the time: Ray drops a gauge that is not set
                answers.update({name: prometheus.query(expression) for name, expression in asked})
                return all(answers[name] or name in _QUIET for name, _ in asked)

            with suppress(TimeoutError):
                wait_until(all_found, within_s=60)
            answers.update({metric.name: prometheus.query(metric.exported) for metric in METRICS.values()})
            end(pool, *exc)

        def remember(metrics: RunMetrics, progress: EmbedProgress) -> None:
            shown.append((metrics, progress))
            update(metrics, progress)

        end, update, shown = ActorPool.__exit__, RunMetrics.update, list[tuple[RunMetrics, EmbedProgress]]()
        monkeypatch.setattr(RunMetrics, "update", remember)
        monkeypatch.setattr(ActorPool, "__exit__", leave)
        assert main(["embed", str(config)]) == 1
        rules = prometheus.ask("rules")["groups"][0]["rules"]
    assert [(rule["name"], rule["health"]) for rule in rules] == [
        (name, "ok") for name, _ in asked if name[:4] == "Lake"
    ]
    assert [name for name, _ in asked if bool(answers[name]) == (name in _QUIET)] == []
    [run] = {sample["metric"]["run"] for sample in answers["LakeShardsGivenUp"]}
    for name in _FIRES:
        assert [sample["metric"] for sample in answers[name]] == [{"job": "embed", "run": run}]
    assert {sample["metric"]["job"] for name in METRICS for sample in answers[name]} == {"embed"}
    assert {name for name in METRICS if not answers[name]} == {
        "lake_padding_units",
        "lake_served_tokens",
        "lake_served_cost",
    }
