"""Training data of a head: the full vectors of a table, with labels or captions.

Owns reading the table, encoding captions with a frozen encoder, and the validation split. The table's own encoder is
not run.

Shapes: N rows, T width of the frozen vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.encoders import BadSample, Prepared, load_encoder, load_preparer, resolve, spec_of
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_numpy
from schemas.columns import VECTOR
from schemas.config import EncoderConfig, LimitsConfig
from schemas.config.training import TrainConfig
from schemas.errors import ConfigError, FieldNotFound, InputError, nearest
from schemas.records import Modality
from schemas.splits import Split

Floats = npt.NDArray[np.float32]
_CAPTIONS_AT_ONCE = 256


@dataclass(frozen=True)
class HeadData:
    """Training data and validation split of a head.

    Attributes:
        table: The table.
        vectors_NT: Its full vectors, unit rows.
        labels_N: Class numbers, of a head from labels.
        captions_NT: Vectors of the captions by another frozen encoder, of a head from pairs.
        is_held_out_N: Rows of the validation split.
        split: How they were chosen.
    """

    table: VectorTable
    vectors_NT: Floats
    labels_N: npt.NDArray[np.int64] | None
    captions_NT: Floats | None
    is_held_out_N: npt.NDArray[np.bool_]
    split: Split


def read_head_data(config: TrainConfig) -> HeadData:
    """Read a table's vectors and labels; encode its captions.

    Raises:
        TableNotFound: There is no such table.
        FieldNotFound: It has no such column.
        ConfigError: The encoder of the captions does not embed texts, or the table itself holds texts.
        InputError: The column of labels holds fewer than two classes.
    """
    data = config.data
    table = VectorTable.open(data.table or "", storage=config.storage, trust=data.trust)
    wanted = [name for name in (data.label, data.caption, data.group) if name]
    for name in wanted:
        if name not in table.dataset.schema.names:
            known = table.dataset.schema.names
            raise FieldNotFound(
                f"{table.uri} has no column {name!r}{nearest(name, known)}; it has: {', '.join(known)}; "
                "`mlake embed` with input.keep stores fields beside the vectors"
            )
    rows = table.dataset.to_table(columns=["id", *dict.fromkeys(wanted), VECTOR])
    if config.kind == "head-from-pairs" and table_modality(table) == "text":
        raise ConfigError(f"{table.uri} holds texts, and so do its captions; a joint space has only one tower of texts")
    captions = [str(words) for words in rows[data.caption].to_pylist()] if data.caption else None
    labels = None
    if config.kind == "head-from-labels":
        names, labels = np.unique(np.asarray(rows[data.label].to_pylist(), str), return_inverse=True)
        if len(names) < 2:
            raise InputError(f"column {data.label!r} of {table.uri} holds {len(names)} class; two or more are needed")
    captions_NT = None
    if captions and config.kind == "head-from-pairs":
        captions_NT = encode_captions(data.caption_encoder, captions, trust_remote_code=data.trust_remote_code)
    split = Split(column=data.group or "id", without=data.group_without, share=data.held_out, seed=config.run.seed)
    return HeadData(
        table,
        to_numpy(rows[VECTOR]).astype(np.float32),
        labels,
        captions_NT,
        np.array([split.holds_out(key) for key in rows[split.column].to_pylist()], bool),
        split,
    )


def table_modality(table: VectorTable) -> Modality:
    """Return the modality of a table's encoder; the first one of a joint encoder."""
    return spec_of(table.space, table.trust).modalities[0]


def encode_captions(encoder: str, captions: Sequence[str], *, trust_remote_code: bool = False) -> Floats:
    """Encode captions as queries by a frozen encoder: (N, T) float32 unit rows.

    Raises:
        ConfigError: The encoder does not embed texts, or a caption is empty.
    """
    config = EncoderConfig(name=encoder, side="query", trust_remote_code=trust_remote_code)
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
