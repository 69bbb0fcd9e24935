"""`mlake train` from the command line: every shipped config, what embeds and searches in the end, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from jobs.__main__ import main
from pipelines.tables.table import VectorTable
from schemas.config import load_config
from schemas.config.training import TrainConfig
from schemas.errors import ConfigError
from tests.support.drivers import Driver, run_job, wait_until
from tests.support.head_tables import PICTURES, make_head_table, square_rows
from tests.support.tiny_training import picture, shrink, write_folder, write_tars

CONFIGS = sorted((Path(__file__).parents[2] / "jobs" / "configs" / "train").glob("*.toml"))
QUICK = ("run.epochs=2", "run.batch=8", "run.workers=1", "run.device=cpu", "run.tensorboard=false")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures, captioned shards, texts, and a table of pictures with labels and words."""
    root = tmp_path_factory.mktemp("sources")
    write_folder(root / "folder")
    write_tars(root / "tars")
    lines = (json.dumps({"text": f"the owl number {i} sleeps by the river"}) for i in range(24))
    (root / "texts.jsonl").write_text("\n".join(lines) + "\n")
    make_head_table(root / "squares.lance", PICTURES, square_rows())
    return root


def overrides(config: TrainConfig, sources: Path, out: Path) -> list[str]:
    """What makes a shipped config small."""
    lines = [f"out={out}", *QUICK, "optimiser.warmup_epochs=0.5"]
    if config.is_head:
        columns = {"label": "label", "caption": "words", "group": "words"}
        lines += [f"data.{name}={column}" for name, column in columns.items() if getattr(config.data, name)]
        into = ["into=" + str(out / "into.lance")] if config.into else []
        return [*lines, *into, f"data.table={sources / 'squares.lance'}", "loss.dims=[4, 8]", "data.held_out=0.2"]
    data = {"classify": sources / "folder", "pairs": f"{sources}/tars/*.tar", "mlm": sources / "texts.jsonl"}
    lines += [f"data.train={data[config.kind]}", "loss.dims=[4, 16]", "model.pixels=32", "model.vocabulary=300"]
    lines += [f"data.valid={data[config.kind]}"] if config.data.valid else []
    return [*lines, "model.width=16"] if config.model.width else lines


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_trains(
    path: Path, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shrink(monkeypatch)
    monkeypatch.setenv("COLUMNS", "200")
    config = load_config(TrainConfig, path)
    settings = [word for line in overrides(config, sources, tmp_path / "out") for word in ("--set", line)]
    assert main(["train", str(path), *settings, "--dry-run"]) == 0
    assert "2 epochs of" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert main(["train", str(path), *settings]) == 0
    said = capsys.readouterr().out
    assert "epoch   2" in said
    name = "matryoshka-head" if config.is_head else "matryoshka-model"
    assert f"encoder.name={name} encoder.path={tmp_path / 'out'}/encoder" in said
    assert main(["train", str(path), *settings, "--json"]) == 0  # finished: nothing more to train
    out, err = capsys.readouterr()
    assert "epoch   1" not in out + err
    assert json.loads(out)["encoder_path"] == f"{tmp_path / 'out'}/encoder"


def test_the_config_of_the_paper_has_its_settings() -> None:
    config = load_config(TrainConfig, next(path for path in CONFIGS if path.stem == "imagenet-resnet50"))
    assert config.loss.dims == tuple(8 << i for i in range(9))
    assert config.loss.weights is None
    assert (config.optimiser.name, config.optimiser.momentum, config.optimiser.weight_decay) == ("sgd", 0.9, 1e-4)
    assert (config.run.epochs, config.loss.smoothing, config.loss.tied) == (40, 0.1, False)


def test_a_trained_model_embeds_and_is_searched_at_its_dims(
    without_ray: None, sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "train.toml"
    config.write_text(
        f'kind = "classify"\nout = "{tmp_path}/run"\n'
        '[model]\nimage = "vit-small"\npixels = 28\n'
        f'[data]\ntrain = "{sources}/tars/*.tar"\ninput = {{ image = "png" }}\nlabel = "cls"\n'
        "[loss]\ndims = [4, 16, 128]\n[optimiser]\nlr = 0.01\n"
    )
    assert main(["train", str(config), *(word for line in QUICK for word in ("--set", line)), "--log", "json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1]["epoch"]["epoch"] == 2
    embed = tmp_path / "embed.toml"
    embed.write_text(
        f'shards = "{sources}/tars/*.tar"\ntable = "{tmp_path}/t.lance"\n'
        '[input]\nimage = "png"\nkeep = ["txt"]\n'
        f'[encoder]\nname = "matryoshka-model"\npath = "{tmp_path}/run/encoder"\n'
    )
    assert main(["embed", str(embed)]) == 0
    table = VectorTable.open(f"{tmp_path}/t.lance")
    assert table.space.ladder.dims == (4, 16, 128)
    assert table.dataset.count_rows() == 24
    asked = tmp_path / "asked.png"
    asked.write_bytes(picture("red", 0))  # the first of the first shard
    search = ["search", table.uri, str(asked), "--encoder-path", f"{tmp_path}/run/encoder"]
    capsys.readouterr()
    for dims in ("4", "16", "128"):
        assert main([*search, "--k", "1", "--dims", dims, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["score"] > 0.99
        assert "red" in found["txt"]
    assert main(["search", table.uri, str(asked)]) == 2
    assert "--encoder-path PATH" in capsys.readouterr().err
    assert main([*search, "--dims", "8"]) == 2
    assert "dim 8 is not in the ladder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["kind=clasify"], "kind"),
        (["kind=pairs"], r"needs model\.text and model\.width"),
        (["model.image=resnet51"], r"model\.image"),
        (["loss.dims=[16, 8]"], "ascend"),
        (["loss.dims=[8, 16]", "loss.weights=[1.0]"], "one per dim"),
        (["loss.dimms=[8]"], "did you mean 'dims'"),
        (["data.input.image=png"], r"needs data\.label"),
        (["data.input.text=txt", "data.label=cls"], r"data\.input\.image, not text"),
        (["run.batch=10", "run.workers=4"], "does not divide"),
        (["kind=head-from-labels"], r"needs data\.table and data\.label"),
        (["kind=head-from-nothing", "data.table=t", "run.workers=2"], "trained by one worker"),
        (["into=t.lance"], "into is for a head"),
        (["kind=mlm", "model.text=bert-tiny", "data.input.text=t", "run.accumulate=2"], "kind=classify"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(changes: list[str], said: str) -> None:
    base = ["kind=classify", "out=o", "model.image=resnet18", "data.train=x", "loss.dims=[8]"]
    with pytest.raises(ConfigError, match=said):
        load_config(TrainConfig, None, [*base, *changes])


def test_another_run_in_the_same_folder_is_refused(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shrink(monkeypatch)
    path = next(path for path in CONFIGS if path.stem == "imagenet-resnet50")
    lines = overrides(load_config(TrainConfig, path), sources, tmp_path)
    settings = [word for line in lines for word in ("--set", line)]
    assert main(["train", str(path), *settings]) == 0
    assert main(["train", str(path), *settings, "--set", "optimiser.lr=0.01"]) == 2
    assert "there optimiser.lr=0.475, here optimiser.lr=0.01" in " ".join(capsys.readouterr().err.split())


def small(sources: Path, out: Path, **run: Any) -> list[str]:
    """A run of a few seconds that needs no patches, so that it can go on in processes of its own."""
    lines = ["kind=classify", f"out={out}", "model.image=vit-small", "model.pixels=28", f"data.train={sources}/folder"]
    lines += ["data.augment=false", "loss.dims=[8, 32, 128]", "optimiser.name=adamw", "optimiser.lr=0.001"]
    settings = {"epochs": 12, "batch": 8, "precision": "float32", "device": "cpu", "tensorboard": False} | run
    lines += [f"run.{name}={json.dumps(value)}" for name, value in settings.items()]
    return [word for line in lines for word in ("--set", line)]


@pytest.fixture
def empty(tmp_path: Path) -> str:
    (tmp_path / "empty.toml").write_text("")
    return str(tmp_path / "empty.toml")


@pytest.mark.slow
def test_a_killed_and_an_interrupted_run_end_as_an_undisturbed_one(sources: Path, tmp_path: Path, empty: str) -> None:
    assert run_job(["train", empty, *small(sources, tmp_path / "whole")], tmp_path / "log").code == 0
    checkpoint = tmp_path / "broken" / "checkpoint.pt"
    arguments = ["train", empty, *small(sources, tmp_path / "broken", checkpoint_steps=1)]
    with Driver(arguments, tmp_path / "log") as driver:
        wait_until(checkpoint.exists)
        driver.kill()
    with Driver(arguments, tmp_path / "log") as driver:
        written_at = checkpoint.stat().st_mtime_ns
        wait_until(lambda: checkpoint.stat().st_mtime_ns != written_at)
        driver.interrupt()
        ended = driver.end()
    assert ended.code in (0, 130)
    assert run_job(arguments, tmp_path / "log").code == 0
    files = [tmp_path / run / "encoder" / "model.safetensors" for run in ("whole", "broken")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray Train imports Ray Data, which warns of its own settings
def test_two_ray_workers_give_the_model_of_one_and_resume(
    local_ray: None, sources: Path, tmp_path: Path, empty: str
) -> None:
    assert main(["train", empty, *small(sources, tmp_path / "one", epochs=2)]) == 0
    assert main(["train", empty, *small(sources, tmp_path / "two", epochs=2, workers=2)]) == 0
    one, two = (load_file(tmp_path / run / "encoder" / "model.safetensors") for run in ("one", "two"))
    assert one.keys() == two.keys()
    for name, weight in one.items():
        assert (weight - two[name]).abs().max() < 1e-3, name
    assert main(["train", empty, *small(sources, tmp_path / "two", epochs=2, workers=2)]) == 0
