"""`mlake encoders`: every encoder of the registry with its Matryoshka rule."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console

from jobs.options import Flag, Text
from pipelines.encoders import REGISTRY, encoder_spec
from pipelines.reports.console import open_console
from pipelines.reports.encoders import encoder_facts, encoder_table, encoders_table
from pipelines.reports.json_lines import json_line
from schemas.config import EncoderConfig
from schemas.errors import ConfigError

Pooling = Literal["mean", "cls", "last"]


def main(
    name: str | None = None,
    /,
    *,
    matryoshka: Flag = False,
    as_json: Annotated[Flag, Parameter(name="--json")] = False,
    check: Flag = False,
    path: Annotated[str | None, Parameter(metavar="PATH"), Text] = None,
    pooling: Pooling | None = None,
) -> int:
    """List the encoders with their Matryoshka rules, or describe one.

    Args:
        name: Name of the encoder to describe. Default: list all.
        matryoshka: List only encoders whose vectors may be cut.
        as_json: Print one JSON object for each encoder.
        check: Load the named encoder and check its promises: shape, unit rows, order, batches, prefixes, queries.
        path: With --check, the encoder.path of the config.
        pooling: With --check, the encoder.pooling of the config.
    """
    console = open_console()
    specs = [spec for spec in REGISTRY.values() if spec.is_matryoshka or not matryoshka]
    if check:
        return _check(name, path, pooling, console)
    if as_json:
        for spec in specs if name is None else [encoder_spec(name)]:
            print(json_line(encoder_facts(spec)))
        return 0
    if name is not None:
        console.print(encoder_table(encoder_spec(name)))
        return 0
    console.print(encoders_table(specs))
    console.print(
        "rotate: its prefixes mean nothing without `rotation.kind=pca` or `mlake rotate`; NC: no commercial use"
    )
    return 0


def _check(name: str | None, path: str | None, pooling: Pooling | None, console: Console) -> int:
    if name is None:
        raise ConfigError("--check needs the name of an encoder: mlake encoders NAME --check")
    from pipelines.encoders.self_check import check_encoder_works  # here, since it loads torch

    failed = 0
    for each in check_encoder_works(EncoderConfig(name=name, path=path, pooling=pooling)):
        failed += not each.passed
        console.print(f"{'ok' if each.passed else 'NO':<3} {each.name:<20} {each.said}", soft_wrap=True)
    return int(failed > 0)
