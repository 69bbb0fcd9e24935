"""The paper's claims, each with its number there, its number here, and whether it holds.

Owns the bounds; does not measure. A claim is a margin that must not be below its bound. It holds when the whole
interval over seeds is at or above the bound, holds on average when only the mean is (which is all that one seed can
show), and does not hold otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from benchmarks.paper_cells import Architecture
from benchmarks.paper_measure import COARSE
from pipelines.shortlist.bootstrap import Interval

Runs = Sequence[dict[str, Any]]
"""Measurements, one entry per seed."""


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        text: What is claimed.
        paper: What the paper measured.
        here: What was measured here.
        outcome: Whether it holds.
    """

    text: str
    paper: str
    here: str
    outcome: str


def over_seeds(values: npt.ArrayLike, confidence: float = 0.95) -> Interval:
    """Return the mean of a few runs with Student's interval; of a single run, the value with bounds that are NaN."""
    runs = np.asarray(values, np.float64)
    mean = float(runs.mean())
    if len(runs) < 2:
        return Interval(mean, np.nan, np.nan)
    half = float(stats.t.ppf(0.5 + confidence / 2, len(runs) - 1) * runs.std(ddof=1) / np.sqrt(len(runs)))
    return Interval(mean, mean - half, mean + half)


def claims_of(architecture: Architecture, runs: Runs, ratios: tuple[float, float]) -> list[Claim]:
    """Test every claim for one architecture.

    Args:
        architecture: The architecture of the models.
        runs: One entry per seed.
        ratios: Step time of MRL and of MRL-E over that of FF.
    """
    return [*_trained(architecture, runs), *_baselines(architecture, runs), *_adaptive(architecture, runs, ratios)]


def _trained(architecture: Architecture, runs: Runs) -> list[Claim]:
    shared = [dim for dim in architecture.dims if dim in architecture.fixed_dims]
    low, rest = shared[0], [dim for dim in shared if dim >= 16]
    return [
        _worst("MRL within 0.5 points of FF at every dim ≥ 16, linear", "+0.68 at 16, -0.07 at 2048",
               runs, "linear", "MRL", "FF", rest, -0.5),
        _worst(f"MRL above FF at {low}, linear", "66.63 against 65.29", runs, "linear", "MRL", "FF", [low], 0.0),
        _worst(f"MRL above FF at {low}, 1-NN", "62.19 against 58.93", runs, "1-NN", "MRL", "FF", [low], 0.0),
        _worst("MRL-E within 1 point of FF from 32 up, linear", "-0.36 at 2048", runs, "linear", "MRL-E", "FF",
               [dim for dim in shared if dim >= 32], -1.0),
    ]  # fmt: skip


