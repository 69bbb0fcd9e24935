"""Every number of metrics.json against one made of the stored vectors with numpy and scikit-learn alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lance
import numpy as np
import numpy.typing as npt
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from pipelines.evaluation.results import Results
from pipelines.reports.evaluation import metrics_file

Rows = npt.NDArray[np.float64]
Sides = tuple[Rows, Rows]
Scores = dict[str, Rows]
PENALTY = 1e-3
# A probe is fitted by another method, so a query on the border may get another class.
BORDER = 0.011


def unit(x_NM: Rows) -> Rows:
    found: Rows = x_NM / np.linalg.norm(x_NM, axis=1, keepdims=True)
    return found


class Independent:
    """The tables of the test, and what can be measured on them."""

    def __init__(self, results: Results) -> None:
        self.config = results.config
        nested, fixed = results.config.systems
        (x_ND, self.y_N), (q_QD, self.z_Q) = self._read(nested.database), self._read(nested.queries)
        self.sides: dict[tuple[str, int], Sides] = {
            (nested.name, dim): (unit(x_ND[:, :dim]), unit(q_QD[:, :dim])) for dim in (4, 6, 8, 12, 16)
        }
        for dim in fixed.dims:
            own = [self._read(str(uri).format(dim=dim))[0] for uri in (fixed.database, fixed.queries)]
            self.sides[fixed.name, dim] = (unit(own[0]), unit(own[1]))
        full_ND, full_QD = self.sides[fixed.name, max(fixed.dims)]
        width = full_ND.shape[1]
        maps = {
            "truncated": np.eye(width),
            "pca": PCA(width).fit(full_ND).components_,
            "random-columns": np.eye(width)[np.random.default_rng(0).permutation(width)],
        }
        for kind, matrix in maps.items():
            for dim in fixed.dims:
                cut = (unit((side @ matrix.T)[:, :dim]) for side in (full_ND, full_QD))
                self.sides[f"{fixed.name} {kind}", dim] = (next(cut), next(cut))

    @staticmethod
    def _read(uri: str | None) -> tuple[Rows, npt.NDArray[np.int64]]:
        rows = lance.dataset(uri).to_table().sort_by("id")
        labels = [int(label.split()[1]) for label in rows["label"].to_pylist()]
        return np.array(rows["vector"].to_pylist(), np.float64), np.array(labels)

    def neighbours(self, key: tuple[str, int], rows: npt.NDArray[np.int64] | None = None) -> Scores:
        """1-NN, mAP@10 and recall@3 of each query."""
        (x_NM, q_QM), y_N = self.sides[key], self.y_N
        if rows is not None:
            x_NM, y_N = x_NM[rows], y_N[rows]
        right_QK = y_N[np.argsort(-(q_QM @ x_NM.T), axis=1, kind="stable")] == self.z_Q[:, None]
        precision = [[right[: at + 1].mean() * right[at] for at in range(min(10, len(right)))] for right in right_QK]
        return {
            "1-NN": right_QK[:, 0] * 1.0,
            "mAP@10": np.sum(precision, axis=1) / 10,
            "recall@3": right_QK[:, :3].any(axis=1) * 1.0,
        }

    def probabilities(self, key: tuple[str, int], rows: npt.NDArray[np.int64] | None = None) -> Rows:
        """The softmax of a linear probe for each query."""
        (x_NM, q_QM), y_N = self.sides[key], self.y_N
        if rows is not None:
            x_NM, y_N = x_NM[rows], y_N[rows]
        mean_M = x_NM.mean(axis=0)
        scale = np.sqrt(np.square(x_NM - mean_M).mean())
        probe = LogisticRegression(C=1 / (len(x_NM) * PENALTY), max_iter=2_000).fit((x_NM - mean_M) / scale, y_N)
        found: Rows = probe.predict_proba((q_QM - mean_M) / scale)
        return found

    def scores(self, key: tuple[str, int], rows: npt.NDArray[np.int64] | None = None) -> Scores:
        return self.neighbours(key, rows) | {"linear": (self.probabilities(key, rows).argmax(axis=1) == self.z_Q) * 1.0}

    def few_shot(self, seed: int, shots: int) -> npt.NDArray[np.int64]:
        rng = np.random.default_rng(seed)
        return np.sort(np.concatenate([rng.permutation(np.flatnonzero(self.y_N == one))[:shots] for one in range(4)]))

    def long_tail(self, seed: int, imbalance: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        rng = np.random.default_rng(seed)
        order_C, most = rng.permutation(4), np.bincount(self.y_N).min()
        sizes_C = [max(1, round(most * imbalance ** -(place / 3))) for place in range(4)]
        drawn = [
            rng.permutation(np.flatnonzero(self.y_N == one))[:size] for one, size in zip(order_C, sizes_C, strict=True)
        ]
        return np.sort(np.concatenate(drawn)), order_C

    def rows(self) -> Iterator[tuple[tuple[str, int, str], Rows]]:
        """The score of each query for every row of metrics.json; NaN where it does not count."""
        measure = self.config.measure
        for key in self.sides:
            yield from (((*key, metric), scores_Q) for metric, scores_Q in self.scores(key).items())
            drawn = [self.scores(key, self.few_shot(seed, 2)) for seed in range(measure.repeats)]
            for metric in ("1-NN", "linear"):
                yield (*key, f"{metric}, 2-shot"), np.mean([scores[metric] for scores in drawn], axis=0)
            tails = [self.long_tail(seed, measure.imbalance or 0) for seed in range(measure.repeats)]
            drawn = [self.scores(key, rows) for rows, _ in tails]
            for metric in ("1-NN", "linear"):
                scores_TQ = np.stack([scores[metric] for scores in drawn])
                yield (*key, f"{metric}, long tail"), scores_TQ.mean(axis=0)
                for name, place in (("head", 0), ("tail", -1)):
                    counts_TQ = np.stack([self.z_Q == order_C[place] for _, order_C in tails])
                    with np.errstate(invalid="ignore"):
                        yield (*key, f"{metric}, {name}"), (scores_TQ * counts_TQ).sum(axis=0) / counts_TQ.sum(axis=0)


@pytest.fixture(scope="module")
def stored(results: Results) -> Any:
    return metrics_file(results).model_dump()


@pytest.fixture(scope="module")
def independent(results: Results) -> Independent:
    return Independent(results)


def bounds(scores_Q: Rows, draws: int = 500) -> tuple[float, float]:
    """The percentile interval of a bootstrap of its own."""
    rng, known_Q = np.random.default_rng(9), scores_Q[~np.isnan(scores_Q)]
    means = known_Q[rng.integers(len(known_Q), size=(draws, len(known_Q)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def check(record: Any, scores_Q: Rows, of: object, near: float, edge: float = 0.025) -> None:
    assert record["mean"] == pytest.approx(np.nanmean(scores_Q), abs=near), of
    assert (record["low"], record["high"]) == pytest.approx(bounds(scores_Q), abs=near + edge), of


def test_every_number_by_dim_is_one_of_numpy_and_scikit_learn(stored: Any, independent: Independent) -> None:
    theirs = dict(independent.rows())
    assert {(row["system"], row["dim"], row["metric"]) for row in stored["rows"]} == theirs.keys()
    for row in stored["rows"]:
        key = row["system"], row["dim"], row["metric"]
        near = BORDER if "linear" in key[2] else 1e-4  # near ties are in another order in float32
        check(row["value"], theirs[key], key, near)
        if row["above"] is not None:
            check(row["above"], theirs[key] - theirs[("MRL", *key[1:])], (*key, "above"), 2 * near, edge=0.04)


def test_a_cascade_answers_as_its_thresholds_say(stored: Any, independent: Independent) -> None:
    adaptive, dims = stored["adaptive"], (4, 8, 16)
    probabilities = [independent.probabilities(("MRL", dim)) for dim in dims]
    confidence_GQ = np.stack([each.max(axis=1) for each in probabilities])
    right_GQ = np.stack([each.argmax(axis=1) == independent.z_Q for each in probabilities])
    order_Q = np.random.default_rng(0).permutation(200)
    held_Q, test_Q = order_Q[:60], order_Q[60:]
    assert (adaptive["dims"], adaptive["held_out"], adaptive["queries"]) == (dims, 60, 140)
    for alone, right_Q in zip(adaptive["alone"], right_GQ, strict=True):
        check(alone, right_Q[test_Q] * 1.0, "alone", BORDER)
    cheapest: dict[int, float] = {}
    for number, point in enumerate(adaptive["points"]):
        sure_GQ = confidence_GQ[:-1] >= np.array(point["thresholds"])[:, None]
        stage_Q = np.where(sure_GQ[0], 0, np.where(sure_GQ[1], 1, 2))
        right_Q, dims_Q = right_GQ[stage_Q, np.arange(200)] * 1.0, np.array(dims)[stage_Q] * 1.0
        check(point["accuracy"], right_Q[test_Q], number, BORDER)
        check(point["above_full"], (right_Q - right_GQ[-1])[test_Q], number, BORDER)
        check(point["dims"], dims_Q[test_Q], number, 0.2, edge=0.3)
        check(point["cumulative"], np.cumsum(dims)[stage_Q][test_Q] * 1.0, number, 0.4, edge=0.5)
        if right_Q[held_Q].mean() >= right_GQ[-1][held_Q].mean():
            cheapest[number] = float(dims_Q[held_Q].mean())
    assert adaptive["chosen"] == min(cheapest, key=lambda number: cheapest[number])


def test_every_search_finds_and_costs_what_its_stages_do(stored: Any, independent: Independent) -> None:
    x_ND, q_QD = independent.sides["MRL", 16]
    found_of = {}
    for search in stored["searches"]:
        dims, keeps = search["setting"]["dims"], search["setting"]["keeps"]
        found = []
        for query_D in q_QD:
            rows = np.arange(len(x_ND))
            for dim, keep in zip(dims, keeps, strict=True):
                scores = unit(x_ND[rows, :dim]) @ query_D[:dim]
                rows = rows[np.argsort(-scores, kind="stable")[:keep]]
            found.append(rows)
        compared = [len(x_ND), *keeps[:-1]]
        assert search["mflops"] == pytest.approx(sum(n * dim for n, dim in zip(compared, dims, strict=True)) / 1e6)
        right_QK = independent.y_N[np.stack(found)] == independent.z_Q[:, None]
        precision_QK = np.cumsum(right_QK, axis=1) / np.arange(1, right_QK.shape[1] + 1) * right_QK
        found_of[dims] = {"1-NN": right_QK[:, 0] * 1.0, "mAP@10": precision_QK.sum(axis=1) / 10}
        for metric, scores_Q in found_of[dims].items():
            check(search["values"][metric], scores_Q, (dims, metric), 0.006)  # near ties are stored in half precision
    for search in stored["searches"]:
        for metric, scores_Q in found_of[search["setting"]["dims"]].items():
            check(search["above_full"][metric], scores_Q - found_of[(16,)][metric], search["setting"], 0.006)
