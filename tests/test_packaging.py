"""The packages, their dependencies and what a Ray job takes along are what pyproject.toml says."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest

import schemas

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
LOCKED = ("demo", "dev", "bench", "efficientnet", "onnx", "report", "train", "transformers", "webdataset")


@pytest.mark.parametrize("name", PACKAGES)
def test_each_package_is_the_one_in_this_repository(name: str) -> None:
    # Names this common could be shadowed by something installed.
    module = importlib.import_module(name)
    assert module.__file__ is not None
    assert Path(module.__file__).resolve() == ROOT / name / "__init__.py"


def test_every_package_folder_is_shipped_and_checked() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert folders == set(PACKAGES)
    assert set(PROJECT["tool"]["mypy"]["files"]) >= folders
    assert set(PROJECT["tool"]["importlinter"]["root_packages"]) == folders
    assert set(PROJECT["tool"]["coverage"]["run"]["source"]) == folders


def test_every_package_is_typed_and_the_version_is_in_one_place() -> None:
    assert [name for name in PACKAGES if not (ROOT / name / "py.typed").is_file()] == []
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert (ROOT / PROJECT["tool"]["hatch"]["version"]["path"]).resolve() == Path(schemas.__file__)


def test_it_cannot_be_published_by_accident() -> None:
    assert "Private :: Do Not Upload" in PROJECT["project"]["classifiers"]


def test_every_dependency_is_pinned_by_exact_version() -> None:
    pins = dict(
        line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")
    )
    project = PROJECT["project"]
    wanted = project["dependencies"] + [each for extra in LOCKED for each in project["optional-dependencies"][extra]]
    names = {re.split(r"[\[>=]", requirement)[0] for requirement in wanted} - {project["name"]}
    assert names <= {re.sub(r"[_.]", "-", name).lower() for name in pins}
    assert pins["torch"] == "2.13.0"


def test_a_ray_job_takes_the_packages_along_and_leaves_the_rest() -> None:
    left_out = (ROOT / ".rayignore").read_text().split()
    assert not set(PACKAGES) & set(left_out)
    assert {".venv", ".git", "lake", "tests"} <= set(left_out)


def test_every_extra_that_a_message_names_exists() -> None:
    sources = [path.read_text() for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    named = set(re.findall(r"matryoshka-lake\[(\w+)\]", "\n".join(sources)))
    assert named
    assert named <= set(PROJECT["project"]["optional-dependencies"])
