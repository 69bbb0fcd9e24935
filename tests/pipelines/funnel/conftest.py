"""A table with a tuned funnel of every home, tuned once; each test gets a copy of its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, get_args

import pytest

from pipelines.funnel import Funnel, Home
from pipelines.tables.table import VectorTable
from tests.support.funnel_tables import GOAL, write_table


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    table = write_table(str(folder / "t.lance"))
    for home in get_args(Home):
        Funnel.build(table, GOAL, home=home)
    return folder


@pytest.fixture
def table(tuned: Path, tmp_path: Path) -> VectorTable:
    shutil.copytree(tuned, tmp_path, dirs_exist_ok=True)
    return VectorTable.open(str(tmp_path / "t.lance"))


@pytest.fixture(params=["memory", "torch", "codes", "lake"])
def how(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Arguments of `Funnel.open`."""
    return {"device": "cpu"} if request.param == "torch" else {"home": request.param}


@pytest.fixture
def funnel(table: VectorTable, how: dict[str, Any]) -> Funnel:
    return Funnel.open(table, **how)
