"""Plots have readable axes; matplotlib is imported late, and is named before a long job begins where it is missing."""

from __future__ import annotations

import re
import subprocess
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


def test_an_axis_labels_the_full_width_and_no_dim_that_would_touch_it() -> None:
    svg = str(Plot("By dims", "", [Curve("rotated", (8, 64, 1024, 1280), (0.1, 0.5, 0.9, 1.0))]).svg)
    assert svg.startswith("<svg")
    ticks = re.findall(r">(\d+)</text>", svg)
    assert {"8", "64", "1280"} <= set(ticks)
    assert "1024" not in ticks


def test_an_axis_of_costs_labels_round_numbers() -> None:
    curves = [
        Curve("banded", (0.2, 3.0, 40.0), (0.5, 0.6, 0.7), True, ((0.4, 0.5, 0.6), (0.6, 0.7, 0.8))),
        Curve("scattered", (0.3, 5.5), (0.55, 0.65), has_line=False),
    ]
    cost = str(Plot("By cost", "", curves, axis="MFLOPs a query", base=10, floor=None).svg)
    assert "MFLOPs a query" in cost
    assert {">0.2<", ">1<", ">5<", ">20<"} <= set(re.findall(r">[0-9.]+<", cost))


def test_an_axis_of_expected_dims_labels_whole_numbers() -> None:
    expected = str(Plot("", "", [Curve("cascade", (8, 12, 21.7, 64), (0.1, 0.2, 0.3, 0.4))]).svg)
    assert ">64<" in expected
    assert ">21.7<" not in expected


def test_matplotlib_is_imported_only_when_a_plot_is_drawn() -> None:
    code = "import sys, pipelines.reports.page; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
