"""Every fenced block of the README and the docs runs, is a config that a job takes, or says why it does not run."""

from __future__ import annotations

import doctest
import inspect
import io
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import matryoshka_lake
import schemas.errors
from jobs.__main__ import command_line, main
from schemas.config import NightlyConfig
from tests.support.demo_lakes import DemoLake
from tests.support.doc_blocks import Block, blocks_of, commands_of
from tests.support.without_ray import in_process

ROOT = Path(__file__).parent.parent
BLOCKS = [block for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] for block in blocks_of(page)]
NOT_RUN = 15
METHODS = (FunctionType, classmethod, staticmethod)
ERRORS = [error for error in vars(schemas.errors).values() if inspect.isclass(error) and issubclass(error, Exception)]
PHOTOS = """
shards = "photos/*.parquet"
table = "lake/photos.lance"
[input]
id = "id"
text = "text"
keep = ["author", "caption"]
[encoder]
name = "wordllama"
[limits]
commit_age_s = 0.2
"""


def _id(block: Block) -> str:
    return f"{block.page.stem}:{block.line}"


@pytest.fixture(scope="module")
def home(demo_lake: DemoLake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder as the pages suppose it: the demo's lake, the examples of configs, and a published table of photos."""
    home = tmp_path_factory.mktemp("docs")
    shutil.copytree(demo_lake.folder, home / "lake" / "demo")
    shutil.copytree(ROOT / "jobs" / "configs", home / "jobs" / "configs")
    shutil.rmtree(home / "lake" / "demo" / "head")  # a block trains it
    for part in (home / "lake" / "demo").glob("pictures.*"):
        shutil.rmtree(part)
    news = pq.read_table(home / "lake" / "demo" / "shards" / "news")
    titles, authors = news["title"].to_pylist(), [("jo", "kim")[row % 2] for row in range(len(news))]
    columns = {"id": news["id"].to_pylist(), "text": titles, "caption": titles, "author": authors}
    (home / "photos").mkdir()
    (home / "photos.toml").write_text(PHOTOS)
    (home / "questions.txt").write_text("fear of spiders\na small boat\n")
    with pytest.MonkeyPatch.context() as patch, in_process():
        patch.chdir(home)
        for command in ("funnel lake/photos.lance --recall 0.8", "publish lake/photos.lance"):
            pq.write_table(pa.table(columns), home / "photos" / f"{command[:2]}.parquet")
            assert main(["embed", "photos.toml"]) == 0
            assert main(command.split()) == 0
        pq.write_table(pa.table(columns), home / "photos" / "new.parquet")
        assert main(["embed", "photos.toml"]) == 0
    yield home
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def names() -> dict[Path, dict[str, Any]]:
    """What the Python blocks of each page have defined so far."""
    return {}


@pytest.fixture(scope="module")
def evaluated() -> set[str]:
    """The configs that a block has evaluated: another block does not measure the same again."""
    return set()


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.reason is None], ids=_id)
def test_a_block_runs(
    block: Block,
    home: Path,
    names: dict[Path, dict[str, Any]],
    evaluated: set[str],
    without_ray: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(home)
    if block.title is not None:
        file = home / block.title
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block.text)
    if block.language == "bash":
        for words, stdin in commands_of(block):
            if words[0] == "cp":
                shutil.copy(*words[1:])
            elif words != [".", ".venv/bin/activate"]:
                assert words[0] == "mlake", f"{words}: a test cannot run this; mark the block and say why"
                if stdin is not None:
                    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path(stdin).read_bytes())))
                if words[1] == "evaluate":
                    if words[2] in evaluated:
                        continue
                    evaluated.add(words[2])
                quick = ["--set", "run.epochs=2"] if words[1] == "train" else []
                assert main(words[1:] + quick) == 0, capsys.readouterr().err
    elif block.language == "python":
        code = compile(block.text, _id(block), "exec")
        exec(code, names.setdefault(block.page, {"__name__": block.page.stem}))
    elif block.language == "toml":
        NightlyConfig.model_validate(_whole(tomllib.loads(block.text)))
    elif block.language == "json":
        assert orjson.loads(block.text)
    else:
        pytest.fail(f"a block in {block.language or 'no language'} is not run; mark it and say why")


def test_every_public_name_has_an_example_and_it_runs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    public = {name: getattr(matryoshka_lake, name) for name in matryoshka_lake.__all__}
    table = matryoshka_lake.VectorTable.open("lake/demo/glosses.lance")
    given = {"np": np, "table": table, "funnel": matryoshka_lake.Funnel.open(table), "hits": table.head(3)}
    for name, value in public.items():
        if name.endswith("Config") or name == "__version__" or value in ERRORS:
            continue
        methods = [m for m, made in vars(value).items() if m[0] != "_" and isinstance(made, METHODS)]
        documented = [value, *(getattr(value, method) for method in methods)]
        parse = doctest.DocTestParser().get_examples
        examples = [example for each in documented for example in parse(inspect.getdoc(each) or "")]
        assert examples, name
        if name in ("Funnel", "Hits", "VectorTable"):
            shown = "".join(example.source for example in examples)
            assert not [method for method in methods if f".{method}(" not in shown], name
        known = public | given
        for example in examples:
            if doctest.SKIP not in example.options:
                exec(example.source, known)


def _whole(part: dict[str, Any]) -> dict[str, Any]:
    """Add to a part of a config what the settings of a night need."""
    reads = {"text", "image", "vector"} & part.get("input", {}).keys()
    whole = {"shards": "photos/", "table": "photos.lance", "encoder": {"name": "wordllama"}} | part
    return whole | {"input": ({} if reads else {"text": "text"}) | part.get("input", {})}


def test_the_blocks_that_are_not_run_are_few_and_their_commands_exist() -> None:
    skipped = [block for block in BLOCKS if block.reason is not None]
    assert len(skipped) == NOT_RUN, [_id(block) for block in skipped]
    for block in skipped:
        if block.language == "bash":
            for words, _ in commands_of(block):
                if words[0] == "mlake":
                    command_line(chosen=words[1]).parse_args(words[1:], print_error=False, exit_on_error=False)
