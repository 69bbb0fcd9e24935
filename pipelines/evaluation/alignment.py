"""Alignment: the samples that all systems hold, in one order, with their ground truth and vectors.

Owns the matching of rows by id, and which rows of a single table are queries: those that its head did not learn from.
Does not own metrics.

Shapes: N database rows, Q queries, D full width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.evaluation.metrics import GroundTruth, Judgements, Labels
from pipelines.evaluation.prepare import ALL_DIMS, TablePair, Tables, rotation_between
from pipelines.evaluation.systems import Floats, Sides, System, between, fixed, nested
from pipelines.tables.splits import held_out_ids, split_of
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_numpy
from pipelines.vectors.rotation import Rotation
from schemas.column_names import DOCUMENT
from schemas.columns import VECTOR, Space
from schemas.config.evaluation import EvaluateConfig, SystemConfig
from schemas.errors import ConfigError, FieldNotFound, InputError, nearest
from schemas.splits import Split

_MIN_SHARED = 0.5
_HEAD, _MODEL = "matryoshka-head", "matryoshka-model"


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples that every system holds, in one order.

    Attributes:
        database: Ids of the N database rows, string; of their documents where passages are judged by document.
        queries: Ids of the Q queries, string.
        truth: The ground truth.
        classes: Names of the classes; empty where the ground truth is judgements.
    """

    database: pa.Array
    queries: pa.Array
    truth: GroundTruth
    classes: pa.Array


@dataclass(frozen=True, eq=False)
class Aligned:
    """Tables of several systems over the same samples.

    Attributes:
        config: The job's config.
        samples: The samples and their ground truth.
        tables: The tables.
        notes: Warnings for the reader, such as samples that were left out.
    """

    config: EvaluateConfig
    samples: Samples
    tables: Tables
    notes: Sequence[str]

    def systems(self) -> Iterator[tuple[System, Sides]]:
        """Yield each system with the full vectors of its largest dim; vectors are read when a system is reached."""
        for config in self.config.systems:
            pairs = self.tables.pairs[config.name]
            if config.is_fixed:
                by_dim = {dim: partial(_read_sides, self.samples, pair) for dim, pair in pairs.items()}
                yield fixed(config.name, by_dim), by_dim[max(by_dim)]()
                continue
            pair = pairs[ALL_DIMS]
            if self._is_by_document and _has_passages(pair.database):
                sides, documents_N = _read_passages(self.samples, pair)
                yield replace(self._nested(config, sides, pair.database.space), documents_N=documents_N), sides
            else:
                sides = _read_sides(self.samples, pair)
                yield self._nested(config, sides, pair.database.space), sides

    @property
    def _is_by_document(self) -> bool:
        return isinstance(self.samples.truth, Judgements)

    def corrupted_queries(self, system: str) -> tuple[list[str], npt.NDArray[np.int64], Floats]:
        """Read a system's corrupted images: the corruption, class and vector of each."""
        table, pair = self.tables.corrupted[system], self.tables.pairs[system][ALL_DIMS]
        rows = table.dataset.to_table(columns=["id", "corruption", self.config.data.label, VECTOR]).sort_by("id")
        labels_Q = pc.index_in(rows[self.config.data.label], self.samples.classes).to_numpy().astype(np.int64)
        vectors_QD = _rotate(to_numpy(rows[VECTOR]).astype(np.float32), rotation_between(pair.database, table))
        return rows["corruption"].to_pylist(), labels_Q, vectors_QD

    def _nested(self, config: SystemConfig, sides: Sides, space: Space) -> System:
        dims = config.dims or space.ladder.dims
        if max(dims) > space.ladder.width:
            raise ConfigError(
                f"system {config.name!r}: dim {max(dims)} is beyond its {space.ladder.width} dims; its ladder is "
                f"{space.ladder}"
            )
        made_for = [dim for dim in dims if _is_in_ladder(space, dim)]
        extra = between(made_for) if self.config.measure.between else ()
        return nested(config.name, sides, (*dims, *extra), made_for)


