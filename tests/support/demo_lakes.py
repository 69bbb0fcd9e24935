"""The demo with few samples, made once in a session, for tests of it and of the documentation."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from jobs import demo
from pipelines.tables.table import VectorTable
from schemas.config import DemoConfig
from tests.support.without_ray import in_process

LIMIT = 150


@dataclass
class DemoLake:
    """The tables and the report of a demo, and what it printed."""

    folder: Path
    said: str

    def table(self, name: str) -> VectorTable:
        return VectorTable.open(str(self.folder / f"{name}.lance"))


def run_demo(folder: Path) -> str:
    """Run the demo with few samples; return what it printed."""
    console = Console(file=io.StringIO(), width=200)
    demo.run(DemoConfig(folder=str(folder), limit=LIMIT), console)
    said = console.file
    assert isinstance(said, io.StringIO)
    return said.getvalue()


@pytest.fixture(scope="session")
def demo_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoLake]:
    """The lake of a demo; a test that changes it makes a copy first, or changes what no other test reads."""
    folder = tmp_path_factory.mktemp("home") / "lake" / "demo"
    with in_process():
        said = run_demo(folder)
    yield DemoLake(folder, said)
    shutil.rmtree(folder)
