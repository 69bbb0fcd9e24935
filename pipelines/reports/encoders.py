"""Terminal tables of the encoders: all of them by their rules, or everything that is known of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from rich.table import Table

from pipelines.encoders import EncoderSpec, licence_notice
from schemas.records import Modality

# What each family imports that the base install may lack.
_LIBRARIES = {
    "clip": "transformers",
    "efficientnet": "efficientnet_lite_pytorch",
    "omni": "sentence_transformers",
    "openclip": "open_clip",
    "sentence": "sentence_transformers",
    "timm": "timm",
    "transformer": "transformers",
    "vision": "transformers",
}


LEGEND = (
    "dims: 64…768 are a ladder; rotate: its prefixes mean nothing without `rotation.kind=pca` or `mlake rotate`. "
    "Licences with NC forbid commercial use. here: yes, it needs no download; hub, it is downloaded; no, its library "
    "is missing; ?, unverified. All of one: mlake encoders NAME"
)


def encoders_table(specs: Sequence[EncoderSpec]) -> Table:
    """Return a table of encoders, a row each, that fits 80 columns."""
    grid = Table("encoder", "embeds", "dims", "licence", "here", box=None, pad_edge=False)
    grid.columns[0].no_wrap = True
    for spec in specs:
        embeds = {0: "", 1: spec.modalities[0] if spec.modalities else ""}.get(len(spec.modalities), "both")
        grid.add_row(spec.name, embeds, _short_dims(spec), _licence(spec), _short_here(spec))
    return grid


def _short_dims(spec: EncoderSpec) -> str:
    if not spec.dims:
        return "its own"
    if spec.any_from:
        return f"{spec.any_from} to {spec.dims[-1]}"
    return f"{spec.dims[0]}…{spec.dims[-1]}" if spec.is_matryoshka else f"{spec.dims[0]}, rotate"


def _short_here(spec: EncoderSpec) -> str:
    said = _here(spec)
    short = "no" if said.startswith("needs") else "hub" if said == "downloads" else "yes"
    return short if spec.is_verified else f"{short} ?"


@dataclass(frozen=True)
class EncoderFilter:
    """Which encoders are listed: those that meet all that is set.

    Attributes:
        like: Part of the name.
        modality: What they embed.
        matryoshka: Their vectors may be cut.
        commercial: Their licence does not forbid commercial use.
        verified: This release was compared with their reference implementation.
        here: Their library is installed.
    """

    like: str | None = None
    modality: Modality | None = None
    matryoshka: bool = False
    commercial: bool = False
    verified: bool = False
    here: bool = False

    def takes(self, spec: EncoderSpec) -> bool:
        """Tell whether an encoder meets it."""
        return (
            (self.like is None or self.like.lower() in spec.name.lower())
            and (self.modality is None or self.modality in spec.modalities)
            and (spec.is_matryoshka or not self.matryoshka)
            and not (self.commercial and spec.forbids_commerce)
            and (spec.is_verified or not self.verified)
            and not (self.here and _here(spec).startswith("needs"))
        )


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
        "pinned": spec.revision or (f"nothing: set encoder.path=hf://{spec.repo}@COMMIT" if spec.repo else ""),
        "family": spec.family,
        "text tower": spec.text_tower or "",
        "licence": _licence(spec),
        "verified": "" if spec.is_verified else "no: set encoder.unverified=true, or pass --unverified",
        "not confirmed": spec.unconfirmed,
        "shares a space": spec.shares,
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
