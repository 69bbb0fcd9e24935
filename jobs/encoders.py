"""`mlake encoders`: every encoder of the registry with its Matryoshka rule."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from jobs.options import Flag, Text
from pipelines.encoders import REGISTRY, EncoderSpec, encoder_spec, licence_notice
from pipelines.reports.console import open_console
from schemas.config import EncoderConfig
from schemas.errors import ConfigError

# What each family imports that the base install may lack.
_LIBRARIES = {
    "clip": "transformers",
    "efficientnet": "efficientnet_lite_pytorch",
    "openclip": "open_clip",
    "sentence": "sentence_transformers",
    "timm": "timm",
    "transformer": "transformers",
    "vision": "transformers",
}


def main(
    name: str | None = None,
    /,
    *,
    matryoshka: Flag = False,
    as_json: Annotated[Flag, Parameter(name="--json")] = False,
    check: Flag = False,
    path: Annotated[str | None, Parameter(metavar="PATH"), Text] = None,
) -> int:
    """List the encoders with their Matryoshka rules, or describe one.

    Args:
        name: Name of the encoder to describe. Default: list all.
        matryoshka: List only encoders whose vectors may be cut.
        as_json: Print one JSON object for each encoder.
        check: Load the named encoder and check its promises: shape, unit rows, order, batches, prefixes, queries.
        path: With --check, the encoder.path of the config.
    """
    console = open_console()
    specs = [spec for spec in REGISTRY.values() if spec.is_matryoshka or not matryoshka]
    if check:
        return _check(name, path, console)
    if as_json:
        for spec in specs if name is None else [encoder_spec(name)]:
            print(json.dumps({"here": _here(spec), **{key: _plain(value) for key, value in vars(spec).items()}}))
        return 0
    if name is not None:
        console.print(_details(encoder_spec(name)))
        return 0
    console.print(_overview(specs))
    console.print(
        "rotate: its prefixes mean nothing without `rotation.kind=pca` or `mlake rotate`; NC: no commercial use"
    )
    return 0


def _check(name: str | None, path: str | None, console: Console) -> int:
    if name is None:
        raise ConfigError("--check needs the name of an encoder: mlake encoders NAME --check")
    from pipelines.encoders.self_check import check_encoder_works  # here, since it loads torch

    failed = 0
    for each in check_encoder_works(EncoderConfig(name=name, path=path)):
        failed += not each.passed
        console.print(f"{'ok' if each.passed else 'NO':<3} {each.name:<20} {each.said}", soft_wrap=True)
    return int(failed > 0)


def _overview(specs: list[EncoderSpec]) -> Table:
    grid = Table(box=None, pad_edge=False)
    for head in ("encoder", "embeds", "dims", "licence", "here"):
        grid.add_column(head, no_wrap=head == "encoder", overflow="fold")
    for spec in specs:
        dims = f"{_dims(spec)}; rotate" if len(spec.dims) == 1 else _dims(spec)
        grid.add_row(spec.name, "+".join(spec.modalities), dims, _licence(spec), _here(spec))
    return grid


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else value


def _details(spec: EncoderSpec) -> Table:
    grid = Table("", "", title=spec.name, box=None, show_header=False, title_justify="left")
    known = {
        "embeds": " and ".join(spec.modalities),
        "dims": _dims(spec),
        "rule": _rule(spec),
        "query prompt": repr(spec.prompts.get("query", "")),
        "document prompt": repr(spec.prompts.get("document", "")),
        "max tokens": spec.max_length or "",
        "dtypes": ", ".join(spec.dtypes),
        "from": spec.repo or spec.package or "encoder.path",
        "pinned": spec.revision,
        "family": spec.family,
        "text tower": spec.text_tower or "",
        "licence": _licence(spec),
        "terms": licence_notice(spec) or "",
        "here": _here(spec),
    }
    for what, value in known.items():
        if value:
            grid.add_row(what, str(value))
    return grid


def _dims(spec: EncoderSpec) -> str:
    if not spec.dims:
        return "as its file says"
    rungs = "/".join(map(str, reversed(spec.dims)))
    return f"{rungs}, any ≥{spec.any_from}" if spec.any_from else rungs


def _rule(spec: EncoderSpec) -> str:
    pooled = [] if spec.pooling == "model" else [spec.pooling]
    *before, _ = spec.steps
    if len(spec.dims) == 1:
        return " → ".join([*pooled, *before, "L2; rotate"])
    return " → ".join([*pooled, *before, "slice", "L2"])


def _licence(spec: EncoderSpec) -> str:
    return f"{spec.licence}, gated" if spec.is_gated else spec.licence


def _here(spec: EncoderSpec) -> str:
    needed = _LIBRARIES.get(spec.family)
    if needed is not None and find_spec(needed) is None:
        return f"needs {needed}"
    return "downloads" if spec.repo else "offline"
