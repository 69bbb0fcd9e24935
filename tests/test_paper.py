"""The benchmark of the paper: intervals decide its claims; its small version runs end to end and resumes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks import data, paper
from benchmarks.paper_claims import outcome, over_seeds
from pipelines.shortlist.bootstrap import Interval


def test_an_interval_over_seeds_is_that_of_student_s_t() -> None:
    values = [0.91, 0.93, 0.92]
    found = over_seeds(values)
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((0.92, low, high))
    alone = over_seeds([0.5])
    assert (alone.mean, np.isnan(alone.low)) == (0.5, True)


@pytest.mark.parametrize(
    ("margin", "is_ceiling", "wanted"),
    [
        (Interval(1, 0.5, 1.5), False, "holds"),
        (Interval(1, -0.5, 2.5), False, "holds on average"),
        (Interval(1, np.nan, np.nan), False, "holds on average"),
        (Interval(-1, -2, 3), False, "does not hold"),
        (Interval(-1, -2, -0.5), True, "holds"),
        (Interval(1, -2, 4), True, "does not hold"),
    ],
)
def test_a_claim_holds_when_its_whole_interval_does(margin: Interval, is_ceiling: bool, wanted: str) -> None:
    assert outcome(margin, 0.0, is_ceiling=is_ceiling) == wanted


def test_missing_pictures_are_an_error_that_names_their_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(paper, "fashion_mnist", partial(data.fashion_mnist, folder=tmp_path))
    assert paper.main(["--small", "--folder", str(tmp_path)]) == 2
    assert "apt-get install dataset-fashion-mnist" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not data.FASHION.exists(), reason="apt-get install dataset-fashion-mnist")
def test_the_small_version_judges_every_claim_and_trains_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert paper.main(["--small", "--folder", str(tmp_path)]) == 0
    assert "8 models, 8 to train" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["claims"]) == {"ResNet", "ViT"}
    for name, runs in results["runs"].items():
        linear = runs[0]["by_dim"]["linear"]
        assert linear["MRL"]["8"] > 0.5, name
        assert len(results["claims"][name]) >= 11
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 2 * 5
    assert paper.main(["--small", "--folder", str(tmp_path)]) == 0
    assert "8 models, 0 to train" in capsys.readouterr().out
