"""Plan a run of `mlake embed`: which shards go into which table and space, and in which leases."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.embedding.column_plan import ColumnPlan, plan_columns, source_of
from pipelines.embedding.passages import PassageCutter, load_cutter
from pipelines.encoders import Preparer, check_trust, load_preparer, make_space, resolve
from pipelines.shards import read_blocks, tabulate_shards
from pipelines.shards.shard_table import ShardTable, are_among
from pipelines.storage.addresses import absolute, real
from pipelines.tables.companions import read_companion
from pipelines.tables.erased_checks import check_erased
from pipelines.tables.ledger import committed_shards, rejects_of, restore_companions
from pipelines.tables.opening import check_place
from pipelines.tables.table import VectorTable
from schemas.columns import Space
from schemas.config import EmbedConfig, EncoderConfig, LimitsConfig
from schemas.errors import ConfigError, SpaceMismatch, TableNotFound
from schemas.records import Lease, SampleBlock, Shard
from schemas.redaction import unsigned

_LEASES_PER_ACTOR = 4


@dataclass(frozen=True)
class EmbedPlan:
    """The work of a run.

    Attributes:
        shards: All shards that the config names.
        todo: Those that the table does not hold.
        table: The table, or None if it does not exist yet.
        space: The space of its vectors; for a table that does not exist yet, without the rotation.
        columns: The kept columns that the run adds to the table, or makes it with.
        notes: What the run changes, leaves out or brings back, a sentence each.
        seconds: Wall-clock of the planning.
        committed: Ids of the shards that the table holds.
    """

    shards: ShardTable
    todo: tuple[Shard, ...]
    table: VectorTable | None
    space: Space
    columns: ColumnPlan
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    committed: pa.Int64Array = field(default_factory=lambda: pa.array([], pa.int64()))


def make_plan(config: EmbedConfig, *, retry_rejects: bool = False, has_gpu: bool = False) -> EmbedPlan:
    """List the shards and drop those that the table holds.

    Args:
        config: The job.
        retry_rejects: Include the shards that had rejects.
        has_gpu: Whether the cluster has a GPU; decides the dtype of a new table.

    Raises:
        ShardNotFound: A pattern matches nothing.
        SpaceMismatch: The table holds vectors of another space.
        ColumnMismatch: The table is made from other fields, its columns do not fit, or samples that were erased could
            not be known by their ids.
        TableError: No table can be made at its address.
        InputError: No shard has the fields of the config, or their types are not alike.
        EncoderNotTrusted: The encoder needs to run code, and the config does not allow it.
        ConfigError: The encoder does not embed such inputs, or its texts cannot be cut into passages.
    """
    began = time.monotonic()
    check_trust(config.encoder)
    _check_modality(config)
    shards = tabulate_shards(config.shards, config.input.format, config.storage, table=config.table)
    try:
        table = VectorTable.open(config.table, storage=config.storage)
    except TableNotFound:
        check_place(absolute(config.table))
        _cutter(config)
        changed = check_erased(config.table, None, shards, source_of(config), config.storage)
        columns = plan_columns(config, shards, None)
        notes = (*columns.notes, *changed)
        space = make_space(config.encoder, has_gpu=has_gpu)
        return EmbedPlan(shards, tuple(shards), None, space, columns, notes, time.monotonic() - began)
    encoder = config.encoder
    if encoder.dtype == "auto":
        encoder = encoder.model_copy(update={"dtype": table.space.dtype})
    space = make_space(encoder)
    if config.rotation.kind == "pca" and table.space.rotation:
        space = space.model_copy(update={"rotation": table.space.rotation, "ladder": table.space.ladder})
    table.check_space(space)
    if config.rotation.kind != "none" and table.space.rotation is None:
        raise SpaceMismatch(
            f"{table.uri} holds vectors that were not rotated, and rotation.kind is {config.rotation.kind!r}; "
            "run `mlake rotate` on the table first, or leave rotation.kind out",
            f"rotation.kind: table 'none', asked {config.rotation.kind!r}",
        )
    committed = committed_shards(table)
    if retry_rejects:
        rejected = rejects_of(table)["shard"].combine_chunks()
        committed = committed.filter(pc.invert(are_among(committed, rejected)))
    shards, todo = _still_to_do(shards, committed, table)
    if todo:
        _cutter(config)
    changed = check_erased(config.table, table, todo, source_of(config), config.storage)
    columns = plan_columns(config, todo, table)
    notes = (*columns.notes, *changed)
    return EmbedPlan(shards, todo, table, table.space, columns, notes, time.monotonic() - began, committed)


def _still_to_do(
    listed: ShardTable, committed: pa.Int64Array, table: VectorTable
) -> tuple[ShardTable, tuple[Shard, ...]]:
    """Return the shards under the names that the table knows, and those of them that it does not hold."""
    is_open = pc.invert(are_among(listed.ids, committed))
    rest = listed.filter(is_open)
    if not len(rest):
        return listed, ()
    known = under_known_names(rest, read_companion(table, "shards", ("uri", "etag")))
    is_done = are_among(pa.array([shard.id for shard in known], pa.int64()), committed).to_pylist()
    todo = tuple(shard for shard, done in zip(known, is_done, strict=True) if not done)
    return listed.renamed(is_open, known) if any(shard.known_as for shard in known) else listed, todo


def restored_companions(plan: EmbedPlan) -> list[str]:
    """Make lost companions of the plan's table anew; return in words what was lost."""
    if plan.table is None:
        return []
    restored, unknown = restore_companions(plan.table, plan.shards)
    if not restored and not unknown:
        return []
    text = (
        f"{plan.table.uri}: what was known of its shards was lost, and is made anew for the {restored} that are listed"
    )
    if unknown:
        text += f"; {unknown} others are in the table, and their rows stay even if their files change"
    return [text]


