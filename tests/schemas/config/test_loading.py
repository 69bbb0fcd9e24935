"""A config is checked whole, and a refusal names what is wrong and the key that was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.config import (
    DeployConfig,
    EmbedConfig,
    EvaluateConfig,
    NightlyConfig,
    ShortlistConfig,
    TrainConfig,
    load_config,
)
from schemas.errors import ConfigError


def load(tmp_path: Path, text: str, *overrides: str) -> EmbedConfig:
    (tmp_path / "c.toml").write_text(text)
    return load_config(EmbedConfig, tmp_path / "c.toml", overrides)


TOML = 'shards = "x/*.tar"\ntable = "t.lance"\n[input]\ntext = "txt"\n[encoder]\nname = "m"\n'


def test_a_file_and_overrides_make_a_config(tmp_path: Path) -> None:
    config = load(tmp_path, TOML, "encoder.batch=64", "cluster.actors=2", "shards=['a', 'b']", "table=s3://b/t.lance")
    assert config.shards == ("a", "b")
    assert (config.encoder.batch, config.cluster.actors, config.table) == (64, 2, "s3://b/t.lance")
    assert config.limits.max_tries == 3
    assert config.input.modality == "text"


def test_without_a_file_the_overrides_are_all_there_is() -> None:
    config = load_config(EmbedConfig, None, ["shards=a.tar", "table=t", "input.image=png", "encoder.name=m"])
    assert (config.shards, config.input.modality) == (("a.tar",), "image")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("encoder.bacth=3", r"encoder\.bacth.*did you mean 'batch'\?"),
        ("limit.max_tries=3", r"limit.*did you mean 'limits'\?"),
        ("zzz=1", "zzz"),
        ("limits.max_reject_fraction=2", r"limits\.max_reject_fraction.*less than or equal to 1"),
        ("limits.max_tries=0", r"limits\.max_tries.*greater than or equal to 1"),
        ("encoder.dtype=float8", r"encoder\.dtype"),
        ("input.image=png", "name exactly one of"),
        ("encoder", "write key=value"),
        ("encoder..batch=3", "write key=value"),
        ("shards=[1, 2]", r"'shards\.0': .*valid string \(got 1\); 'shards\.1'"),
        ("shards=3", "'shards': Input should be a valid list"),
        (f"shards={[*range(30)]}", "and 22 more"),
        ("encoder.batch=nan", r"'encoder\.batch': Input should be 'auto' or a finite number \(got nan\)"),
        ("=3", "write key=value"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(tmp_path, TOML, override)


def test_all_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, TOML, "encoder.bacth=3", "limits.max_tries=0")
    assert "bacth" in str(error.value)
    assert "max_tries" in str(error.value)


def test_a_file_that_is_missing_or_not_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config file at .*jobs/configs/"):
        load_config(EmbedConfig, tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        load(tmp_path, "shards = [")
    for content in b"\xff\xfe", b"a = " + b"[" * 5000, b"a = " + b"1" * 5000:
        (tmp_path / "c.toml").write_bytes(content)
        with pytest.raises(ConfigError, match="is not valid TOML"):
            load_config(EmbedConfig, tmp_path / "c.toml")
    with pytest.raises(ConfigError, match="cannot be read as a config file: Is a directory"):
        load_config(EmbedConfig, tmp_path)


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    assert load(tmp_path, "\ufeff" + TOML).table == "t.lance"


def test_a_text_that_toml_cannot_take_is_a_plain_string(tmp_path: Path) -> None:
    assert load(tmp_path, TOML, f"table={'[' * 5000}").table == "[" * 5000


def test_an_override_cannot_make_a_block_of_a_value(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'table' is a value, not a block"):
        load(tmp_path, TOML, "table.name=x")


def test_every_example_config_loads() -> None:
    configs = Path(__file__).parents[3] / "jobs" / "configs"
    examples = sorted(configs.glob("*.toml"))
    assert len(examples) >= 4
    for example in examples:
        model = EmbedConfig if "\nshards" in example.read_text() else ShortlistConfig
        assert load_config(model, example).table.endswith(".lance")
    for example in (configs / "train").glob("*.toml"):
        assert load_config(TrainConfig, example).out
    for example in (configs / "evaluate").glob("*.toml"):
        assert load_config(EvaluateConfig, example).systems
    assert load_config(NightlyConfig, configs / "cluster" / "nightly.toml").prefixes == (64,)
    assert load_config(DeployConfig, configs / "cluster" / "deploy.toml").accelerator == "cuda"
