"""Train a head: read the frozen vectors, fit, validate, and save the folder that `mlake embed` loads.

A cheap way to a ladder for any encoder, or to a joint space of two encoders. Owns the order of these steps.

Shapes: N rows, T width of the frozen vectors, D width of the head, Q rows of the validation split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipelines.encoders.checkpoints import save_head
from pipelines.encoders.of_space import config_of
from pipelines.encoders.registry import describe_tower
from pipelines.evaluation import hits_by_dim, neighbours
from pipelines.evaluation.knn import recall_of
from pipelines.training.data import Arrays, add_noise
from pipelines.training.head_data import Floats, HeadData, read_head_data, table_modality
from pipelines.training.heads import LabelHead, PairHead, SimilarityHead, Stack
from pipelines.training.history import Watch
from pipelines.training.loop import fit
from pipelines.vectors.rotation import fit_pca
from schemas.checkpoints import HeadFile, HeadMeasurements
from schemas.config import EncoderConfig
from schemas.config.training import TrainConfig

_K = 10
_MEASURED = "measured.json"
HeadTask = LabelHead | PairHead | SimilarityHead


@dataclass(frozen=True)
class TrainedHead:
    """A trained head and its quality on the validation split.

    Attributes:
        path: Its folder, for `encoder.path` of `mlake embed`.
        measure: Name of the metric.
        by_dim: The metric at each dim of the ladder; empty where the validation split is too small.
        beside: What `before` was measured on.
        before: The metric of the table's vectors, cut as they are; empty for a head from pairs.
        pca: The metric of these vectors after a PCA rotation that is fitted on the training rows; empty for a head from
            pairs, and where the table is rotated already.
        held_out: Rows of the validation split.
        is_stopped: Whether training was stopped before its end; there is no head yet.
    """

    path: Path
    measure: str = ""
    by_dim: dict[int, float] = field(default_factory=dict)
    beside: str = ""
    before: dict[int, float] = field(default_factory=dict)
    pca: dict[int, float] = field(default_factory=dict)
    held_out: int = 0
    is_stopped: bool = False

    def best_untrained(self, dim: int) -> float | None:
        """Return the better of the two measures without training at a dim; None where there is neither."""
        return max((by_dim[dim] for by_dim in (self.before, self.pca) if dim in by_dim), default=None)

    @property
    def idle_dims(self) -> tuple[int, ...]:
        """Dims at which the head is no better than the vectors without it."""
        return tuple(d for d, share in self.by_dim.items() if (plain := self.best_untrained(d)) and share <= plain)


def train_head(config: TrainConfig, watch: Watch = lambda report: False) -> TrainedHead:
    """Train a head on a table's vectors and save it in `<out>/encoder`.

    Args:
        config: The job's config.
        watch: Receives reports, and may stop the run.

    Raises:
        TableNotFound: There is no such table.
        FieldNotFound: The table has no such column.
        ConfigError: The settings do not fit the table.
    """
    data = read_head_data(config)
    torch.manual_seed(config.run.seed)
    task = _make_task(config, data)
    noise = add_noise(config.data.noise) if config.data.noise else None
    train = Arrays(_columns(data, ~data.is_held_out_N), seed=config.run.seed, augment=noise)
    valid = Arrays(_columns(data, data.is_held_out_N), shuffle=False) if data.is_held_out_N.any() else None
    history = fit(task, train, config, valid=valid, folder=Path(config.out), watch=watch)
    path = Path(config.out) / "encoder"
    if history.is_stopped:
        return TrainedHead(path, is_stopped=True)
    task.cpu()
    _save(config, data, task, path)
    trained = _validate(TrainedHead(path), config.loss.dims, data, task, config.run.device)
    measured = HeadMeasurements.model_validate(asdict(trained) | {"path": str(path)})
    (Path(config.out) / _MEASURED).write_text(measured.to_json())
    return trained


def read_trained(out: Path) -> TrainedHead | None:
    """Return the head that was trained into a folder, or None.

    Raises:
        ConfigError: Its measurements are of a newer format, or malformed.
    """
    if not (out / _MEASURED).exists():
        return None
    measured = HeadMeasurements.from_file(out / _MEASURED)
    return TrainedHead(**{**measured.model_dump(), "path": out / "encoder"})


def _make_task(config: TrainConfig, data: HeadData) -> HeadTask:
    loss, hidden = config.loss, config.model.hidden
    width = data.vectors_NT.shape[1]
    stack = Stack((width, *hidden, loss.dims[-1]))
    if data.captions_NT is not None:
        return PairHead(stack, Stack((data.captions_NT.shape[1], *hidden, loss.dims[-1])), loss)
    if data.labels_N is not None:
        return LabelHead(stack, loss, int(data.labels_N.max()) + 1)
    if not hidden and loss.dims[-1] <= width:
        is_rotated = data.table.rotation is not None
        _start_as(stack, np.eye(width, dtype=np.float32) if is_rotated else _pca_of_training_rows(data))
    return SimilarityHead(stack, loss)


def _pca_of_training_rows(data: HeadData) -> Floats:
    return fit_pca([data.vectors_NT[~data.is_held_out_N]]).matrix_DD


@torch.no_grad()
def _start_as(stack: Stack, rotation_TT: Floats) -> None:
    """Initialise a linear head with the first rows of a rotation."""
    linear = stack.linears[0]
    linear.weight.copy_(torch.tensor(rotation_TT[: len(linear.weight)]))
    linear.bias.zero_()


def _columns(data: HeadData, chosen_N: npt.NDArray[np.bool_]) -> tuple[Tensor, ...]:
    columns = (data.vectors_NT, data.labels_N, data.captions_NT)
    return tuple(torch.from_numpy(column[chosen_N]) for column in columns if column is not None)


def _save(config: TrainConfig, data: HeadData, task: HeadTask, path: Path) -> None:
    own, modality = config_of(data.table.space, data.table.trust), table_modality(data.table)
    towers, layers = {modality: describe_tower(own)}, {}
    if isinstance(task, PairHead):
        words = EncoderConfig(name=config.data.caption_encoder)
        towers["text"] = describe_tower(words)
        layers = {modality: task.left.layers(data.table.rotation), "text": task.right.layers()}
    else:
        layers = {modality: task.stack.layers(data.table.rotation)}
    save_head(path, HeadFile(dims=config.loss.dims, towers=towers), layers, data.split)


@torch.no_grad()
def _validate(trained: TrainedHead, dims: tuple[int, ...], data: HeadData, task: HeadTask, device: str) -> TrainedHead:
    """Measure a head on the validation split, and the frozen vectors without it as baselines."""
    held_N, width = data.is_held_out_N, data.vectors_NT.shape[1]
    trained = replace(trained, held_out=int(held_N.sum()))
    if trained.held_out <= _K:
        return trained
    if isinstance(task, PairHead):
        assert data.captions_NT is not None
        head_QD = task.left(torch.from_numpy(data.vectors_NT[held_N])).numpy()
        captions_QD = task.right(torch.from_numpy(data.captions_NT[held_N])).numpy()
        found = hits_by_dim(head_QD, captions_QD, np.arange(len(captions_QD)), dims, _K, device)
        return replace(trained, measure=f"words → row, R@{_K}", by_dim=dict(zip(dims, found, strict=True)))
    if isinstance(task, LabelHead):
        measure, score = "1-NN accuracy", partial(_accuracy, data, device)
    else:
        measure, score = f"recall@{_K} of the full vectors", partial(_recall, data, device)

    def by_dim(x_ND: Floats, most: int) -> dict[int, float]:
        asked = [dim for dim in dims if dim <= most]
        return dict(zip(asked, score(x_ND, asked), strict=True))

    pca: dict[int, float] = {}
    if data.table.rotation is None:
        pca = by_dim(data.vectors_NT @ _pca_of_training_rows(data)[: dims[-1]].T, width)
    return replace(
        trained,
        measure=measure,
        by_dim=by_dim(task.stack(torch.from_numpy(data.vectors_NT)).numpy(), dims[-1]),
        beside="the table's vectors, cut",
        before=by_dim(data.vectors_NT, width),
        pca=pca,
    )


def _recall(data: HeadData, device: str, x_ND: Floats, dims: Sequence[int]) -> list[float]:
    """Return, at each dim, the share of the nearest rows by full vectors that other vectors of theirs find."""
    held_N, whole_QT = data.is_held_out_N, data.vectors_NT[data.is_held_out_N]
    exact_QK = neighbours(whole_QT, whole_QT, whole_QT.shape[1], _K, skip_self=True, device=device)
    return recall_of(exact_QK, x_ND[held_N], x_ND[held_N], dims, skip_self=True, device=device)


def _accuracy(data: HeadData, device: str, x_ND: Floats, dims: Sequence[int]) -> list[float]:
    """Return the 1-NN accuracy at each dim: the validation split searches the training rows."""
    assert data.labels_N is not None
    held_N = data.is_held_out_N
    learnt_N, wanted_Q = data.labels_N[~held_N], data.labels_N[held_N]
    found = (neighbours(x_ND[~held_N], x_ND[held_N], dim, 1, device=device)[:, 0] for dim in dims)
    return [float((learnt_N[one_Q] == wanted_Q).mean()) for one_Q in found]
