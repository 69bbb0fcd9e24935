"""Terminal tables of the encoders: all of them by their rules, or everything that is known of one."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from rich.table import Table

from pipelines.encoders import EncoderSpec, licence_notice

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


def encoders_table(specs: list[EncoderSpec]) -> Table:
    """Return a table of encoders, a row each, that fits 80 columns."""
    grid = Table("encoder", "embeds", "dims", "licence", "here", box=None, pad_edge=False)
    for spec in specs:
        dims = f"{spec.any_from} to {spec.dims[-1]}" if spec.any_from else _dims(spec)
        dims = f"{dims}; rotate" if len(spec.dims) == 1 else dims
        grid.add_row(spec.name, "+".join(spec.modalities), dims, _licence(spec), _here(spec))
    return grid


def encoder_facts(spec: EncoderSpec) -> dict[str, object]:
    """Return the facts of an encoder as plain values for JSON."""
    return {"here": _here(spec), **{key: _plain(value) for key, value in vars(spec).items()}}


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else value


def encoder_table(spec: EncoderSpec) -> Table:
    """Return everything that is known of one encoder."""
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
    rungs = ", ".join(map(str, reversed(spec.dims)))
    return f"{rungs}; any from {spec.any_from} on" if spec.any_from else rungs


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
