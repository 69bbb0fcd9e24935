"""`mlake deploy CONFIG`: render manifests, images, policies, alerts and a dashboard for Kubernetes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cluster.deploy.render import render
from jobs.options import ConfigFile, NewFolder, Overrides
from pipelines.reports.console import open_console
from pipelines.storage.atomic_files import atomic_path
from schemas.config import load_config
from schemas.config.deploy import DeployConfig


def main(
    config_file: ConfigFile,
    /,
    *,
    overrides: Overrides = None,
    out: Annotated[Path, NewFolder] = Path("deploy"),
) -> int:
    """Render manifests, images, policies, alerts and a dashboard for Kubernetes.

    Nothing is sent anywhere: look at the files, then kubectl apply them.

    Args:
        out: Folder that the files are written to.
    """
    rendered = render(load_config(DeployConfig, config_file, overrides or ()))
    out.mkdir(exist_ok=True)
    for name, text in rendered.items():
        with atomic_path(out / name) as unfinished:
            unfinished.write_text(text)
    open_console().print(f"{len(rendered)} files in {out}: {', '.join(rendered)}", soft_wrap=True)
    return 0
