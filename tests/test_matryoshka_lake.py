"""The public surface: what the docs list, loaded only when used, and never taken from the user's own folders."""

from __future__ import annotations

import ast
import inspect
import itertools
import math
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import matryoshka_lake
import schemas.config
import schemas.errors
from schemas import __version__
from tests.support.small_tables import off_axis_table

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


ODD: tuple[Any, ...] = (
    *(None, -1, 10**30, 1.5, math.nan, True, "", "x" * 10_000, "\0", "\udcff", b"x", [], [None], ["a"], {"a": 1}),
    *(object(), object, Path("/none"), (1, 2), [[1], [1, 2]]),
    *(np.zeros(0), np.zeros((2, 2)), np.array(["a"]), np.zeros((2, 3, 4)), np.full((2, 24), np.nan)),
)


def test_odd_values_are_answered_or_refused_in_a_sentence(tmp_path: Path) -> None:
    lake, table = matryoshka_lake, off_axis_table(tmp_path)
    x_ND = np.random.default_rng(0).standard_normal((20, 24))
    stage = {"dims": 4, "precision": "int8", "keep": 3}
    calls: list[tuple[Callable[..., object], dict[str, Any]]] = [
        (lake.VectorTable.open, {"uri": table.uri, "version": None}),
        (lake.VectorTable, {"uri": table.uri, "dataset": table.dataset, "storage": table.storage}),
        (table.search, {"query": x_ND[0], "k": 3, "dim": None, "where": None, "columns": None, "group_by": None}),
        (table.head, {"k": 3, "columns": None}),
        (table.companion, {"suffix": "shards"}),
        (table.check_space, {"space": table.space}),
        (lake.Hits, {"rows": table.head().to_arrow(), "images": None}),
        (table.head().with_images, {"root": tmp_path}),
        (lake.to_numpy, {"vectors": table.head(columns=["vector"])["vector"]}),
        (lake.cut, {"x_BD": x_ND, "dim": 4}),
        (lake.recall_by_dim, {"database_ND": x_ND, "queries_QD": x_ND[:5], "dims": [4], "k": 3, "skip_self": False}),
        (lake.recall_by_dim, {"database_ND": x_ND, "queries_QD": x_ND[:5], "dims": [4], "device": "cpu"}),
        (lake.encoder_spec, {"name": "wordllama"}),
        (lake.load_config, {"model": lake.EmbedConfig, "path": "none.toml", "overrides": ()}),
        (lake.Goal, {"recall": 0.5, "k": 3, "objective": "latency", "queries": 9, "bytes_per_vector": 8, "seed": 0}),
        (lake.FunnelStage, stage),
        (lake.Plan, {"stages": [lake.FunnelStage(**stage)] * 2, "home": "memory", "lists": 0, "margin": None, "k": 3}),
        (lake.EmbedConfig, {"shards": ["a"], "table": "t", "input": {"text": "a"}, "encoder": {"name": "wordllama"}}),
        *(
            (getattr(lake, name), {"table": "t", "shard": ()})
            for name in schemas.config.__all__
            if name.endswith("Config")
        ),
        (lake.Funnel.open, {"table": table, "home": "memory", "device": None}),
        (lake.Funnel.build, {"table": table, "home": "memory", "stages": None}),
    ]
    raw = []
    for function, given in calls:
        for name, odd in itertools.product(given, ODD):
            try:
                function(**given | {name: odd})
            except lake.LakeError:
                continue
            except Exception as error:
                raw.append(f"{function.__qualname__}({name}={odd!r:.40}): {type(error).__name__}: {error!s:.80}")
    assert not raw, "\n".join(raw)


@pytest.mark.parametrize("name", [name for name in schemas.config.__all__ if name.endswith("Config")])
def test_a_program_hears_the_same_of_a_wrong_setting_as_a_file(name: str, tmp_path: Path) -> None:
    model = getattr(matryoshka_lake, name)
    first = next(iter(model.model_fields))
    (tmp_path / "c.toml").write_text(f'{first}x = ["a"]')
    said = []
    for make in (
        partial(model, **{f"{first}x": ["a"]}),
        partial(matryoshka_lake.load_config, model, tmp_path / "c.toml"),
    ):
        with pytest.raises(matryoshka_lake.ConfigError) as refused:
            make()
        said.append(str(refused.value).partition(": ")[2])
    assert said[0] == said[1]
    assert f"unknown key '{first}x'; did you mean '{first}'?" in said[0]


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
