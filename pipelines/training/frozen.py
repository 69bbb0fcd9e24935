"""What a head learns from: the whole vectors of a table, with labels or the words that belong to them.

Owns reading, the frozen encoding of words, and which rows are held out. The table's own encoder is not run.

Shapes: N rows, T width of the frozen vectors.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.encoders import BadSample, Prepared, load_encoder, load_preparer, resolve
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_numpy
from schemas.columns import VECTOR
from schemas.config import EncoderConfig, LimitsConfig
from schemas.config.training import TrainConfig
from schemas.errors import ConfigError, FieldNotFound, InputError, nearest
from schemas.records import Modality

Floats = npt.NDArray[np.float32]
_CAPTIONS_AT_ONCE = 256


@dataclass(frozen=True)
class Frozen:
    """What a head learns from, read from a table.

    Attributes:
        table: The table.
        vectors_NT: Its whole vectors, unit rows.
        labels_N: Numbers of their classes, where it learns from labels.
        captions_NT: Vectors of their words by another frozen encoder, where it learns from pairs.
        is_held_out_N: Rows that are not learnt from.
    """

    table: VectorTable
    vectors_NT: Floats
    labels_N: npt.NDArray[np.int64] | None
    captions_NT: Floats | None
    is_held_out_N: npt.NDArray[np.bool_]


def read_frozen(config: TrainConfig) -> Frozen:
    """Read a table's vectors and what is learnt about them; encode captions.

    Raises:
        TableNotFound: There is no such table.
        FieldNotFound: It has no such column.
        ConfigError: The captions' encoder cannot serve, or the table holds texts itself.
    """
    data = config.data
    table = VectorTable.open(data.table or "", storage=config.storage)
    wanted = [name for name in (data.label, data.caption, data.group) if name]
    for name in wanted:
        if name not in table.dataset.schema.names:
            known = table.dataset.schema.names
            raise FieldNotFound(
                f"{table.uri} has no column {name!r}{nearest(name, known)}; it has: {', '.join(known)}; "
                "input.keep of `jobs embed` puts fields beside the vectors"
            )
    rows = table.dataset.to_table(columns=["id", *dict.fromkeys(wanted), VECTOR])
    if config.kind == "head-from-pairs" and modality_of(table) == "text":
        raise ConfigError(f"{table.uri} holds texts, and so do its captions: a joint space has one tower of texts")
    captions = [str(words) for words in rows[data.caption].to_pylist()] if data.caption else None
    labels = None
    if config.kind == "head-from-labels":
        names, labels = np.unique(np.asarray(rows[data.label].to_pylist(), str), return_inverse=True)
        if len(names) < 2:
            raise InputError(f"column {data.label!r} of {table.uri} holds {len(names)} class; two or more are needed")
    keys = [_without(str(key), data.group_without) for key in rows[data.group or "id"].to_pylist()]
    return Frozen(
        table,
        to_numpy(rows[VECTOR]).astype(np.float32),
        labels,
        encode_captions(data.caption_encoder, captions) if captions and config.kind == "head-from-pairs" else None,
        held_out(keys, data.held_out, config.run.seed),
    )


def modality_of(table: VectorTable) -> Modality:
    """Return what a table's encoder embedded: of a joint one, the first that it names."""
    return resolve(EncoderConfig(name=table.space.encoder, path=table.space.path)).modalities[0]


def held_out(keys: Sequence[str], share: float, seed: int = 0) -> npt.NDArray[np.bool_]:
    """Choose rows to hold out by their key alone: (N,) bool. Equal keys share their fate, in every table."""
    digests = (hashlib.sha256(f"{seed}/{key}".encode()).digest() for key in keys)
    return np.asarray([int.from_bytes(digest[:8], "big") / 2**64 < share for digest in digests], bool)


def encode_captions(encoder: str, captions: Sequence[str]) -> Floats:
    """Encode words by a frozen encoder as queries: (N, T) float32 unit rows.

    Raises:
        ConfigError: The encoder does not embed texts, or a caption is empty.
    """
    config = EncoderConfig(name=encoder, side="query")
    if "text" not in resolve(config).modalities:
        raise ConfigError(f"data.caption_encoder={encoder} does not embed texts; name one that does")
    preparer, model = load_preparer(config, LimitsConfig()), load_encoder(config)
    parts = []
    for start in range(0, len(captions), _CAPTIONS_AT_ONCE):
        prepared: list[Prepared] = []
        for place, one in enumerate(preparer.prepare(captions[start : start + _CAPTIONS_AT_ONCE]), start):
            if isinstance(one, BadSample):
                raise ConfigError(f"the caption of row {place}, {captions[place]!r}, cannot be embedded: {one}")
            prepared.append(one)
        parts.append(model.encode(prepared))
    return np.concatenate(parts)


def _without(key: str, words: Sequence[str]) -> str:
    return " ".join(word for word in re.findall(r"[\w'’]+", key) if word not in words) if words else key
