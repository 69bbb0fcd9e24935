"""Render the files of a deployment from its config.

Owns which files there are, and the panels of the dashboard. The content of the others is in `templates`.
"""

from __future__ import annotations

import json
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from cluster.deploy.dashboard import dashboard
from schemas.config.deploy import DeployConfig
from schemas.errors import ConfigError
from schemas.run_metrics import METRICS

FILES = (
    "namespace.yaml",
    "raycluster.yaml",
    "nightly.yaml",
    "nightly-raycronjob.yaml",
    "monitoring.yaml",
    "Dockerfile.cpu",
    "Dockerfile.cuda",
    "s3-policy-writer.json",
    "s3-policy-reader.json",
    "alerts.yaml",
)


def render(config: DeployConfig) -> dict[str, str]:
    """Return the content of each file by its name.

    Raises:
        ConfigError: The config of the night is not there, or is no TOML.
    """
    try:
        night = Path(config.nightly).read_text()
        tomllib.loads(night)
    except OSError as error:
        raise ConfigError(f"nightly = {config.nightly!r} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"nightly = {config.nightly!r} is no TOML: {error}") from None
    jinja = Environment(  # the files are YAML and JSON, quoted by `quoted`
        autoescape=False, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    jinja.filters["quoted"] = json.dumps
    templates = files("cluster.deploy").joinpath("templates")

    def fill(name: str, **values: Any) -> str:
        return jinja.from_string(templates.joinpath(f"{name}.j2").read_text()).render(c=config, **values)

    spec = fill("cluster-spec").rstrip()
    values: dict[str, Any] = {
        "night": night,
        "spec": spec,
        "job": fill("rayjob-spec", spec=spec).rstrip(),
        "m": {name.removeprefix("lake_"): metric.exported for name, metric in METRICS.items()},
    }
    rendered = {name: fill(name, **values) for name in FILES}
    return rendered | {"dashboard.json": json.dumps(dashboard(), indent=2) + "\n"}
