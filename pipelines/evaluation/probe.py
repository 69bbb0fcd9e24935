"""A linear probe: multinomial logistic regression on prefixes.

Owns the fit. Does not own metrics. Columns are standardised first, so that one penalty and one step size fit every dim;
standardising is a linear map, so the probe stays linear.

Shapes: N rows, M dims, C classes, Q queries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from pipelines.storage.device import pick_device

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

_MAX_STEPS = 100


@dataclass(frozen=True, eq=False)
class Probe:
    """A fitted linear classifier of vectors that are not standardised.

    Attributes:
        weight_CM: float32.
        bias_C: float32.
    """

    weight_CM: Floats
    bias_C: Floats

    def probabilities(self, x_QM: Floats) -> Floats:
        """Return the (Q, C) softmax."""
        logits_QC = torch.from_numpy(x_QM @ self.weight_CM.T + self.bias_C)
        found: Floats = logits_QC.softmax(1).numpy()
        return found


def fit_probe(
    x_NM: Floats,
    labels_N: Rows,
    classes: int,
    penalty: float = 1e-4,
    *,
    device: str = "auto",
    rows_at_once: int = 1 << 16,
) -> Probe:
    """Fit by L-BFGS: minimise the mean cross-entropy over all rows plus `penalty` / 2 times the squared weights.

    Args:
        x_NM: float32 rows.
        labels_N: Class of each row, 0 to C-1.
        classes: C; a class without rows is never predicted.
        penalty: Weight of the L2 penalty on the standardised columns.
        device: Torch device of the fit; `auto` is a GPU if there is one.
        rows_at_once: Rows of one matrix product; bounds the memory.

    Source: L-BFGS with strong Wolfe line search, Nocedal and Wright 2006, algorithms 7.5 and 3.5.
    """
    place = pick_device(device)
    mean_M = x_NM.mean(axis=0)
    spread_M = x_NM.std(axis=0)
    # A constant column tells nothing about these rows, so it gets no weight for others.
    scale_M = np.divide(1, spread_M, out=np.zeros_like(spread_M), where=spread_M > 1e-6)
    x, y = torch.from_numpy((x_NM - mean_M) * scale_M).to(place), torch.from_numpy(labels_N).to(place)
    weight, bias = torch.zeros(classes, x.shape[1], device=place), torch.zeros(classes, device=place)
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=_MAX_STEPS, tolerance_grad=1e-6, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        total = penalty / 2 * weight.square().sum()
        weight.grad, bias.grad = penalty * weight, torch.zeros_like(bias)
        for start in range(0, len(x), rows_at_once):
            rows, wanted = x[start : start + rows_at_once], y[start : start + rows_at_once]
            log_share = (rows @ weight.T + bias).log_softmax(1)
            total = total + functional.nll_loss(log_share, wanted, reduction="sum") / len(x)
            residual = (log_share.exp() - functional.one_hot(wanted, classes)) / len(x)
            weight.grad += residual.T @ rows
            bias.grad += residual.sum(0)
        return total

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    weight_CM = weight.cpu().numpy() * scale_M
    return Probe(weight_CM, bias.cpu().numpy() - weight_CM @ mean_M)
