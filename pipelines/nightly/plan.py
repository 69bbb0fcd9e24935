"""Plan a night: its generation, the shards that are new, changed, gone or as they were, and what it will take.

Owns the comparison of the listing with the ledger. Loads neither torch nor an encoder, so that a night with nothing to
do costs little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.embedding.plan import EmbedPlan, expected_rows, make_plan
from pipelines.nightly.derivation import Derivation, find_derivation
from pipelines.shards.shard_table import are_among
from pipelines.storage.addresses import absolute
from pipelines.tables.commits import commit_fragments
from pipelines.tables.fencing import differ_in_fencing_only
from pipelines.tables.generations import generations_of, is_retired
from pipelines.tables.opening import open_dataset
from pipelines.tables.publication_log import generation_uri, holding_rollback, resolve_prod
from pipelines.tables.records import addresses_of
from pipelines.tables.runs import read_journal
from pipelines.tables.table import VectorTable
from schemas.config import EmbedConfig
from schemas.config.nightly import NightlyConfig
from schemas.errors import ChunkMismatch, SpaceMismatch, TableNotFound
from schemas.records import Shard


@dataclass(frozen=True)
class Pace:
    """How fast a run was.

    Attributes:
        start_s: Seconds before the first row was encoded.
        rows_per_s: Rows encoded per second afterwards; those that took over a stored vector cost next to nothing, and
            are not among them.
    """

    start_s: float
    rows_per_s: float

    def seconds(self, rows: int) -> float:
        """Return the seconds of a run that encodes some rows; none for none."""
        return self.start_s + rows / self.rows_per_s if rows else 0.0

    def rows(self, seconds: float) -> float:
        """Return the rows that are encoded in some seconds."""
        return max(0.0, seconds - self.start_s) * self.rows_per_s


@dataclass(frozen=True)
class NightPlan:
    """The work of a night.

    Attributes:
        uri: Table that it works on: the newest generation of the config's space, or one that is made.
        generation: Its number.
        embed: Its embed job.
        new: Shards that were not in the table.
        changed: Shards with another content.
        vanished: Ids of the shards that the table holds, and whose files are gone.
        unchanged: Number of shards that are in the table as they are.
        tonight: Shards to encode that the budget allows.
        expected_rows: Rows to encode tonight, from the samples in one shard.
        pace: That of the last run that encoded any rows; None where there was none.
        is_published: Whether the newest version of the table is what readers of `prod` see.
        is_held: Whether `prod` stays as it is, since somebody has rolled it back.
        differing: Where a generation is started, the newest one that is there, and by what it differs from that.
        derivation: What is made from the vectors of an older generation; it is in no budget, since nothing is encoded.
        not_derived: Why nothing is, where one is near; a sentence.
    """

    uri: str
    generation: int
    embed: EmbedPlan
    new: tuple[Shard, ...]
    changed: tuple[Shard, ...]
    vanished: tuple[int, ...]
    unchanged: int
    tonight: tuple[Shard, ...]
    expected_rows: int
    pace: Pace | None
    is_published: bool = False
    is_held: bool = False
    differing: str = ""
    derivation: Derivation | None = None
    not_derived: str = ""

    @property
    def is_cut(self) -> bool:
        """Whether the budget leaves shards for other nights."""
        derived = () if self.derivation is None else self.derivation.counts
        return len(self.tonight) < len(self.embed.todo) - len(derived)


def plan_night(config: NightlyConfig) -> NightPlan:
    """Compare the shards of the config with the newest generation of its space.

    Raises:
        ShardNotFound: A pattern matches nothing.
        LakeError: As `pipelines.embedding.plan.make_plan`.
    """
    base = absolute(config.table)
    generation, embed, differing = _generation_of(config, base)
    uri, is_held = generation_uri(base, generation), holding_rollback(base, config.storage) is not None
    job = config.embed_config(uri)
    derivation, not_derived = find_derivation(job, base, generation, embed) if embed.todo else (None, "")
    derived = set[int]() if derivation is None else {count.shard.id for count in derivation.counts}
    rest = tuple(shard for shard in embed.todo if shard.id not in derived)
    pace = _pace(embed.table)
    tonight, rows = _within_budget(config, job, rest, pace)
    known, vanished, is_published = dict[str, int](), tuple[int, ...](), False
    if embed.table is not None:
        not_listed = embed.committed.filter(pc.invert(are_among(embed.committed, embed.shards.ids)))
        known = {uri: shard for shard, uri in addresses_of(embed.table, not_listed).items()}
        is_listed = pc.is_in(pa.array(list(known), pa.string()), embed.shards.names).to_pylist() if known else ()
        vanished = tuple(shard for shard, there in zip(known.values(), is_listed, strict=True) if not there)
        prod = resolve_prod(base, config.storage)
        is_published = prod is not None and prod.uri == uri and _is_still(prod.state.version, embed.table)
    return NightPlan(
        uri=uri,
        generation=generation,
        embed=embed,
        new=tuple(shard for shard in embed.todo if shard.name not in known),
        changed=tuple(shard for shard in embed.todo if shard.name in known),
        vanished=vanished,
        unchanged=len(embed.shards) - len(embed.todo),
        tonight=tonight,
        expected_rows=rows,
        pace=pace,
        is_published=is_published,
        is_held=is_held,
        differing=differing,
        derivation=derivation,
        not_derived=not_derived,
    )


def withdraw(table: VectorTable, shards: Sequence[int], run: str) -> VectorTable:
    """Remove the rows of shards in one commit; what is recorded of them no longer counts.

    Raises:
        CommitConflictError: Another run changed rows at the same moment.
    """
    commit_fragments(table.refresh().dataset, [], set(shards), run, table.storage)
    return table.refresh()


def _generation_of(config: NightlyConfig, base: str) -> tuple[int, EmbedPlan, str]:
    """Return the newest generation of the config's space and passages, or the next number and why it is a new one."""
    last, differing = 0, ""
    for generation in reversed(generations_of(base, config.storage)):
        try:
            dataset = open_dataset(generation_uri(base, generation), config.storage)
        except TableNotFound:
            continue
        last = max(last, generation)
        if is_retired(dataset):
            continue
        try:
            return generation, make_plan(config.embed_config(generation_uri(base, generation))), ""
        except (SpaceMismatch, ChunkMismatch) as error:
            differing = differing or f"generation {generation}, {error.differing}"
    return last + 1, make_plan(config.embed_config(generation_uri(base, last + 1))), differing


