"""What `mlake deploy` renders: valid Kubernetes, valid rules, sound Dockerfiles, and metrics that exist."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from cluster.deploy.render import render
from jobs.__main__ import main
from schemas.config.deploy import DeployConfig
from schemas.errors import ConfigError
from schemas.run_metrics import METRICS

ROOT = Path(__file__).parent.parent.parent
KUBERNETES = "1.34"
CRDS = os.environ.get("KUBERAY_CRDS")
SETTINGS: dict[str, Any] = {
    "image": "registry.example.com/lake:1",
    "nightly": str(ROOT / "jobs" / "configs" / "cluster" / "nightly.toml"),
    "bucket": "b",
}
VARIANTS: dict[str, dict[str, Any]] = {
    "cpu": {},
    "gpu on spot, with decoders and a queue": {
        "is_spot": True,
        "queue": "nights",
        "encode": {"cpus": 8, "memory_gib": 32, "gpus": 1, "most": 8},
        "decode": {"cpus": 16, "memory_gib": 32, "most": 4},
    },
}


def rendered(variant: str) -> dict[str, str]:
    return render(DeployConfig.model_validate(SETTINGS | VARIANTS[variant]))


def objects(files: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Every Kubernetes object, the one within the ConfigMap of the CronJob too."""
    for name, text in files.items():
        if name.endswith(".yaml") and name != "alerts.yaml":
            for each in yaml.safe_load_all(text):
                yield each
                if each["kind"] == "ConfigMap" and "rayjob.yaml" in each["data"]:
                    yield yaml.safe_load(each["data"]["rayjob.yaml"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_built_in_kinds_are_valid(variant: str) -> None:
    kinds = []
    for each in objects(rendered(variant)):
        if each["apiVersion"].split("/")[0] in ("ray.io", "monitoring.coreos.com"):
            continue
        kubernetes_validate.validate(each, KUBERNETES, strict=True)
        kinds.append(each["kind"])
    assert {"CronJob", "ConfigMap", "PodDisruptionBudget", "Role", "RoleBinding", "ServiceAccount"} <= set(kinds)


def unknown(schema: dict[str, Any], value: Any, path: str) -> Iterator[str]:
    """Yield the fields that an API server would drop without a word."""
    if isinstance(value, list):
        for place, part in enumerate(value):
            yield from unknown(schema.get("items", {}), part, f"{path}[{place}]")
    if not isinstance(value, dict) or schema.get("x-kubernetes-preserve-unknown-fields"):
        return
    known, others = schema.get("properties"), schema.get("additionalProperties")
    for name, part in value.items():
        if known and name in known:
            yield from unknown(known[name], part, f"{path}.{name}")
        elif isinstance(others, dict):
            yield from unknown(others, part, f"{path}.{name}")
        elif known and not others:
            yield f"{path}.{name}"


@pytest.mark.skipif(CRDS is None, reason="KUBERAY_CRDS names no folder with KubeRay's CRDs")
@pytest.mark.parametrize("variant", VARIANTS)
def test_kuberay_kinds_fit_its_crds_without_an_unknown_field(variant: str) -> None:
    schemas = {}
    for file in Path(CRDS or "").glob("*.yaml"):
        crd = yaml.safe_load(file.read_text())
        (version,) = (each for each in crd["spec"]["versions"] if each["name"] == "v1")
        schemas[crd["spec"]["names"]["kind"]] = version["schema"]["openAPIV3Schema"]
    seen = set()
    for each in objects(rendered(variant)):
        if each["apiVersion"] == "ray.io/v1":
            schema = schemas[each["kind"]]
            schema["properties"]["metadata"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
            jsonschema.validate(each, schema)
            assert list(unknown(schema, each, each["kind"])) == []
            seen.add(each["kind"])
    assert seen == {"RayCluster", "RayJob", "RayCronJob"}
    broken = yaml.safe_load(rendered(variant)["raycluster.yaml"].split("---")[0])
    broken["spec"]["workerGroupSpecs"][0]["maxReplica"] = 3
    assert list(unknown(schemas["RayCluster"], broken, "RayCluster")) == [
        "RayCluster.spec.workerGroupSpecs[0].maxReplica"
    ]


def test_values_reach_every_object_that_they_are_about() -> None:
    files = rendered("gpu on spot, with decoders and a queue")
    cluster = yaml.safe_load(files["raycluster.yaml"].split("---")[0])
    head, groups = cluster["spec"]["headGroupSpec"], cluster["spec"]["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert cluster["spec"]["authOptions"] == {"mode": "token"}
    assert [(group["groupName"], group["minReplicas"], group["maxReplicas"]) for group in groups] == [
        ("encode", 0, 8),
        ("decode", 0, 4),
    ]
    for group in [head, *groups]:
        (container,) = group["template"]["spec"]["containers"]
        assert container["image"] == SETTINGS["image"]
        assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]
        assert group["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    gpus = [g["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu") for g in groups]
    assert gpus == ["1", None]
    assert "nvidia.com/gpu" not in rendered("cpu")["raycluster.yaml"]
    (job,) = (each for each in objects(files) if each["kind"] == "RayJob")
    assert job["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "nights"}
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]
    (cron,) = (each for each in objects(files) if each["kind"] == "CronJob")
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    config = next(each for each in objects(files) if each["kind"] == "ConfigMap")
    assert config["data"]["nightly.toml"] == Path(SETTINGS["nightly"]).read_text()


def test_dashboard_and_alerts_ask_for_metrics_that_exist() -> None:
    files = rendered("cpu")
    known = {metric.exported for metric in METRICS.values()}
    board = json.loads(files["dashboard.json"])
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    asked += [rule["expr"] for group in yaml.safe_load(files["alerts.yaml"])["groups"] for rule in group["rules"]]
    named = {name for expression in asked for name in re.findall(r"\b(?:ray_)?lake_\w+", expression)}
    assert named - known == {"lake_prod_age_seconds"}  # printed by `mlake prod --metrics`
    assert known - named == {"ray_lake_batches_total"}


def test_alerts_are_rules_that_fire(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    (tmp_path / "alerts.yaml").write_text(rendered("cpu")["alerts.yaml"])
    given_up = {
        "exp_labels": {"severity": "warning", "job": "embed", "run": "r"},
        "exp_annotations": {
            "summary": "r gave up shards",
            "action": "the end of its log names each with its error; the same command tries them again",
        },
    }
    # From its first value on, and until an hour after the run.
    times = [(5, []), (15, [given_up]), (70, [given_up]), (90, [])]
    test = {
        "rule_files": ["alerts.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": 'lake_prod_age_seconds{table="t"}', "values": "0+3600x60"},
                    {"series": 'ray_lake_rows_total{job="embed",run="r"}', "values": "100x60"},
                    {"series": 'ray_lake_open_leases{job="embed",run="r"}', "values": "3x60"},
                    {"series": 'ray_lake_planned_shards{job="embed",run="r"}', "values": "9x20"},
                    {"series": 'ray_lake_given_up_shards_total{job="embed",run="r"}', "values": "_x10 1x200"},
                ],
                "alert_rule_test": [
                    {"eval_time": "10m", "alertname": "LakeProdIsOld", "exp_alerts": []},
                    {
                        "eval_time": "50m",
                        "alertname": "LakeProdIsOld",
                        "exp_alerts": [
                            {
                                "exp_labels": {"severity": "warning", "table": "t"},
                                "exp_annotations": {
                                    "summary": "t: no publication for a day and a half",
                                    "action": "mlake history TABLE says how the last nights ended",
                                },
                            }
                        ],
                    },
                    *(
                        {"eval_time": f"{minute}m", "alertname": "LakeShardsGivenUp", "exp_alerts": expected}
                        for minute, expected in times
                    ),
                    {
                        "eval_time": "59m",
                        "alertname": "LakeStalled",
                        "exp_alerts": [
                            {
                                "exp_labels": {"severity": "critical", "job": "embed", "run": "r"},
                                "exp_annotations": {
                                    "summary": "r has encoded nothing for half an hour",
                                    "action": "see the log of its actors: ray logs actor",
                                },
                            }
                        ],
                    },
                ],
            }
        ],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    for words in (["check", "rules", "alerts.yaml"], ["test", "rules", "test.yaml"]):
        done = subprocess.run([promtool, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_dockerfiles_are_sound_and_copy_what_is_there(kind: str, tmp_path: Path) -> None:
    text = rendered("cpu")[f"Dockerfile.{kind}"]
    (tmp_path / "Dockerfile").write_text(text)
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, tmp_path / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    copied = [word for line in text.splitlines() if line.startswith("COPY") for word in line.split()[1:-1]]
    assert copied
    assert all((ROOT / word).exists() for word in copied)
    extras = set(re.findall(r"\.\[([\w,]+)\]", text)[0].split(","))
    assert all(re.search(rf"(?m)^{extra} = \[", (ROOT / "pyproject.toml").read_text()) for extra in extras)
    assert text.rstrip().splitlines()[-3] == "USER 1000"


def test_policies_allow_no_more_than_is_needed() -> None:
    files = rendered("cpu")
    reader, writer = (json.loads(files[f"s3-policy-{who}.json"])["Statement"] for who in ("reader", "writer"))
    assert {action for each in reader for action in [each["Action"]]} == {"s3:ListBucket", "s3:GetObject"}
    # `mlake delete` must know whether the bucket keeps what is deleted.
    assert {"s3:ListBucketVersions", "s3:GetBucketVersioning"} <= {
        action
        for each in writer
        for action in ([each["Action"]] if isinstance(each["Action"], str) else each["Action"])
    }
    writes = [each["Resource"] for each in writer if "s3:PutObject" in each["Action"]]
    assert writes == ["arn:aws:s3:::b/lake/*"]


def test_the_verb_writes_the_files_and_refuses_bad_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = [
        "deploy",
        str(ROOT / "jobs" / "configs" / "cluster" / "deploy.toml"),
        "--set",
        f"nightly={SETTINGS['nightly']}",
    ]
    assert main([*example, "--out", str(tmp_path / "out")]) == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == set(rendered("cpu"))
    for setting, said in (
        ("name=Lake_1", "name"),
        ("encode.gpus=-1", "encode.gpus"),
        ("nightly=/nowhere", "cannot be read"),
    ):
        assert main([*example, "--set", setting, "--out", str(tmp_path / "no")]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
    (tmp_path / "bad.toml").write_text("a = ")
    with pytest.raises(ConfigError, match="is no TOML"):
        render(DeployConfig.model_validate(SETTINGS | {"nightly": str(tmp_path / "bad.toml")}))
