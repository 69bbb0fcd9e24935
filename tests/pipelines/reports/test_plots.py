"""Plots need matplotlib, which is an extra: what is missing is named before a long job begins."""

from __future__ import annotations

import sys

import pytest

from jobs.__main__ import main
from pipelines.reports.plots import Curve, Plot, check_plots
from schemas.errors import DependencyMissing

PLOT = Plot("recall", "by dims", [Curve("a", [8, 64], [0.5, 0.9])])


def test_a_plot_is_one_svg_element() -> None:
    check_plots()
    assert PLOT.svg.startswith("<svg")
    assert PLOT.svg.rstrip().endswith("</svg>")


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for call in (check_plots, lambda: PLOT.svg):
        with pytest.raises(DependencyMissing, match=r"matryoshka-lake\[report\]"):
            call()


def test_a_job_that_ends_in_plots_is_refused_at_its_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["shortlist", "jobs/configs/shortlist.toml", "--set", "table=missing.lance", "--plot", "x.svg"]) == 2
    assert "matryoshka-lake[report]" in " ".join(capsys.readouterr().err.split())
