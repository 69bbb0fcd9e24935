"""What `jobs evaluate` measures: test sets embedded by `jobs embed`, tables lined up by id, systems made of them.

Owns the way from a config to systems and the truth; measures nothing.

Shapes: N database rows, Q queries, D full width.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from cluster.session import connect
from jobs import embed
from pipelines.embedding.plan import make_plan
from pipelines.evaluation import folders
from pipelines.evaluation.metrics import Judgements, Labels, Truth
from pipelines.evaluation.systems import Floats, Sides, System, between, fixed, nested
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_numpy
from pipelines.vectors.rotation import Rotation
from schemas.columns import VECTOR, Space
from schemas.config import EmbedConfig, InputConfig
from schemas.config.evaluation import EvaluateConfig, SystemConfig
from schemas.errors import ConfigError, FieldNotFound, InputError, RunError, nearest

_FEWEST_SHARED = 0.5
_ALL_DIMS = 0


@dataclass(frozen=True, eq=False)
class Pair:
    """A table that is searched and one that asks; None asks with rows held out of the first."""

    database: VectorTable
    queries: VectorTable | None

    @property
    def asking(self) -> VectorTable:
        """The table that asks."""
        return self.queries or self.database


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples that every system holds, in one order.

    Attributes:
        database: Ids of the N rows that are searched, string.
        queries: Ids of the Q that ask.
        truth: What is right among them.
        classes: Names of the classes; empty where documents are judged.
    """

    database: pa.Array
    queries: pa.Array
    truth: Truth
    classes: pa.Array


@dataclass(frozen=True, eq=False)
class Bench:
    """All that is to be measured.

    Attributes:
        config: The job.
        samples: What is asked, of what, and what is right.
        pairs: Tables of each system by dim; of one whose dims share them, under 0.
        corrupted: Table of corrupted pictures of each system that has one.
        notes: What a reader of the results should know.
    """

    config: EvaluateConfig
    samples: Samples
    pairs: Mapping[str, Mapping[int, Pair]]
    corrupted: Mapping[str, VectorTable]
    notes: Sequence[str]

    def systems(self) -> Iterator[tuple[System, Sides]]:
        """Yield each system with its whole vectors, those of its largest dim; read when it is asked for."""
        for asked in self.config.systems:
            pairs = self.pairs[asked.name]
            if asked.is_fixed:
                by_dim = {dim: partial(_read, self.samples, pair) for dim, pair in pairs.items()}
                yield fixed(asked.name, by_dim), by_dim[max(by_dim)]()
            else:
                sides = _read(self.samples, pairs[_ALL_DIMS])
                yield self._nested(asked, sides, pairs[_ALL_DIMS].database.space), sides

    def corrupted_queries(self, system: str) -> tuple[list[str], npt.NDArray[np.int64], Floats]:
        """Read a system's corrupted pictures: what was done to each, its class, its vector."""
        table, pair = self.corrupted[system], self.pairs[system][_ALL_DIMS]
        rows = table.dataset.to_table(columns=["id", "corruption", self.config.data.label, VECTOR]).sort_by("id")
        labels = pc.index_in(rows[self.config.data.label], self.samples.classes).to_numpy().astype(np.int64)
        vectors_QD = _turned(to_numpy(rows[VECTOR]).astype(np.float32), rotation_between(pair.database, table))
        return rows["corruption"].to_pylist(), labels, vectors_QD

    def _nested(self, asked: SystemConfig, sides: Sides, space: Space) -> System:
        dims = asked.dims or space.ladder.dims
        if max(dims) > space.ladder.width:
            raise ConfigError(
                f"system {asked.name!r}: dim {max(dims)} is beyond its {space.ladder.width} dims; its ladder is "
                f"{space.ladder}"
            )
        made_for = [dim for dim in dims if _is_offered(space, dim)]
        extra = between(made_for) if self.config.measure.between else ()
        return nested(asked.name, sides, (*dims, *extra), made_for)


def prepare(config: EvaluateConfig, console: Console) -> Bench:
    """Embed what is to be embedded, open what is there, and line it up.

    Raises:
        ConfigError: The systems do not fit the data.
        InputError: The data cannot be read, or the systems hold other samples.
        TableNotFound: A table is not there.
        SpaceMismatch: The two tables of a system are of two spaces.
        RunError: Embedding did not finish.
    """
    data = config.data
    beir = folders.read_beir(Path(data.beir), data.split) if data.beir else None
    pairs: dict[str, dict[int, Pair]] = {}
    corrupted: dict[str, VectorTable] = {}
    shards = _lay_out(config, beir) if any(system.encoder for system in config.systems) else {}
    with ExitStack() as stack:
        for system in config.systems:
            if system.encoder is None:
                pairs[system.name] = _open(config, system)
                continue
            made = {part: _embed(one, console, stack) for part, one in _parts(config, system, shards).items()}
            pairs[system.name] = {_ALL_DIMS: Pair(made["database"], made["queries"])}
            if "corrupted" in made:
                corrupted[system.name] = made["corrupted"]
    for pair in (pair for by_dim in pairs.values() for pair in by_dim.values()):
        rotation_between(pair.database, pair.asking)
    notes: list[str] = []
    return Bench(config, _line_up(config, pairs, beir, notes), pairs, corrupted, notes)


