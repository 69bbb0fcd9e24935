"""Encoding of one query, with the encoder of the space that it is asked in."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pipelines.encoders.of_space import check_encoder, config_of, config_of_sharing, sharing, spec_of
from pipelines.encoders.protocol import BadSample, Encoder, Preparer, modality_of
from pipelines.encoders.registry import encoder_spec, load_encoder, load_preparer, resolve
from pipelines.encoders.spec import EncoderSpec
from pipelines.vectors.matryoshka import are_unit, cut
from schemas.columns import Space
from schemas.config import EncoderConfig, LimitsConfig, TrustConfig
from schemas.errors import InputError, SpaceMismatch
from schemas.records import Modality

_ASKED: dict[Modality, str] = {"text": "the query is words", "image": "the query is a picture"}
_WAYS: dict[Modality, str] = {
    "text": 'words (search("a red kite"); mlake search TABLE "a red kite")',
    "image": 'a picture (search(Path("kite.png")) or a PIL image; mlake search TABLE kite.png)',
}
_REMEDIES: dict[Modality, str] = {
    "text": "For words, embed the pictures with an encoder of image+text in `mlake encoders`, or train a head on "
    "pairs of pictures and words: mlake train",
    "image": "For pictures, embed them with an encoder of image+text in `mlake encoders`; it takes words as well",
}


def encode_query(space: Space, query: str | bytes, trust: TrustConfig = TrustConfig()) -> npt.NDArray[np.float32]:
    """Encode a text or the bytes of an image with the space's own encoder and query prompt, before any rotation.

    A joint model encodes with the tower of the query's modality, whichever tower made the table. The encoder is loaded
    once per process. Where `trust.encoder` names a model that shares the space, that one encodes.

    Args:
        space: The space of a table.
        query: A text, or the bytes of an image.
        trust: What this user allows to load; a table allows nothing by itself.

    Returns:
        (D,) float32, unit length.

    Raises:
        EncoderNotTrusted: The encoder needs files or code that `trust` does not allow.
        SpaceMismatch: The space has no encoder for this modality, its local files have changed, or the encoder that is
            installed here is not the one that made the space.
        InputError: The query is empty, not an image, or refused by its server.
    """
    modality = modality_of(query)
    if trust.encoder is not None:
        config = config_of_sharing(space, trust)
        spec = resolve(config)
        _check_modality(space, spec, modality)
        return cut(_encode(config, query, spec.ladder.width, trust.encoder), space.ladder.width)
    if space.class_name is None and encoder_spec(space.encoder).family == "precomputed":
        raise SpaceMismatch(
            f"{_ASKED[modality]}, and the table's vectors are precomputed: embed it where they were made, and pass the "
            f"vector; {_kinds_of_query(space, ())}{_or_sharing(space)}"
        )
    spec = spec_of(space, trust)
    _check_modality(space, spec, modality)
    config = config_of(space, trust)
    _check(space.model_dump_json(), config)
    return _encode(config, query, space.ladder.width, spec.name)


def _check_modality(space: Space, spec: EncoderSpec, modality: Modality) -> None:
    if modality not in spec.modalities:
        raise SpaceMismatch(
            f"{_ASKED[modality]}, and {spec.name} embeds only {' and '.join(spec.modalities)} inputs; "
            f"{_kinds_of_query(space, spec.modalities)}. {_REMEDIES[modality]}"
        )


def _encode(config: EncoderConfig, query: str | bytes, width: int, name: str) -> npt.NDArray[np.float32]:
    preparer, encoder = _load(config)
    prepared = preparer.prepare([query])[0]
    try:
        if isinstance(prepared, BadSample):
            raise prepared
        vector_D: npt.NDArray[np.float32] = encoder.encode([prepared])[0]
    except BadSample as error:
        raise InputError(f"the query cannot be embedded: {error}") from None
    if vector_D.shape != (width,):
        raise SpaceMismatch(
            f"{name} gives {len(vector_D)} dims, and the space has {width}; the files at --encoder-path "
            "are another model"
        )
    if not are_unit(vector_D):
        raise InputError("the query cannot be embedded: its vector has no direction (all zeros, NaN or infinity)")
    return vector_D


def _or_sharing(space: Space) -> str:
    """Say which models answer for one whose vectors are precomputed."""
    others = sharing(space)
    return f"; or let a model answer that shares its space: --encoder {others[0]}" if others else ""


def _kinds_of_query(space: Space, modalities: Sequence[Modality]) -> str:
    """Say how a table of a space is asked."""
    ways = [way for modality, way in _WAYS.items() if modality in modalities]
    rows = 'one of its rows (search(like="ID"))'
    return f"this table is asked by {', '.join([*ways, rows])}, or a vector of {space.ladder.width} dims"


@lru_cache(maxsize=4)
def _load(config: EncoderConfig) -> tuple[Preparer, Encoder]:
    return load_preparer(config, LimitsConfig()), load_encoder(config)


@lru_cache(maxsize=64)
def _check(space_json: str, config: EncoderConfig) -> None:
    check_encoder(Space.model_validate_json(space_json), config)
