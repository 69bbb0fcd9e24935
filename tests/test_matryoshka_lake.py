"""The public surface: what the docs list, loaded only when used, and never taken from the user's own folders."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import matryoshka_lake
import schemas.config
import schemas.errors
from schemas import __version__

ROOT = Path(__file__).parent.parent
OWN = ("cluster", "jobs", "pipelines", "schemas")


def python(code: str, *args: str, cwd: Path, path: str = str(ROOT)) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": path, "COVERAGE_PROCESS_START": ""}
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, cwd=cwd, env=environment)


@pytest.fixture
def users_folder(tmp_path: Path) -> Path:
    """A directory in which the user has packages of the same names as ours."""
    for name in OWN:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ZeroDivisionError('this is the package of the user')")
    return tmp_path


def test_the_docs_list_exactly_the_public_names() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    first_cells = re.findall(r"^\| `(\w+)`", page, re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", page))
    assert set(first_cells) <= set(matryoshka_lake.__all__)
    assert named == set(matryoshka_lake.__all__)


@pytest.mark.parametrize("name", matryoshka_lake.__all__)
def test_every_public_name_is_there_and_explains_itself(name: str) -> None:
    value = getattr(matryoshka_lake, name)
    assert name in dir(matryoshka_lake)
    assert inspect.getdoc(value)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(matryoshka_lake.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = [alias for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(alias.asname or alias.name for alias in imported) == sorted(matryoshka_lake.__all__)


def test_every_config_model_and_every_error_is_public() -> None:
    configs = {name for name in schemas.config.__all__ if name.endswith("Config")}
    errors = {
        name for name, value in vars(schemas.errors).items() if inspect.isclass(value) and issubclass(value, Exception)
    }
    assert configs | errors <= set(matryoshka_lake.__all__)


def test_what_writes_to_a_table_is_not_public() -> None:
    public = {name for name in dir(matryoshka_lake.VectorTable) if not name.startswith("_")}
    assert not {"commit", "create", "write_fragments"} & public
    assert not [name for name in matryoshka_lake.__all__ if name.startswith(("commit", "create", "write"))]


def test_a_name_that_is_not_public_is_refused() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Committer'"):
        _ = matryoshka_lake.Committer


@pytest.mark.parametrize("odd", [None, "news.toml", 3, {"table": "t"}, [], object()])
def test_settings_of_another_type_are_refused_in_one_sentence(tmp_path: Path, odd: Any) -> None:
    lake, table = matryoshka_lake, str(tmp_path)
    calls: list[Callable[[], object]] = [
        *(partial(verb, odd) for verb in (lake.embed, lake.evaluate, lake.shortlist, lake.train)),
        lambda: lake.rotate(table, odd),
        lambda: lake.VectorTable.open(table, storage=odd),
        lambda: lake.VectorTable.open(table, trust=odd),
        lambda: lake.Funnel.open(table, storage=odd),
        lambda: lake.Funnel.open(table, follow=odd),
        lambda: lake.Funnel.build(table, odd),
    ]
    for call in calls:
        with pytest.raises(lake.ConfigError, match=r"^\w+: pass (a \w+|True or False); this is of type"):
            call()


def test_importing_loads_nothing_heavy(tmp_path: Path) -> None:
    heavy = "{'torch', 'ray', 'lance', 'numpy', 'pydantic', 'wordllama'} & set(sys.modules)"
    done = python(f"import sys, matryoshka_lake; print({heavy})", cwd=tmp_path)
    assert done.stdout == "set()\n", done.stderr


def test_folders_of_the_user_do_not_shadow_ours(users_folder: Path) -> None:
    code = "from matryoshka_lake import EmbedConfig, TableNotFound, encoder_spec; print(encoder_spec('wordllama').dims)"
    done = python(code, cwd=users_folder)
    assert done.stdout == "(64, 128, 256)\n", done.stderr


def test_folders_of_the_user_do_not_shadow_the_command(users_folder: Path) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"mlake": "matryoshka_lake:main"}
    path = os.pathsep.join([str(users_folder), str(ROOT)])
    for words, said in (["--version"], __version__), (["encoders", "wordllama"], "64"):
        done = python("from matryoshka_lake import main; main()", *words, cwd=users_folder, path=path)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout


def test_a_package_of_the_user_that_came_first_is_named(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "__init__.py").write_text("")
    done = python("import jobs, matryoshka_lake", cwd=tmp_path)
    assert done.returncode == 1
    assert f"'jobs' is imported already from {tmp_path}" in done.stderr
