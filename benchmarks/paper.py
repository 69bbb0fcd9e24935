"""The claims of Matryoshka representation learning, reproduced in kind on Fashion-MNIST.

    python -m benchmarks.paper               # ResNet and ViT, 3 seeds: under an hour on 2 cores
    python -m benchmarks.paper --small       # 1 seed, fewer dims, images and epochs: a few minutes
    python -m benchmarks.paper --only ViT --seeds 5

Trains MRL, MRL-E and fixed-feature models (FF) of one architecture after another, tests each claim of Kusupati et al.
2022 (arXiv 2205.13147) that ten classes allow, and writes <folder>/results.json and report.html. Every trained model is
kept in <folder>/cells, so the same command resumes. Intervals are Student's, 95 %, over seeds.

    apt-get install dataset-fashion-mnist
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.data import fashion_mnist
from benchmarks.paper_cells import (
    Architecture,
    Cell,
    architectures,
    cells_of,
    is_trained,
    read_cell,
    step_ratio,
    train_cell,
)
from benchmarks.paper_claims import Claim, claims_of, over_seeds
from benchmarks.paper_measure import K, Models, measure_models
from pipelines.reports.page import Grid, Part, Report, Section, write_report
from pipelines.reports.plots import Curve, Plot
from schemas.errors import InputError

IMAGES, SMALL_IMAGES = 60_000, 12_000
_SHOWN = ("MRL", "MRL-E", "FF", "truncated FF", "SVD of FF", "random dims of FF")
_BASELINES = _SHOWN[3:]
_COLOUR = {"holds": "green", "holds on average": "yellow", "does not hold": "red", "measured": "cyan"}


def train_all(cells: Sequence[Cell], folder: Path, workers: int, console: Console) -> None:
    """Train the models that the folder lacks, and print a line for each."""
    todo = [cell for cell in cells if not is_trained(cell, folder)]
    console.print(f"{len(cells)} models, {len(todo)} to train, {workers} at a time")
    began, (_, labels_Q) = time.monotonic(), fashion_mnist("t10k")
    # Two models on one thread each finish sooner than one after the other on two threads.
    processes = ProcessPoolExecutor(workers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,))
    try:
        running = {processes.submit(train_cell, cell, folder): cell for cell in todo}
        for number, done in enumerate(as_completed(running), 1):
            done.result()
            trained = read_cell(running[done], folder)
            left_s = (time.monotonic() - began) / number * (len(todo) - number)
            shown = " ".join(f"{100 * one:.1f}" for one in trained.right_by_dim(labels_Q).mean(axis=1))
            console.print(
                f"{number}/{len(todo)} {trained.cell.name}: {shown} % in {trained.seconds:.0f} s; "
                f"{left_s / 60:.0f} min left"
            )
    finally:
        processes.shutdown(cancel_futures=True)


def models_of(architecture: Architecture, seed: int, images: int, folder: Path) -> Models:
    """Read the trained models of an architecture and a seed."""
    trained = [read_cell(cell, folder) for cell in cells_of(architecture, seed, images)]
    nested, tied, *fixed = trained
    return Models(architecture, seed, nested, tied, {one.cell.dims[-1]: one for one in fixed})


def build_report(
    runs: Mapping[Architecture, Sequence[dict[str, Any]]], claims: Mapping[str, Sequence[Claim]]
) -> Report:
    """Compose the page: the claims, and the paper's plots."""
    rows = [(name, one.text, one.here, one.paper, one.outcome) for name, ones in claims.items() for one in ones]
    sections = [
        Section(
            "The claims",
            "Each claim is a margin over seeds. It holds when the whole 95 % interval does, holds on average when only "
            "the mean does. The paper's numbers are of ImageNet-1K with a ResNet50; the ones here of Fashion-MNIST.",
            [Grid(["", "claim", "here", "paper", "outcome"], rows, is_prose=True)],
        )
    ]
    sections += [_section(architecture, some) for architecture, some in runs.items()]
    seeds = max(len(some) for some in runs.values())
    return Report(
        title="Matryoshka representation learning, in kind",
        subtitle=f"MRL, MRL-E and separately trained models on Fashion-MNIST: {seeds} seeds, on this machine.",
        sections=sections,
        footer="Pictures: Fashion-MNIST, MIT. Made by `make bench-paper`.",
    )


