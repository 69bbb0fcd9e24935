"""The report of an evaluation: numbers in metrics.json, plots and tables on the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.evaluation.results import Results
from pipelines.reports.evaluation import write_results
from pipelines.reports.terminal import print_results
from tests.support.labelled_tables import evaluate_systems


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return evaluate_systems(tmp_path_factory.mktemp("lake"))


def test_the_page_shows_plots_cascade_and_retrieval(results: Results, tmp_path: Path) -> None:
    metrics, report = write_results(results, tmp_path)
    assert len(json.loads(metrics.read_text())["rows"]) == len(results.rows)
    page = report.read_text()
    for words in (
        "linear by dims",
        "Adaptive classification",
        "mAP@10 by MFLOPs",
        "With fewer examples",
        "expected dims",
    ):
        assert words in page
    assert page.count("<svg") == 4 + 1 + 2


def test_the_terminal_names_systems_metrics_and_savings(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    print_results(results, Console(width=200))
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "mAP@10",
        "FF pca",
        "200 queries over 600 rows",
        "Adaptive classification reaches",
        "times fewer FLOPs",
    ):
        assert words in said