def rotation_between(database: VectorTable, queries: VectorTable) -> Rotation | None:
    """Return the rotation that brings a table of queries into the space of the searched one; None where it is there.

    Raises:
        SpaceMismatch: They differ in more than the rotation.
    """
    ours, theirs = database.space, queries.space
    is_turned = ours.rotation is not None and theirs.rotation is None
    bare = ours.model_copy(update={"rotation": None, "ladder": theirs.ladder}) if is_turned else ours
    if bare.fingerprint != theirs.fingerprint or ours.ladder.width != theirs.ladder.width:
        database.check_space(theirs)
    return database.rotation if is_turned else None


def _lay_out(config: EvaluateConfig, beir: folders.Beir | None) -> dict[str, str]:
    """Write the shards that encoders read; return the pattern of each part."""
    data, place = config.data, Path(config.folder) / "shards"
    if beir is not None:
        return {
            "database": folders.write_documents(beir, place / "corpus"),
            "queries": folders.write_queries(beir, place / "queries"),
        }
    source = Path(data.images or "")
    train, valid = folders.list_pictures(source / data.train), folders.list_pictures(source / data.valid)
    if unknown := sorted({one.label for one in valid} - {one.label for one in train}):
        raise InputError(f"{source / data.valid} has classes that {source / data.train} has not: {', '.join(unknown)}")
    shards = {
        "database": folders.write_pictures(train, source, place / data.train),
        "queries": folders.write_pictures(valid, source, place / data.valid),
    }
    if config.robustness is not None:
        asked = config.robustness
        some = valid[:: -(-len(valid) // asked.pictures)]
        changes = [(kind, severity) for kind in asked.kinds for severity in asked.severities]
        shards["corrupted"] = folders.write_corrupted(some, source, place / "corrupted", changes, asked.pixels)
    return shards


def _parts(config: EvaluateConfig, system: SystemConfig, shards: Mapping[str, str]) -> dict[str, EmbedConfig]:
    """Return the embed job of each part. Queries and corrupted pictures take the rotation of the database later."""
    encoder = system.encoder
    assert encoder is not None
    key = hashlib.sha256(f"{encoder.model_dump_json()}{system.rotation.model_dump_json()}".encode()).hexdigest()[:8]
    place = Path(config.folder) / "tables" / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', system.name)}-{key}"
    parts = {}
    for part, pattern in shards.items():
        if config.data.beir:
            encoder = encoder.model_copy(update={"side": "query" if part == "queries" else "document"})
            fields = InputConfig(id="id", text="text")
        else:
            kept = ("label", "corruption") if part == "corrupted" else ("label",)
            fields = InputConfig(id="id", image="image", keep=kept)
        parts[part] = EmbedConfig(
            shards=(pattern,),
            table=str(place / f"{part}-{Path(pattern).parent.name}.lance"),
            input=fields,
            encoder=encoder,
            rotation=system.rotation if part == "database" else type(system.rotation)(),
            cluster=config.cluster,
            limits=config.limits,
        )
    return parts


def _embed(config: EmbedConfig, console: Console, stack: ExitStack) -> VectorTable:
    if make_plan(config).todo:
        stack.enter_context(connect())  # one Ray for all parts; with nothing to do, none
        summary = embed.run(config)
        if summary.is_stopped:
            raise RunError("stopped while embedding; the same command goes on from here")
        console.print(f"embedded {summary.rows:,} rows in {summary.seconds:.1f} s: {config.table}", highlight=False)
    return VectorTable.open(config.table)


def _open(config: EvaluateConfig, system: SystemConfig) -> dict[int, Pair]:
    found = {}
    for dim in system.dims if system.is_fixed else (_ALL_DIMS,):
        database, queries = system.addresses(dim)
        pair = Pair(
            VectorTable.open(database, storage=config.storage),
            VectorTable.open(queries, storage=config.storage) if queries else None,
        )
        if system.is_fixed and pair.database.space.ladder.width < dim:
            raise ConfigError(
                f"system {system.name!r}: {database} holds {pair.database.space.ladder.width} dims, not {dim}"
            )
        found[dim] = pair
    return found


def _line_up(
    config: EvaluateConfig, pairs: Mapping[str, Mapping[int, Pair]], beir: folders.Beir | None, notes: list[str]
) -> Samples:
    """Find the samples that all systems hold, and what is right among them."""
    every = [_ids(config, pair) for by_dim in pairs.values() for pair in by_dim.values()]
    database, queries = (set.intersection(*(sides[side] for sides in every)) for side in (0, 1))
    if beir is not None:
        queries &= beir.judged.keys()
    for name, shared, most in (
        ("searched rows", database, max(len(sides[0]) for sides in every)),
        ("queries", queries, len(beir.judged) if beir else max(len(sides[1]) for sides in every)),
    ):
        if len(shared) < max(1, _FEWEST_SHARED * most):
            raise InputError(
                f"of {most:,} {name} only {len(shared):,} are in every system's tables; systems are compared on the "
                "same samples, by id: embed the same data for each, with the same input.id"
            )
        if len(shared) < most:
            notes.append(
                f"{most - len(shared):,} of {most:,} {name} are not in every system's tables, and are left out"
            )
    asked = sorted(queries)
    if config.data.queries is not None:
        asked = asked[:: -(-len(asked) // config.data.queries)]
    database_ids, query_ids = pa.array(sorted(database), pa.string()), pa.array(asked, pa.string())
    k, recall = config.measure.k, config.measure.recall
    if beir is not None:
        truth = Judgements.of(beir.judged, asked, database_ids.to_pylist(), k, recall)
        return Samples(database_ids, query_ids, truth, pa.array([], pa.string()))
    first = next(iter(next(iter(pairs.values())).values()))
    names_N = _labels(first.database, config.data.label, database_ids)
    names_Q = _labels(first.asking, config.data.label, query_ids)
    classes = pa.array(sorted({*names_N.to_pylist(), *names_Q.to_pylist()}), pa.string())
    numbers_N, numbers_Q = (pc.index_in(one, classes).to_numpy().astype(np.int64) for one in (names_N, names_Q))
    return Samples(database_ids, query_ids, Labels(numbers_N, numbers_Q, k, recall), classes)


def _ids(config: EvaluateConfig, pair: Pair) -> tuple[set[str], set[str]]:
    """Return the ids that are searched and those that ask; where one table is both, by a hash of the id."""
    database = _unique(pair.database)
    if pair.queries is not None:
        return database, _unique(pair.queries)
    held = {one for one in database if hashlib.blake2b(one.encode()).digest()[0] < 256 * config.data.held_out}
    return database - held, held


def _unique(table: VectorTable) -> set[str]:
    ids = table.dataset.to_table(columns=["id"])["id"].to_pylist()
    if len(unique := set(ids)) < len(ids):
        raise InputError(
            f"{table.uri}: {len(ids) - len(unique):,} of {len(ids):,} ids are not unique, so that rows cannot be told "
            "apart; embed with an input.id that names one sample each"
        )
    return unique


def _labels(table: VectorTable, column: str, ids: pa.Array) -> pa.Array:
    if column not in table.kept.names:
        raise FieldNotFound(
            f"{table.uri} has no column {column!r}{nearest(column, table.kept.names)}; it keeps: "
            f"{', '.join(table.kept.names) or 'none'}; set data.label, or embed with input.keep"
        )
    labels = _in_order(table, column, ids).cast(pa.string())
    if labels.null_count:
        raise InputError(f"{table.uri}: {labels.null_count:,} of {len(labels):,} rows have no {column!r}")
    return labels


def _in_order(table: VectorTable, column: str, ids: pa.Array) -> pa.Array:
    rows = table.dataset.to_table(columns=["id", column])
    return rows[column].combine_chunks().take(pc.index_in(ids, rows["id"].combine_chunks()))


def _read(samples: Samples, pair: Pair) -> Sides:
    database_ND = to_numpy(_in_order(pair.database, VECTOR, samples.database)).astype(np.float32)
    queries_QD = to_numpy(_in_order(pair.asking, VECTOR, samples.queries)).astype(np.float32)
    return database_ND, _turned(queries_QD, rotation_between(pair.database, pair.asking))


def _turned(x_QD: Floats, rotation: Rotation | None) -> Floats:
    return x_QD if rotation is None else rotation.apply(x_QD)


def _is_offered(space: Space, dim: int) -> bool:
    ladder = space.ladder
    return dim in ladder.dims or (ladder.any_from is not None and ladder.any_from <= dim)