def _is_still(version: int, table: VectorTable) -> bool:
    """Tell whether a table is as it was at a version, but for what a cleaner wrote."""
    try:
        was = open_dataset(table.uri, table.storage, version)
    except TableNotFound:
        return False
    return differ_in_fencing_only(was, table.dataset)


def _within_budget(
    config: NightlyConfig, job: EmbedConfig, todo: tuple[Shard, ...], pace: Pace | None
) -> tuple[tuple[Shard, ...], int]:
    """Return the first shards that the budget allows, at least one of them, and their expected rows."""
    if not todo:
        return (), 0
    rows = expected_rows(todo, job)
    most = [float(config.budget.rows)] if config.budget.rows is not None else []
    if config.budget.minutes is not None and pace is not None:
        most.append(pace.rows(60 * config.budget.minutes))
    per_byte, taken, size = rows / max(1, sum(shard.size for shard in todo)), 0, 0
    for shard in todo:
        if taken and most and (size + shard.size) * per_byte > min(most):
            break
        taken, size = taken + 1, size + shard.size
    return todo[:taken], round(size * per_byte)


def _pace(table: VectorTable | None) -> Pace | None:
    """Return the pace of the last run that encoded any rows."""
    for entry in reversed(read_journal(table)) if table is not None else ():
        rows, seconds = entry.summary.get("rows"), entry.summary.get("seconds")
        if entry.job != "embed" or not isinstance(rows, int) or not isinstance(seconds, float) or seconds <= 0:
            continue
        if (encoded := rows - int(entry.summary.get("reused") or 0)) > 0:
            return Pace(float(entry.summary.get("start_s") or 0.0), encoded / seconds)
    return None