def _baselines(architecture: Architecture, runs: Runs) -> list[Claim]:
    dims, low = architecture.dims, architecture.dims[0]
    middles = [(below, (below + above) // 2, above) for below, above in pairwise(dims)]

    def dip(run: dict[str, Any], middle: tuple[int, int, int]) -> float:
        at = run["by_dim"]["1-NN"]["MRL"]
        return 100 * float(at[middle[1]] - min(at[middle[0]], at[middle[2]]))

    dips = {middle: over_seeds([dip(run, middle) for run in runs]) for middle in middles}
    where, worst = min(dips.items(), key=lambda item: item[1].mean)
    return [
        _worst(f"truncated FF far below MRL at {low}, 1-NN", "2.36 against 62.19", runs, "1-NN", "MRL", "truncated FF",
               [low], 10.0),
        _worst(f"SVD of FF far below MRL at {low}, linear", "2.34 against 66.63", runs, "linear", "MRL", "SVD of FF",
               [low], 10.0),
        _worst(f"random dims of FF far below MRL at {low}, linear", "4.56 against 66.63", runs, "linear", "MRL",
               "random dims of FF", [low], 10.0),
        Claim("dims between trained ones no worse than their neighbours (by 0.2 points), 1-NN", "as in its figure 5",
              f"{_points(worst)} at {where[1]}", outcome(worst, -0.2)),
    ]  # fmt: skip


def _adaptive(architecture: Architecture, runs: Runs, ratios: tuple[float, float]) -> list[Claim]:
    width = architecture.width
    chosen = [next(p for p in run["cascade"]["points"] if p["is_chosen"]) for run in runs]
    gap = over_seeds(
        [100 * (p["accuracy"] - run["cascade"]["alone"][width]) for p, run in zip(chosen, runs, strict=True)]
    )
    factor = over_seeds([width / p["dims"] for p in chosen])
    anew = over_seeds([width / p["cumulative"] for p in chosen])
    coarse = COARSE if COARSE in architecture.dims else architecture.dims[0]
    full = [_search(run, lambda s: s["kind"] == "single shot" and s["dims"] == [width]) for run in runs]
    pair = [_search(run, lambda s: s["dims"] == [coarse, width]) for run in runs]
    claims = [
        Claim("adaptive classification: full accuracy (less 0.1 points at most)", "76.30 at 37 dims, as FF-512",
              f"{_points(gap)}", outcome(gap, -0.1)),
        Claim("  … at an expected dim several (4) times smaller", "14 times",
              f"{_times(factor)}, dims of all stages counted {_times(anew)}", outcome(factor, 4.0)),
        _kept(f"adaptive retrieval {coarse} → {width}: mAP@10 of full width (less 0.1 points)", "65.27 against 65.20",
              "mAP@10", pair, full, -0.1),
        Claim("  … MFLOPs and wall-clock of a single shot over its own", "128 and 14 times",
              f"{full[0]['mflops'] / pair[0]['mflops']:.1f} times, "
              f"{_times(over_seeds([f['milliseconds'] / p['milliseconds'] for f, p in zip(full, pair, strict=True)]))}",
              "measured"),
    ]  # fmt: skip
    funnels = [[s for s in run["searches"] if s["kind"] == "funnel" and s["dims"][0] == coarse] for run in runs]
    if all(funnels):
        claims.append(_kept(f"funnel retrieval from {coarse}: top-1 within 0.1 points", "within 0.1", "1-NN",
                            [one[0] for one in funnels], full, -0.1))  # fmt: skip
    step = Interval(ratios[0], ratios[0], ratios[0])
    claims.append(Claim("a step of MRL takes at most 1.05 of one of FF", "no extra cost",
                        f"{ratios[0]:.3f}; MRL-E {ratios[1]:.3f}", outcome(step, 1.05, is_ceiling=True)))  # fmt: skip
    return claims


def _worst(
    text: str, paper: str, runs: Runs, metric: str, system: str, against: str, dims: Sequence[int], bound: float
) -> Claim:
    """Compare two systems at the dim where the first does worst against the second, in points."""
    margins = {
        dim: over_seeds(
            [100 * (run["by_dim"][metric][system][dim] - run["by_dim"][metric][against][dim]) for run in runs]
        )
        for dim in dims
    }
    dim, worst = min(margins.items(), key=lambda item: item[1].mean)
    means = (100 * float(np.mean([run["by_dim"][metric][name][dim] for run in runs])) for name in (system, against))
    ours, theirs = means
    return Claim(text, paper, f"{_points(worst)} at {dim}: {ours:.2f} against {theirs:.2f}", outcome(worst, bound))


def _kept(
    text: str, paper: str, metric: str, ours: Sequence[dict[str, Any]], full: Sequence[dict[str, Any]], bound: float
) -> Claim:
    gap = over_seeds([100 * (one[metric] - whole[metric]) for one, whole in zip(ours, full, strict=True)])
    means = [100 * float(np.mean([one[metric] for one in some])) for some in (ours, full)]
    return Claim(text, paper, f"{_points(gap)}: {means[0]:.2f} against {means[1]:.2f}", outcome(gap, bound))


def _search(run: dict[str, Any], is_wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in run["searches"] if is_wanted(one))
    return found


def outcome(margin: Interval, bound: float, *, is_ceiling: bool = False) -> str:
    """Return whether a claim holds: by its whole interval, only by its mean, or not at all."""
    low, mean = (-margin.high, -margin.mean) if is_ceiling else (margin.low, margin.mean)
    bound = -bound if is_ceiling else bound
    if low >= bound:
        return "holds"
    return "holds on average" if mean >= bound else "does not hold"


def _points(margin: Interval) -> str:
    return f"{margin.mean:+.2f} points" + (
        "" if np.isnan(margin.low) else f" ({margin.low:+.2f} to {margin.high:+.2f})"
    )


def _times(factor: Interval) -> str:
    return f"{factor.mean:.1f} times" + ("" if np.isnan(factor.low) else f" ({factor.low:.1f} to {factor.high:.1f})")