def by_dim(runs: Sequence[dict[str, Any]], metric: str, system: str) -> dict[int, list[float]]:
    """Return what each seed measured, by dim."""
    found = [run["by_dim"][metric].get(system, {}) for run in runs]
    return {dim: [one[dim] for one in found] for dim in sorted(found[0])}


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure, print the claims, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="1 seed, fewer dims, images and epochs")
    parser.add_argument("--seeds", type=int, help="default 3, or 1 with --small")
    parser.add_argument("--only", choices=("ResNet", "ViT"))
    parser.add_argument("--folder", type=Path, default=Path("lake/paper"))
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="models trained at a time")
    args = parser.parse_args(argv)
    console = Console(highlight=False, soft_wrap=True)
    began = time.monotonic()
    try:
        fashion_mnist("t10k")
    except InputError as error:
        Console(stderr=True).print(f"error: {error}", highlight=False, soft_wrap=True)
        return 2
    images, seeds = (SMALL_IMAGES, 1) if args.small else (IMAGES, 3)
    seeds = args.seeds or seeds
    chosen = [one for one in architectures(small=args.small) if args.only in (None, one.name)]
    cells = [cell for one in chosen for seed in range(seeds) for cell in cells_of(one, seed, images)]
    train_all(cells, args.folder / "cells", args.workers, console)
    runs, claims, ratios = {}, {}, {}
    for one in chosen:
        ratios[one.name] = step_ratio(one)
        runs[one] = [_measure(one, seed, images, args.folder, console) for seed in range(seeds)]
        claims[one.name] = claims_of(one, runs[one], ratios[one.name])
    _print(claims, runs, console)
    results = {
        "images": images,
        "seeds": seeds,
        "architectures": [asdict(one) | {"optimiser": one.optimiser.model_dump()} for one in chosen],
        "step_ratio": ratios,
        "claims": {name: [asdict(one) for one in ones] for name, ones in claims.items()},
        "runs": {one.name: some for one, some in runs.items()},
    }
    written = args.folder / "results.json"
    written.write_bytes(orjson.dumps(results, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_INDENT_2))
    write_report(build_report(runs, claims), args.folder / "report.html")
    console.print(f"{written} and report.html, after {(time.monotonic() - began) / 60:.1f} minutes")
    return 0


def _measure(architecture: Architecture, seed: int, images: int, folder: Path, console: Console) -> dict[str, Any]:
    found = measure_models(models_of(architecture, seed, images, folder / "cells"), folder / "measured")
    console.print(f"measured {architecture.name}, seed {seed}, in {found['measured_s']:.0f} s")
    return found


def _print(
    claims: Mapping[str, Sequence[Claim]], runs: Mapping[Architecture, Sequence[dict[str, Any]]], console: Console
) -> None:
    for one, some in runs.items():
        for metric in ("linear", "1-NN", f"mAP@{K}"):
            grid = Table("", *map(str, one.dims), title=f"{one.name}: {metric}, %, mean over seeds: {len(some)}")
            for system in _SHOWN:
                values = by_dim(some, metric, system)
                grid.add_row(system, *(f"{100 * np.mean(values[d]):.2f}" if d in values else "" for d in one.dims))
            console.print(grid)
    for name, ones in claims.items():
        console.print(f"[bold]{name}[/]: the paper's claims on Fashion-MNIST, intervals over seeds")
        for claim in ones:
            console.print(
                f"  [{_COLOUR[claim.outcome]}]{claim.outcome:>16}[/]  {claim.text}: {claim.here}; paper: {claim.paper}"
            )


def _section(architecture: Architecture, runs: Sequence[dict[str, Any]]) -> Section:
    parts: list[Part] = [
        Plot(title, caption, list(_curves(runs, metric)), floor=None)
        for metric, title, caption in (
            ("linear", "Linear top-1 by dims", "Each model's own heads; baselines by a linear probe of FF's features."),
            ("1-NN", "1-NN top-1 by dims", "MRL also between the dims it was trained at."),
            (f"mAP@{K}", f"mAP@{K} by dims", "Database: the training images; queries: the test images."),
        )
    ]
    parts += [_cascade_plot(architecture, runs), _search_plot(runs)]
    text = (
        f"Trained at {', '.join(map(str, architecture.dims))} dims, {architecture.epochs} epochs; bands are over seeds."
    )
    return Section(architecture.name, text, parts)


def _curves(runs: Sequence[dict[str, Any]], metric: str) -> Iterable[Curve]:
    for system in _SHOWN:
        values = by_dim(runs, metric, system)
        drawn = [over_seeds(some) for some in values.values()]
        bounds = [one.low for one in drawn], [one.high for one in drawn]
        yield Curve(system, list(values), [one.mean for one in drawn], system in _BASELINES, bounds)


def _cascade_plot(architecture: Architecture, runs: Sequence[dict[str, Any]]) -> Plot:
    curves = []
    for seed, run in enumerate(runs):
        points = sorted(run["cascade"]["points"], key=lambda point: point["dims"])
        curves.append(Curve(f"cascade, seed {seed}", [p["dims"] for p in points], [p["accuracy"] for p in points]))
    alone = [over_seeds([run["cascade"]["alone"][dim] for run in runs]) for dim in architecture.dims]
    curves.append(Curve("one head alone", architecture.dims, [one.mean for one in alone], is_dashed=True))
    caption = "Thresholds learnt on 2,000 test images, tested on the other 8,000."
    return Plot("Adaptive classification", caption, curves, axis="expected dims", floor=None)


def _search_plot(runs: Sequence[dict[str, Any]]) -> Plot:
    curves = []
    for kind in dict.fromkeys(one["kind"] for one in runs[0]["searches"]):
        places = [at for at, one in enumerate(runs[0]["searches"]) if one["kind"] == kind]
        places.sort(key=lambda at: runs[0]["searches"][at]["mflops"])
        values = [float(np.mean([run["searches"][at][f"mAP@{K}"] for run in runs])) for at in places]
        mflops = [runs[0]["searches"][at]["mflops"] for at in places]
        curves.append(Curve(kind, mflops, values, has_line=kind == "single shot"))
    caption = "Adaptive: a shortlist of 200 ranked again at full width; funnel: 200 → 100 → 50 → 25 → 10."
    return Plot(f"mAP@{K} by MFLOPs", caption, curves, axis="MFLOPs a query", base=10, floor=None)


if __name__ == "__main__":
    sys.exit(main())
