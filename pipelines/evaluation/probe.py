"""A linear probe: multinomial logistic regression on prefixes.

Owns the fit. Does not own metrics. Rows are centred and divided by one number, the root mean square deviation over all
columns, so that one penalty and one step size fit every dim. The fit does not change when all rows are rotated: a
penalty on columns of their own scales would blow up the columns that hold only noise, as the late ones of a rotation
do.

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

_MAX_STEPS = 200


@dataclass(frozen=True, eq=False)
class Probe:
    """A fitted linear classifier of vectors as they are.

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
    penalty: float = 1e-3,
    *,
    device: str = "auto",
    rows_at_once: int = 1 << 16,
) -> Probe:
    """Fit by L-BFGS: minimise the mean cross-entropy over all rows plus `penalty` / 2 times the squared weights.

    Args:
        x_NM: float32 rows.
        labels_N: Class of each row, 0 to C-1.
        classes: C; a class without rows is never predicted.
        penalty: Weight of the L2 penalty, for rows scaled as above.
        device: Torch device of the fit; `auto` is a GPU if there is one.
        rows_at_once: Rows of one matrix product; bounds the memory.

    Source: L-BFGS with strong Wolfe line search, Nocedal and Wright 2006, algorithms 7.5 and 3.5.
    """
    place = pick_device(device)
    mean_M = x_NM.mean(axis=0, dtype=np.float64)
    centred_NM = x_NM - mean_M.astype(np.float32)
    spread = float(np.sqrt(np.square(centred_NM, dtype=np.float64).mean())) if centred_NM.size else 0.0
    scale = 1 / spread if spread > 0 else 0.0
    x, y = torch.from_numpy(centred_NM * np.float32(scale)).to(place), torch.from_numpy(labels_N).to(place)
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
    weight_CM = weight.cpu().numpy() * np.float32(scale)
    return Probe(weight_CM, (bias.cpu().numpy() - weight_CM @ mean_M).astype(np.float32))
