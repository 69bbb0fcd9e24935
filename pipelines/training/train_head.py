"""Training a head: read the frozen vectors, fit, measure on the rows held out, save what `jobs embed` loads.

The cheap way to an honest ladder for any encoder, or to a joint space of two. Owns the order of these steps.

Shapes: N rows, T width of the frozen vectors, D width of the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
import torch
from torch import Tensor

from pipelines.encoders.checkpoints import save_head
from pipelines.encoders.registry import describe_tower
from pipelines.evaluation import hits_by_dim, neighbours
from pipelines.training.data import Arrays, add_noise
from pipelines.training.frozen import Floats, Frozen, modality_of, read_frozen
from pipelines.training.heads import LabelHead, PairHead, SimilarityHead, Stack
from pipelines.training.loop import Watch, fit
from pipelines.vectors.rotation import fit_pca
from schemas.checkpoints import HeadFile
from schemas.config import EncoderConfig
from schemas.config.training import TrainConfig

_K = 10
_MEASURED = "measured.json"


@dataclass(frozen=True)
class Trained:
    """A head that was trained, and how good it is on the rows held out.

    Attributes:
        path: Its folder: `encoder.path` of `jobs embed`.
        measure: What `by_dim` is.
        by_dim: On the rows held out, at each dim of the ladder; empty where fewer than a dozen are.
        beside: What `before` is of.
        before: The same for what needs no training; empty for pairs.
        held_out: Rows held out.
        is_stopped: It was asked to stop before its end, and there is no head yet.
    """

    path: Path
    measure: str = ""
    by_dim: dict[int, float] = field(default_factory=dict)
    beside: str = ""
    before: dict[int, float] = field(default_factory=dict)
    held_out: int = 0
    is_stopped: bool = False


def train_head(config: TrainConfig, watch: Watch = lambda progress: False) -> Trained:
    """Train a head on a table's vectors and save it for `jobs embed` in `<out>/encoder`.

    Raises:
        TableNotFound: There is no such table.
        FieldNotFound: It has no such column.
        ConfigError: The settings do not fit it.
    """
    frozen = read_frozen(config)
    torch.manual_seed(config.run.seed)
    task = _make_task(config, frozen)
    noise = add_noise(config.data.noise) if config.data.noise else None
    learnt = Arrays(_columns(frozen, ~frozen.is_held_out_N), seed=config.run.seed, augment=noise)
    valid = Arrays(_columns(frozen, frozen.is_held_out_N), shuffle=False) if frozen.is_held_out_N.any() else None
    history = fit(task, learnt, config, valid=valid, folder=Path(config.out), watch=watch)
    path = Path(config.out) / "encoder"
    if history.is_stopped:
        return Trained(path, is_stopped=True)
    task.cpu()
    _save(config, frozen, task, path)
    trained = _judged(Trained(path), config.loss.dims, frozen, task)
    (Path(config.out) / _MEASURED).write_bytes(
        orjson.dumps(asdict(trained), default=str, option=orjson.OPT_NON_STR_KEYS)
    )
    return trained


def read_trained(out: Path) -> Trained | None:
    """Return the head that was trained into a folder, with its measurements, or None."""
    if not (out / _MEASURED).exists():
        return None
    said = orjson.loads((out / _MEASURED).read_bytes())
    by_dim, before = ({int(dim): share for dim, share in said[name].items()} for name in ("by_dim", "before"))
    return Trained(out / "encoder", said["measure"], by_dim, said["beside"], before, said["held_out"])


def _make_task(config: TrainConfig, frozen: Frozen) -> LabelHead | PairHead | SimilarityHead:
    loss, hidden = config.loss, config.model.hidden
    width = frozen.vectors_NT.shape[1]
    stack = Stack((width, *hidden, loss.dims[-1]))
    if frozen.captions_NT is not None:
        return PairHead(stack, Stack((frozen.captions_NT.shape[1], *hidden, loss.dims[-1])), loss)
    if frozen.labels_N is not None:
        return LabelHead(stack, loss, int(frozen.labels_N.max()) + 1)
    if not hidden and loss.dims[-1] <= width:
        _start_as(stack, _plain_axes(frozen))
    return SimilarityHead(stack, loss)


def _plain_axes(frozen: Frozen) -> Floats:
    """Return the rotation, rows by falling variance, that needs no training: the table's own, or PCA's."""
    if frozen.table.rotation is not None:
        return np.eye(frozen.vectors_NT.shape[1], dtype=np.float32)
    return fit_pca([frozen.vectors_NT[~frozen.is_held_out_N]]).matrix_DD


@torch.no_grad()
def _start_as(stack: Stack, axes_TT: Floats) -> None:
    """Let a linear head begin as the first rows of a rotation."""
    linear = stack.linears[0]
    linear.weight.copy_(torch.tensor(axes_TT[: len(linear.weight)]))
    linear.bias.zero_()


def _columns(frozen: Frozen, chosen_N: npt.NDArray[np.bool_]) -> tuple[Tensor, ...]:
    columns = (frozen.vectors_NT, frozen.labels_N, frozen.captions_NT)
    return tuple(torch.from_numpy(column[chosen_N]) for column in columns if column is not None)


def _save(config: TrainConfig, frozen: Frozen, task: LabelHead | PairHead | SimilarityHead, path: Path) -> None:
    space = frozen.table.space
    own, modality = EncoderConfig(name=space.encoder, path=space.path), modality_of(frozen.table)
    towers, layers = {modality: describe_tower(own)}, {}
    if isinstance(task, PairHead):
        words = EncoderConfig(name=config.data.caption_encoder)
        towers["text"] = describe_tower(words)
        layers = {modality: task.left.layers(frozen.table.rotation), "text": task.right.layers()}
    else:
        layers = {modality: task.stack.layers(frozen.table.rotation)}
    save_head(path, HeadFile(dims=config.loss.dims, towers=towers), layers)


@torch.no_grad()
def _judged(
    trained: Trained, dims: tuple[int, ...], frozen: Frozen, task: LabelHead | PairHead | SimilarityHead
) -> Trained:
    """Measure a head on the rows held out, and the frozen vectors' own prefixes beside it."""
    held_N = frozen.is_held_out_N
    whole_NT = frozen.vectors_NT[held_N]
    if len(whole_NT) <= _K:
        return replace(trained, held_out=len(whole_NT))
    own = tuple(dim for dim in dims if dim <= whole_NT.shape[1])
    after: Sequence[float]
    before: Sequence[float] = ()
    beside = "prefixes of the table's vectors"
    if isinstance(task, PairHead):
        assert frozen.captions_NT is not None
        head_ND = task.left(torch.from_numpy(whole_NT)).numpy()
        asked_ND = task.right(torch.from_numpy(frozen.captions_NT[held_N])).numpy()
        after, measure = hits_by_dim(head_ND, asked_ND, np.arange(len(asked_ND)), dims, _K), f"words → row, R@{_K}"
    elif isinstance(task, LabelHead):
        measure = "class of the nearest row learnt from"
        head_ND = task.stack(torch.from_numpy(frozen.vectors_NT)).numpy()
        after, before = _same_class(head_ND, frozen, dims), _same_class(frozen.vectors_NT, frozen, own)
    else:
        measure, beside = f"recall@{_K} of the whole vectors", "a PCA rotation"
        head_ND, turned_ND = task.stack(torch.from_numpy(whole_NT)).numpy(), whole_NT @ _plain_axes(frozen).T
        after, before = (_recall(x_ND, whole_NT, d) for x_ND, d in ((head_ND, dims), (turned_ND, own)))
    by_dim, plain = (dict(zip(d, shares, strict=False)) for d, shares in ((dims, after), (own, before)))
    return replace(trained, measure=measure, by_dim=by_dim, beside=beside, before=plain, held_out=len(whole_NT))


def _recall(x_ND: Floats, whole_NT: Floats, dims: Sequence[int]) -> list[float]:
    """Return, for each dim, the share of the whole vectors' nearest that the prefixes of others find."""
    truth_NK = neighbours(whole_NT, whole_NT, whole_NT.shape[1], _K, skip_self=True)
    found = (neighbours(x_ND, x_ND, dim, _K, skip_self=True) for dim in dims)
    return [float((one_NK[:, :, None] == truth_NK[:, None, :]).any(1).mean()) for one_NK in found]


def _same_class(x_ND: Floats, frozen: Frozen, dims: Sequence[int]) -> list[float]:
    """Return, for each dim, how often the nearest row learnt from is of a held-out row's class: 1-NN."""
    assert frozen.labels_N is not None
    held_N = frozen.is_held_out_N
    learnt_N, wanted_Q = frozen.labels_N[~held_N], frozen.labels_N[held_N]
    found = (neighbours(x_ND[~held_N], x_ND[held_N], dim, 1)[:, 0] for dim in dims)
    return [float((learnt_N[one_Q] == wanted_Q).mean()) for one_Q in found]
