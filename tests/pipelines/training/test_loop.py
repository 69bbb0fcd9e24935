"""The loop: a resumed run ends with the same weights, bit for bit; other settings and infinite losses are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pipelines.training.checkpoints import FILE
from pipelines.training.data import Arrays, add_noise
from pipelines.training.history import History, StepReport
from pipelines.training.loop import fit
from schemas.config.training import OptimiserConfig, Recipe, RunConfig
from schemas.errors import ConfigError, RunError
from tests.support.tiny_training import clusters, perceptron

ADAM = OptimiserConfig(name="adamw", lr=0.01, warmup_epochs=0.5)
RUN = RunConfig(epochs=4, batch=16, precision="float32", device="cpu", tensorboard=False)


def recipe(optimiser: OptimiserConfig = ADAM, **changes: object) -> Recipe:
    return Recipe(optimiser=optimiser, run=RUN.model_copy(update=changes))


def train(task: nn.Module, settings: Recipe, folder: Path | None = None, stop_at: int | None = None) -> History:
    def watch(progress: StepReport) -> bool:
        return stop_at is not None and progress.step >= stop_at

    data = Arrays(clusters(), seed=3, augment=add_noise(0.5))
    return fit(task, data, settings, valid=Arrays(clusters(seed=1), shuffle=False), folder=folder, watch=watch)  # type: ignore[arg-type]


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("optimiser", [ADAM, OptimiserConfig(lr=0.1, schedule="step", milestones=(2,))])
@pytest.mark.parametrize("stop_at", [2, 3, 7])
def test_an_interrupted_run_ends_with_the_same_weights(
    tmp_path: Path, optimiser: OptimiserConfig, stop_at: int
) -> None:
    undisturbed, broken = perceptron(), perceptron()
    whole = train(undisturbed, recipe(optimiser))
    every_step = recipe(optimiser, checkpoint_steps=1)  # each save looks whether to stop
    first = train(broken, every_step, tmp_path, stop_at)
    assert first.is_stopped
    assert not same_weights(undisturbed, broken)
    resumed = perceptron(seed=99)
    second = train(resumed, recipe(optimiser), tmp_path)
    assert same_weights(undisturbed, resumed)
    assert [e.right_by_dim for e in second.epochs] == [e.right_by_dim for e in whole.epochs]
    assert [e.loss for e in second.epochs] == pytest.approx([e.loss for e in whole.epochs], rel=1e-6)
    assert not second.is_stopped


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def watch(progress: StepReport) -> bool:
        if progress.step >= 5:
            raise Killed
        return False

    undisturbed, broken, resumed = perceptron(), perceptron(), perceptron(seed=99)
    train(undisturbed, recipe())
    data = Arrays(clusters(), seed=3, augment=add_noise(0.5))
    with pytest.raises(Killed):
        fit(broken, data, recipe(checkpoint_steps=2), folder=tmp_path, watch=watch)
    train(resumed, recipe(), tmp_path)
    assert same_weights(undisturbed, resumed)


def test_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    task, again = perceptron(), perceptron(seed=9)
    done = train(task, recipe(), tmp_path)
    written_at = (tmp_path / FILE).stat().st_mtime_ns
    assert train(again, recipe(), tmp_path).epochs == done.epochs
    assert same_weights(task, again)
    assert (tmp_path / FILE).stat().st_mtime_ns == written_at


def test_it_learns_and_measures_every_dim(tmp_path: Path) -> None:
    history = train(perceptron(), recipe(epochs=20))
    assert len(history.epochs) == 20
    assert history.epochs[-1].right_by_dim.keys() == {2, 4, 8}
    assert history.epochs[-1].loss < history.epochs[0].loss / 2
    assert sum(history.epochs[-1].loss_by_dim.values()) == pytest.approx(history.epochs[-1].loss, rel=1e-5)


def test_another_run_s_checkpoint_is_refused_and_what_differs_is_named(tmp_path: Path) -> None:
    train(perceptron(), recipe(), tmp_path)
    with pytest.raises(ConfigError, match=r"there run\.seed=0, here run\.seed=1"):
        train(perceptron(), recipe(seed=1), tmp_path)


def test_how_often_it_saves_and_where_it_runs_may_change(tmp_path: Path) -> None:
    train(perceptron(), recipe(checkpoint_steps=1), tmp_path, stop_at=2)
    assert not train(perceptron(), recipe(device="auto", checkpoint_steps=None), tmp_path).is_stopped


def test_a_batch_in_parts_gives_the_same_step() -> None:
    whole, parts = perceptron(dropout=0.0), perceptron(dropout=0.0)
    plain = OptimiserConfig(lr=0.1, schedule="constant", clip_norm=0.5)
    train(whole, recipe(plain))
    train(parts, recipe(plain, accumulate=4))
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_a_loss_that_is_no_number_ends_the_run_and_is_not_kept(tmp_path: Path) -> None:
    task = perceptron()
    torch.nn.init.constant_(next(task.parameters()), float("nan"))
    with pytest.raises(RunError, match=r"loss is (nan|inf) in epoch 1"):
        train(task, recipe(checkpoint_steps=2), tmp_path)
    assert not (tmp_path / FILE).exists()


def test_bfloat16_trains_and_cuda_needs_a_gpu() -> None:
    history = train(perceptron(), recipe(precision="bfloat16", epochs=12))
    assert history.epochs[-1].loss < history.epochs[0].loss
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="sees no GPU"):
            train(perceptron(), recipe(device="cuda"))
