"""`mlake encoders`: every encoder of the registry with its Matryoshka rule."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter
from rich.console import Console

from jobs.options import Flag, Text
from pipelines.encoders import encoder_spec, known_encoders
from pipelines.reports.console import open_console
from pipelines.reports.encoders import LEGEND, EncoderFilter, encoder_facts, encoder_table, encoders_table
from pipelines.reports.json_lines import json_line
from schemas.config import EmbedConfig, EncoderConfig, load_config
from schemas.errors import ConfigError

Pooling = Literal["mean", "cls", "last"]
_ALL = EncoderFilter()


def main(
    name: str | None = None,
    checked: str | None = None,
    /,
    *,
    which: Annotated[EncoderFilter, Parameter(name="*", group=Group("Which are listed"))] = _ALL,
    as_json: Annotated[Flag, Parameter(name="--json")] = False,
    path: Annotated[str | None, Parameter(metavar="PATH"), Text] = None,
    class_: Annotated[str | None, Parameter(name="--class", metavar="MODULE:CLASS"), Text] = None,
    pooling: Pooling | None = None,
) -> int:
    """List the encoders with their Matryoshka rules, describe one, or check that one keeps its promises.

    `mlake encoders check NAME` loads an encoder and checks shape, unit rows, order, batches, prefixes and queries.

    Args:
        name: Name of the encoder to describe, or `check`. Default: list all.
        checked: With check: the name of an encoder, or the TOML file of an embed job, whose encoder is checked.
        as_json: Print one JSON object for each encoder, or for each promise.
        path: With check, the encoder.path of a config.
        class_: With check, the encoder.class of a config.
        pooling: With check, the encoder.pooling of a config.
    """
    console = open_console()
    settings = {"path": path, "class_": class_, "pooling": pooling}
    given = {setting: value for setting, value in settings.items() if value is not None}
    if name == "check":
        return _check(_config_of(checked, given), console, as_json=as_json)
    if given or checked is not None:
        raise ConfigError("these words belong to a check: mlake encoders check NAME")
    specs = list(filter(which.takes, known_encoders()))
    if as_json:
        for spec in specs if name is None else [encoder_spec(name)]:
            print(json_line(encoder_facts(spec)))
        return 0
    if name is not None:
        console.print(encoder_table(encoder_spec(name)))
        return 0
    console.print(encoders_table(specs))
    console.print(LEGEND)
    return 0


def _config_of(checked: str | None, given: dict[str, Any]) -> EncoderConfig:
    if checked is None and "class_" not in given:
        raise ConfigError(
            "mlake encoders check: name an encoder, the TOML file of an embed job, or --class MODULE:CLASS"
        )
    if checked is None:
        return EncoderConfig(**given)
    if not checked.endswith(".toml"):
        return EncoderConfig(name=checked, **given)
    if given:
        raise ConfigError(f"{checked} says what the encoder is; leave --{next(iter(given)).rstrip('_')} out")
    return load_config(EmbedConfig, checked).encoder


def _check(config: EncoderConfig, console: Console, *, as_json: bool) -> int:
    from pipelines.encoders.self_check import check_encoder_works  # here, since it loads torch

    failed = 0
    for each in check_encoder_works(config):
        failed += not each.passed
        if as_json:
            print(json_line(asdict(each)))
        else:
            console.print(f"{'ok' if each.passed else 'NO':<3} {each.name:<20} {each.said}", soft_wrap=True)
    return int(failed > 0)