def under_known_names(shards: Sequence[Shard], records: pa.Table) -> tuple[Shard, ...]:
    """Give each shard the address under which the table knows its file, so that it is the same shard as before.

    The first release stored addresses as they were written: with `x/../`, as `file://…`, through a link, or signed.

    Args:
        shards: As listed.
        records: Columns `uri` and `etag` of the shards that the table knows.
    """
    listed, known = pa.array([shard.name for shard in shards], pa.string()), records["uri"].combine_chunks()
    unknown = [s for s, is_known in zip(shards, pc.is_in(listed, known).to_pylist(), strict=True) if not is_known]
    if not unknown:
        return tuple(shards)
    # Only records that may be about one of these files are looked up on the disk: those of its name, or of its content.
    names = pa.array([shard.name.partition("?")[0].rpartition("/")[2] for shard in unknown], pa.string())
    has_name = pc.is_in(pc.replace_substring_regex(pc.replace_substring_regex(known, r"[?].*", ""), ".*/", ""), names)
    has_etag = pc.is_in(records["etag"].combine_chunks(), pa.array([shard.etag for shard in unknown], pa.string()))
    may_be = pc.and_not(pc.or_(has_name, has_etag), pc.is_in(known, listed))
    known_as = {_one_form(uri): uri for uri in pc.unique(known.filter(may_be)).to_pylist()}
    known_as = {address: uri for address, uri in known_as.items() if address != uri}
    return tuple(replace(shard, known_as=known_as.get(_one_form(shard.name), "")) for shard in shards)


def _one_form(uri: str) -> str:
    """Return an address to compare; of remote ones, the first release stored `memory://x` for `memory:///x`."""
    scheme, mark, path = unsigned(uri).partition("://")
    return f"{scheme}:///{path.lstrip('/')}" if mark and scheme not in ("s3", "file", "local") else real(uri)


def _check_modality(config: EmbedConfig) -> None:
    spec, modality = resolve(config.encoder), config.input.modality
    if modality not in spec.modalities:
        raise ConfigError(
            f"input.{modality} = {getattr(config.input, modality)!r}: {spec.name} does not embed that; "
            f"set {' or '.join(f'input.{allowed}' for allowed in spec.modalities)}, or choose another encoder"
        )


def plan_leases(shards: Sequence[Shard], limits: LimitsConfig, actors: int = 1) -> list[Lease]:
    """Group neighbouring small shards up to `lease_bytes` and `lease_shards`; a larger shard has a lease of its own.

    Where several actors share the work, leases are so small that each actor gets some, and none ends long after the
    others.
    """
    leases: list[list[Shard]] = []
    size, most_bytes, most_shards = 0, limits.lease_bytes, limits.lease_shards
    if actors > 1:
        parts = _LEASES_PER_ACTOR * actors
        most_bytes = min(most_bytes, max(1, sum(shard.size for shard in shards) // parts))
        most_shards = min(most_shards, max(1, -(-len(shards) // parts)))
    for shard in shards:
        if not leases or size + shard.size > most_bytes or len(leases[-1]) == most_shards:
            leases.append([])
            size = 0
        leases[-1].append(shard)
        size += shard.size
    return [Lease(tuple(group)) for group in leases]


def expected_rows(shards: Sequence[Shard], config: EmbedConfig) -> int:
    """Estimate the rows of all shards: count the samples, or passages, of that of median size, and scale by bytes."""
    if not shards:
        return 0
    median = sorted(shards, key=lambda shard: shard.size)[len(shards) // 2]
    counted: int = sum(block.rows.num_rows + len(block.rejects) for block in sample_blocks(median, config))
    return round(counted * sum(shard.size for shard in shards) / max(1, median.size))


def sample_blocks(shard: Shard, config: EmbedConfig) -> Iterator[SampleBlock]:
    """Yield the samples of a shard, or the passages, as a run reads them."""
    blocks = read_blocks(shard, config.input, config.limits, config.storage)
    if (cutter := _cutter(config)) is not None:
        return chain.from_iterable(map(cutter.split, blocks))
    return blocks


def _cutter(config: EmbedConfig) -> PassageCutter | None:
    """Load what cuts texts into passages, and refuse a config whose texts cannot be cut."""
    return None if config.chunk is None else load_cutter(config, _preparer(config.encoder, config.limits))


@lru_cache(maxsize=1)  # a plan cuts several times, and a tokeniser is slow to load
def _preparer(encoder: EncoderConfig, limits: LimitsConfig) -> Preparer:
    return load_preparer(encoder, limits)