def align(config: EvaluateConfig, tables: Tables) -> Aligned:
    """Find the samples that all systems hold, and their ground truth.

    Raises:
        FieldNotFound: The table has no column of labels.
        InputError: The systems share too few samples, ids are not unique, or a row has no label.
        ConfigError: The queries of a table would be rows that its head learnt from.
    """
    pairs = [pair for by_dim in tables.pairs.values() for pair in by_dim.values()]
    notes: list[str] = []
    split = _common_split(config, pairs, notes)
    if tables.beir is not None:
        _check_passages(config, tables)
    ids = [_ids(pair, split, by_document=tables.beir is not None) for pair in pairs]
    judged = tables.beir.judged if tables.beir is not None else None
    judged_ids = None if judged is None else set(judged)
    database = _shared("searched rows", [sides[0] for sides in ids], None, notes)
    queries = _shared("queries", [sides[1] for sides in ids], judged_ids, notes)
    if config.data.queries is not None:
        queries = queries[:: -(-len(queries) // config.data.queries)]
    database_ids, query_ids = pa.array(database, pa.string()), pa.array(queries, pa.string())
    k, recall = config.measure.k, config.measure.recall
    if judged is not None:
        truth = Judgements.of(judged, queries, database, k, recall)
        return Aligned(config, Samples(database_ids, query_ids, truth, pa.array([], pa.string())), tables, notes)
    names_N = _labels(pairs[0].database, config.data.label, database_ids)
    names_Q = _labels(pairs[0].query_table, config.data.label, query_ids)
    classes = pa.array(sorted({*names_N.to_pylist(), *names_Q.to_pylist()}), pa.string())
    labels_N, labels_Q = (pc.index_in(one, classes).to_numpy().astype(np.int64) for one in (names_N, names_Q))
    samples = Samples(database_ids, query_ids, Labels(labels_N, labels_Q, k, recall), classes)
    return Aligned(config, samples, tables, notes)


def _shared(what: str, ids: Sequence[set[str]], judged: set[str] | None, notes: list[str]) -> list[str]:
    """Return the ids that all systems hold, sorted; only judged ones where there are judgements."""
    shared = set.intersection(*ids)
    shared = shared if judged is None else shared & judged
    most = max(map(len, ids)) if judged is None else len(judged)
    if len(shared) < max(1, _MIN_SHARED * most):
        raise InputError(
            f"of {most:,} {what} only {len(shared):,} are in every system's tables; systems are compared on the "
            "same samples, by id: embed the same data for each, with the same input.id"
        )
    if len(shared) < most:
        notes.append(f"{most - len(shared):,} of {most:,} {what} are not in every system's tables, and are left out")
    return sorted(shared)


def _common_split(config: EvaluateConfig, pairs: Sequence[TablePair], notes: list[str]) -> Split:
    """Return how the queries of single tables are held out: as their heads held rows out, where they have heads.

    Raises:
        ConfigError: A head does not say which rows it held out, it held out fewer than asked for, or two heads held out
            different rows.
    """
    data = config.data
    recorded: dict[Split, str] = {}
    for table in (pair.database for pair in pairs if pair.queries is None):
        if table.space.encoder == _HEAD:
            split = split_of(table)
            if split is None or split.share == 0:
                raise ConfigError(
                    f"{table.uri} was made through a head that "
                    f"{'does not say which rows it held out' if split is None else 'learnt from every row'}, so its "
                    "queries would be rows that it was trained on; give `queries`, a table of other rows, or run "
                    "`mlake train` with `into` and data.held_out again"
                )
            recorded.setdefault(split, table.uri)
        elif table.space.encoder == _MODEL:
            notes.append(
                f"{table.uri} was made by a model trained here; if its training data were among these rows, the scores "
                "are too high: give `queries`, a table of other rows"
            )
    if len(recorded) > 1:
        listed = "; ".join(f"{uri}: {split}" for split, uri in recorded.items())
        raise ConfigError(
            f"the heads held out different rows ({listed}), so no queries are new to all; train them with the same "
            "data.held_out, data.group and run.seed, or give `queries`"
        )
    if not recorded:
        return Split(share=data.held_out)
    ((split, uri),) = recorded.items()
    if "held_out" in data.model_fields_set and data.held_out > split.share:
        raise ConfigError(
            f"data.held_out={data.held_out}, but the head of {uri} held out {split}, and learnt from all others; "
            "leave data.held_out out, or lower it"
        )
    notes.append(f"the queries are rows that the head of {uri} did not learn from: {split}")
    return split.model_copy(update={"share": data.held_out}) if "held_out" in data.model_fields_set else split


def _has_passages(table: VectorTable) -> bool:
    return table.source is not None and table.source.chunk is not None


def _check_passages(config: EvaluateConfig, tables: Tables) -> None:
    """Refuse tables of passages in which the passages of a document cannot be told at every dim.

    Raises:
        ConfigError: A system has one for each dim.
    """
    for system in config.systems:
        for pair in tables.pairs[system.name].values():
            if system.is_fixed and _has_passages(pair.database):
                raise ConfigError(
                    f"system {system.name!r}: {pair.database.uri} holds passages, and each dim has a table of its own; "
                    "give one table for all dims, or tables that were made without [chunk]"
                )


def _ids(pair: TablePair, split: Split, *, by_document: bool) -> tuple[set[str], set[str]]:
    """Return the ids of database and queries; where one table holds both, split them."""
    database = _unique_ids(pair.database)
    if by_document and _has_passages(pair.database):
        database = set(pair.database.dataset.to_table(columns=[DOCUMENT])[DOCUMENT].to_pylist())
    if pair.queries is not None:
        return database, _unique_ids(pair.queries)
    held = held_out_ids(pair.database, split)
    return database - held, held


def _unique_ids(table: VectorTable) -> set[str]:
    ids = table.dataset.to_table(columns=["id"])["id"].to_pylist()
    if len(unique := set(ids)) < len(ids):
        raise InputError(
            f"{table.uri}: {len(ids) - len(unique):,} of {len(ids):,} ids are not unique, so rows cannot be matched; "
            "embed with an input.id that is unique"
        )
    return unique


def _labels(table: VectorTable, column: str, ids: pa.Array) -> pa.Array:
    if column not in table.kept.names:
        raise FieldNotFound(
            f"{table.uri} has no column {column!r}{nearest(column, table.kept.names)}; its columns are: "
            f"{', '.join(table.kept.names) or 'none'}; set data.label, or embed with input.keep"
        )
    labels = _in_order(table, column, ids).cast(pa.string())
    if labels.null_count:
        raise InputError(f"{table.uri}: {labels.null_count:,} of {len(labels):,} rows have no {column!r}")
    return labels


def _in_order(table: VectorTable, column: str, ids: pa.Array) -> pa.Array:
    rows = table.dataset.to_table(columns=["id", column])
    return rows[column].combine_chunks().take(pc.index_in(ids, rows["id"].combine_chunks()))


def _read_sides(samples: Samples, pair: TablePair) -> Sides:
    database_ND = to_numpy(_in_order(pair.database, VECTOR, samples.database)).astype(np.float32)
    queries_QD = to_numpy(_in_order(pair.query_table, VECTOR, samples.queries)).astype(np.float32)
    return database_ND, _rotate(queries_QD, rotation_between(pair.database, pair.query_table))


def _read_passages(samples: Samples, pair: TablePair) -> tuple[Sides, npt.NDArray[np.int64]]:
    """Read the passages of the samples' documents, and the place of each one's document among the samples."""
    rows = pair.database.dataset.to_table(columns=[DOCUMENT, VECTOR])
    places = pc.index_in(rows[DOCUMENT].combine_chunks(), samples.database)
    rows = rows.append_column("place", places).filter(pc.is_valid(places))
    database_ND = to_numpy(rows[VECTOR]).astype(np.float32)
    queries_QD = to_numpy(_in_order(pair.query_table, VECTOR, samples.queries)).astype(np.float32)
    sides = database_ND, _rotate(queries_QD, rotation_between(pair.database, pair.query_table))
    return sides, rows["place"].to_numpy().astype(np.int64)


def _rotate(x_QD: Floats, rotation: Rotation | None) -> Floats:
    return x_QD if rotation is None else rotation.apply(x_QD)


def _is_in_ladder(space: Space, dim: int) -> bool:
    ladder = space.ladder
    return dim in ladder.dims or (ladder.any_from is not None and ladder.any_from <= dim)
