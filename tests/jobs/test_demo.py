"""The demo with few samples: a first run, a second that has nothing to do, a third with a new shard."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import numpy as np
import pyarrow.parquet as pq
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image
from rich.console import Console

from jobs import demo
from jobs.__main__ import main
from pipelines.demo.corpora import list_corpora
from pipelines.funnel import Funnel
from pipelines.tables.ledger import rejects_of
from pipelines.tables.night_log import read_nights
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_numpy
from schemas.config import DemoConfig, StorageConfig
from tests.support.demo_lakes import LIMIT, DemoLake, run_demo

ROOT = Path(__file__).parent.parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def whole_demo(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("whole")
    demo.run(DemoConfig(folder=str(home / "lake" / "demo")), Console(file=io.StringIO()))
    yield home
    shutil.rmtree(home)


def test_every_sample_of_every_corpus_is_in_its_table(demo_lake: DemoLake) -> None:
    for corpus in list_corpora(LIMIT):
        if corpus.name != "questions":
            ids = demo_lake.table(corpus.name).dataset.to_table(columns=["id"])["id"].to_pylist()
            assert sorted(ids) == sorted(sample["id"] for sample in corpus.samples)
            assert rejects_of(demo_lake.table(corpus.name)).num_rows == 0


def test_pictures_find_themselves_at_every_dim_of_their_rotation(demo_lake: DemoLake) -> None:
    emoji = demo_lake.table("emoji")
    assert emoji.rotation is not None
    asked = emoji.dataset.to_table(columns=["id", "png"], limit=1).to_pylist()[0]
    for dims in emoji.space.ladder.dims:
        assert emoji.search(asked["png"], k=1, dim=dims)["id"].to_pylist() == [asked["id"]]


def test_the_definitions_have_a_shortlist_and_a_funnel_that_agrees_with_exact_search(demo_lake: DemoLake) -> None:
    glosses = demo_lake.table("glosses")
    assert glosses.prefix_dims == (64,)
    funnel = Funnel.open(glosses)
    assert funnel.card.best.recall > 0.9
    question = "a person who makes things"
    exact, found = glosses.search(question, k=5), funnel.search(question, k=5)
    assert found["id"].to_pylist() == exact["id"].to_pylist()
    np.testing.assert_allclose(found["score"].to_numpy(), exact["score"].to_numpy(), atol=2e-3)


def test_its_nights_publish_a_correction_and_refuse_a_broken_model(demo_lake: DemoLake) -> None:
    articles = str(demo_lake.folder / "nights" / "articles.lance")
    nights = read_nights(articles, StorageConfig())
    assert [(night.state, night.publication) for night in nights] == [
        ("published", 1),
        ("published", 2),
        ("refused", None),
    ]
    assert [night.counts.encoded for night in nights][1] == 1
    assert [gate.gate for gate in nights[2].audit if not gate.passed] == ["overlap"]
    assert "audit.min_overlap_new_space" in demo_lake.said
    prod, news = VectorTable.open(articles, "prod"), demo_lake.table("news")
    assert prod.publication is not None
    assert (prod.publication.number, len(prod)) == (2, len(news))
    before, now = (table.dataset.to_table(columns=["id", "vector"]).sort_by("id") for table in (news, prod))
    changed = (to_numpy(before["vector"]) != to_numpy(now["vector"])).any(axis=1)
    assert changed.sum() == 1


def test_it_prints_what_it_did_and_three_commands_that_exist(
    demo_lake: DemoLake, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "recall@10" in demo_lake.said
    assert (demo_lake.folder / "report.html").absolute().as_uri() in demo_lake.said
    commands = demo_lake.said.partition("try next:")[2].split("\n")
    verbs = [command.split()[1] for command in commands if command.strip().startswith("mlake ")]
    assert len(verbs) == 3
    for verb in verbs:
        assert main([verb, "--help"]) == 0
        assert f"Usage: mlake {verb}" in capsys.readouterr().out


def test_the_report_holds_answers_plots_and_pictures(demo_lake: DemoLake) -> None:
    page = (demo_lake.folder / "report.html").read_text()
    assert page.count("<svg") == 4
    assert page.count("data:image/png;base64,") > 20
    for said in ("recall@10", "fear of closed spaces", "efficientnet-lite0", "vector_64"):
        assert said in page


def test_a_browser_shows_the_report(demo_lake: DemoLake, tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no chromium here")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --window-size=1240,5000 --timeout=60000"
    shot = tmp_path / "report.png"
    command = [browser, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}"]
    subprocess.run([*command, (demo_lake.folder / "report.html").as_uri()], check=True, capture_output=True)
    page = Image.open(shot)
    assert page.size == (1240, 5000)
    assert page.convert("RGB").getcolors(500) is None, "the page is nearly empty"


def test_a_second_run_has_nothing_to_do(demo_lake: DemoLake, without_ray: None) -> None:
    report = demo_lake.folder / "report.html"
    written_at = report.stat().st_mtime_ns
    versions = {name: demo_lake.table(name).dataset.version for name in demo.TABLES}
    said = run_demo(demo_lake.folder)
    assert "nothing to do" in said
    assert report.stat().st_mtime_ns == written_at
    assert {name: demo_lake.table(name).dataset.version for name in demo.TABLES} == versions


def run_notebook(file: Path, home: Path) -> list[NotebookNode]:
    """Run a notebook in a folder that has `lake/demo`, and return its outputs."""
    notebook = nbformat.read(file, as_version=4)
    client = NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(home)}})
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = client.execute(env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": path})
    return [output for cell in done.cells for output in cell.get("outputs", [])]


def test_the_first_notebook_asks_in_words_and_by_a_picture(demo_lake: DemoLake) -> None:
    outputs = run_notebook(NOTEBOOKS[0], demo_lake.folder.parent.parent)
    shown = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert len(shown) == 7
    assert shown[-1].count("<img") == 4


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_every_notebook_runs_on_the_whole_demo(file: Path, whole_demo: Path) -> None:
    outputs = run_notebook(file, whole_demo)
    kept = nbformat.read(file, as_version=4)
    assert len(outputs) >= sum(len(cell.get("outputs", [])) for cell in kept.cells)


def test_a_new_shard_is_the_only_one_embedded(demo_lake: DemoLake, without_ray: None) -> None:
    before = demo_lake.table("news").dataset.to_table(columns=["id", "vector"])
    arrived = pq.read_table(demo_lake.folder / "shards" / "news" / "news-00000.parquet").slice(0, 7)
    late = arrived.set_column(0, "id", [[f"late-{number}" for number in range(7)]])
    pq.write_table(late, demo_lake.folder / "shards" / "news" / "news-99999.parquet")
    said = run_demo(demo_lake.folder)
    assert "news: 7 rows" in said
    assert "glosses: all there" in said
    after = demo_lake.table("news").dataset.to_table(columns=["id", "vector"])
    assert after.num_rows == before.num_rows + 7
    np.testing.assert_array_equal(to_numpy(after["vector"])[: before.num_rows], to_numpy(before["vector"]))
