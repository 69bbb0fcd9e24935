"""Derive the vectors of a new generation from those of another one: a new rotation, or a head over its vectors.

Owns when this is right: the same encoder made the stored vectors, in a dtype that gives them as exactly, and the rows
are of the same fields. Otherwise it says why all is encoded. Owns no way of rows (`pipelines.embedding.transform`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from pipelines.embedding.column_plan import source_of
from pipelines.embedding.plan import EmbedPlan
from pipelines.embedding.transform import counts_of, head_transform, rotation_transform, transform_shards
from pipelines.encoders import make_space
from pipelines.encoders.model_files import local_path
from pipelines.encoders.registry import describe_tower
from pipelines.tables.generations import generations_of, is_retired
from pipelines.tables.ledger import rows_by_shard
from pipelines.tables.opening import open_dataset
from pipelines.tables.publication_log import generation_uri
from pipelines.tables.runs import RunRecord, recorded_source
from pipelines.tables.table import VectorTable
from pipelines.vectors.rotation import Rotation, fit_pca
from schemas.columns import FIELD_KEY, VECTOR, Ladder, Space
from schemas.config import EmbedConfig
from schemas.errors import TableNotFound
from schemas.printable import counted
from schemas.records import Shard, ShardCount

_HEAD = "matryoshka-head"


@dataclass(frozen=True)
class Derivation:
    """Rows that need not be encoded, since an older generation has the vectors that they are made from.

    Attributes:
        source: The older generation.
        generation: Its number.
        counts: Shards of tonight that it holds whole.
        how: What becomes of its vectors, as a clause.
    """

    source: VectorTable
    generation: int
    counts: tuple[ShardCount, ...]
    how: str

    @property
    def rows(self) -> int:
        """Rows that are derived."""
        return sum(count.rows for count in self.counts)

    def __str__(self) -> str:
        return (
            f"{counted(self.rows, 'row')} of {counted(len(self.counts), 'shard')} are derived from generation "
            f"{self.generation}, and not encoded: {self.how}"
        )


def find_derivation(config: EmbedConfig, base: str, generation: int, plan: EmbedPlan) -> tuple[Derivation | None, str]:
    """Look for a generation whose vectors those of another one can be made from.

    Args:
        config: The embed job of the generation that is to be made or completed.
        base: Address of the table.
        generation: Number of that generation.
        plan: Its plan.

    Returns:
        The derivation, if there is anything to derive; and where an older generation would do but for something else,
        a sentence about that.
    """
    asked = None
    for number, source in _others(base, generation, config):
        asked = asked or _Asked(config, plan)
        if not (how := asked.way_from(source)):
            continue
        if lacks := _lacks(source, config, plan):
            return None, f"all is encoded, and nothing derived from generation {number}: {lacks}"
        held, todo = rows_by_shard(source.dataset), {shard.id for shard in plan.todo}
        counts = [count for count in counts_of(source, without=set()) if count.shard.id in todo]
        whole = tuple(count for count in counts if count.rows == held.get(count.shard.id, 0))
        return (Derivation(source, number, whole, how) if whole else None), ""
    return None, ""


def derive(derivation: Derivation, config: EmbedConfig, plan: EmbedPlan, say: Callable[[str], object]) -> int:
    """Make or complete a generation from the vectors of another one; return the rows that were added.

    Raises:
        EncoderError: A head gives a row no direction.
    """
    from pipelines.embedding.creation import create_table_for  # here, since it loads torch

    source, table = derivation.source, plan.table
    if table is None:
        plan = replace(plan, space=plan.space.model_copy(update={"dtype": source.space.dtype}))
        table = create_table_for(config, plan, partial(_fit, source, config.rotation.sample_rows), say)
    if config.encoder.name == _HEAD:
        transform = head_transform(source, local_path(config.encoder.path or ""), config.input.modality)
    else:
        transform = rotation_transform(source.rotation, table.rotation)
    with RunRecord(table, "derive", {"source": source.uri, "version": source.dataset.version}) as record:
        shards, rows = transform_shards(source, table, derivation.counts, transform, record.run)
        record.summary |= {"shards": shards, "rows": rows}
    return rows


class _Asked:
    """What a config wants its vectors to be made from."""

    def __init__(self, config: EmbedConfig, plan: EmbedPlan) -> None:
        self._encoder, self._is_rotated = config.encoder, config.rotation.kind != "none"
        self._is_head = config.encoder.name == _HEAD
        self._frozen = _frozen_space(config) if self._is_head and not self._is_rotated else None

    def way_from(self, source: VectorTable) -> str:
        """Say how the vectors of a table become those that are asked for; empty where they do not."""
        was = source.space
        if self._is_head:
            if self._frozen is None or was.dtype != "float32" or not _are_alike(was, self._frozen):
                return ""
            return f"the head {self._encoder.path} is applied to its vectors"
        own = self._encoder.dtype
        encoder = self._encoder.model_copy(update={"dtype": was.dtype if own == "auto" else own})
        if (was.rotation is not None) == self._is_rotated or not _are_alike(was, make_space(encoder)):
            return ""
        return "a rotation is fitted on its vectors and applied" if self._is_rotated else "its rotation is undone"


def _frozen_space(config: EmbedConfig) -> Space | None:
    """Return the space of the encoder under a head; None where the one that is here is not the one it stands on."""
    from pipelines.encoders.checkpoints import read_head  # here, since they load torch
    from pipelines.encoders.families.head import frozen_config

    tower = read_head(local_path(config.encoder.path or "")).towers.get(config.input.modality)
    if tower is None:
        return None
    frozen = frozen_config(tower, config.encoder)
    return make_space(frozen) if describe_tower(frozen).space == tower.space else None


def _are_alike(one: Space, other: Space) -> bool:
    """Tell whether two spaces differ in their rotation only."""
    if one.ladder.width != other.ladder.width:
        return False
    plain = {"rotation": None, "ladder": Ladder(dims=(one.ladder.width,))}
    return one.model_copy(update=plain).fingerprint == other.model_copy(update=plain).fingerprint


def _lacks(source: VectorTable, config: EmbedConfig, plan: EmbedPlan) -> str:
    """Say why the rows of a table are not those that a config asks for; empty where they are."""
    if recorded_source(source) != source_of(config):
        return "its rows are made from other fields, or cut otherwise"
    kept = {} if plan.table is None else {field.name: field for field in plan.table.kept}
    kept |= {field.name: field for field in plan.columns.kept if not field.name.startswith(VECTOR)}
    held = {field.name: field for field in source.kept}
    for name, field in kept.items():
        if name not in held:
            return f"it has no column {name!r}"
        if held[name].type != field.type or _field(held[name]) != _field(field):
            return f"its column {name!r} is another one"
    return ""


def _field(field: object) -> bytes | None:
    return (getattr(field, "metadata", None) or {}).get(FIELD_KEY)


def _others(base: str, generation: int, config: EmbedConfig) -> Iterator[tuple[int, VectorTable]]:
    """Yield the other generations, the newest first."""
    for number in reversed(generations_of(base, config.storage)):
        try:
            dataset = open_dataset(uri := generation_uri(base, number), config.storage)
        except TableNotFound:
            continue
        if number != generation and not is_retired(dataset):
            yield number, VectorTable(uri, dataset, config.storage)


def _fit(source: VectorTable, rows: int, shards: tuple[Shard, ...], tell: object) -> Rotation:
    from pipelines.nightly.recall import sample_rows  # here, since it loads torch

    return fit_pca([sample_rows(source, rows, seed=0).vectors_QD])
