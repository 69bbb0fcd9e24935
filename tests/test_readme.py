"""Every command, file, page and public name that the README and the docs give exists."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import matryoshka_lake
from jobs.verbs import VERBS
from schemas.config import EmbedConfig, load_config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]


def test_every_make_target_it_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", README, re.MULTILINE))
    assert {first or second for first, second in named} <= targets


def test_every_verb_it_names_exists() -> None:
    named = set(re.findall(r"(?:python -m jobs|\bmlake) ([a-z]+)", "\n".join(page.read_text() for page in PAGES)))
    assert named
    assert named <= set(VERBS)


def test_every_name_it_imports_is_public() -> None:
    lines = re.findall(r"^from matryoshka_lake import (.+)$", README, re.MULTILINE)
    assert lines
    assert {name for line in lines for name in line.split(", ")} <= set(matryoshka_lake.__all__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_it_links_exists(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_site_has_every_page_and_every_public_name() -> None:
    docs = ROOT / "docs"
    pages = [page.relative_to(docs).as_posix() for page in docs.rglob("*.md")]
    assert sorted(re.findall(r'"([^"]+\.md)"', (ROOT / "zensical.toml").read_text())) == sorted(pages)
    shown = re.findall(r"^::: matryoshka_lake\.(\w+)$", (docs / "reference" / "python.md").read_text(), re.MULTILINE)
    configs = [name for name in matryoshka_lake.__all__ if name.endswith("Config")]
    assert sorted([*shown, *configs, "__version__"]) == sorted(matryoshka_lake.__all__)


def test_its_config_and_the_examples_load(tmp_path: Path) -> None:
    written = re.search(r"```toml\n(.*?)```", README, re.DOTALL)
    assert written is not None
    (tmp_path / "photos.toml").write_text(written[1])
    examples = [tmp_path / "photos.toml", *(ROOT / "jobs" / "configs").glob("*.toml")]
    assert len(examples) > 4
    for example in examples:
        if "shards" in tomllib.loads(example.read_text()):
            assert load_config(EmbedConfig, example).shards
