"""Tables to evaluate: embed the test set for systems that have an encoder, open the tables of the others.

Owns the way from a config to open tables. The job passes `Embed`, which runs an embedding job on Ray. `alignment`
finds the samples that all tables share.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.evaluation import datasets
from pipelines.tables.table import VectorTable
from pipelines.vectors.rotation import Rotation
from schemas.config import EmbedConfig, InputConfig
from schemas.config.evaluation import EvaluateConfig, SystemConfig
from schemas.errors import ConfigError, InputError

ALL_DIMS = 0
"""Key of the tables that serve every dim of a system."""

Embed = Callable[[EmbedConfig], None]
"""Embeds the shards of a config that its table does not hold yet; raises `RunError` when it was stopped."""


@dataclass(frozen=True, eq=False)
class TablePair:
    """The table of the database and that of the queries; without the latter, queries are held out of the database."""

    database: VectorTable
    queries: VectorTable | None

    @property
    def query_table(self) -> VectorTable:
        """The table that holds the queries."""
        return self.queries or self.database


@dataclass(frozen=True, eq=False)
class Tables:
    """Open tables of all systems.

    Attributes:
        pairs: Tables by system and dim; under `ALL_DIMS` where one pair serves every dim.
        corrupted: Tables of corrupted images, by system; only of those with one.
        beir: The test set that holds the relevance judgements; None where labels are the ground truth.
    """

    pairs: Mapping[str, Mapping[int, TablePair]]
    corrupted: Mapping[str, VectorTable]
    beir: datasets.Beir | None


def prepare(config: EvaluateConfig, embed: Embed) -> Tables:
    """Embed the test set where a system has an encoder, and open all tables.

    Args:
        config: The job's config.
        embed: Runs one embedding job.

    Raises:
        ConfigError: The systems do not fit the data.
        InputError: The data cannot be read.
        TableNotFound: A table is missing.
        SpaceMismatch: The two tables of a system are of different spaces.
        RunError: Embedding was stopped.
    """
    data = config.data
    beir = datasets.read_beir(Path(data.beir), data.split) if data.beir else None
    pairs: dict[str, dict[int, TablePair]] = {}
    corrupted: dict[str, VectorTable] = {}
    shards = _write_shards(config, beir) if any(system.encoder for system in config.systems) else {}
    for system in config.systems:
        if system.encoder is None:
            pairs[system.name] = open_pairs(config, system)
            continue
        made = {}
        for part, job in _embed_configs(config, system, shards).items():
            embed(job)
            made[part] = VectorTable.open(job.table)
        pairs[system.name] = {ALL_DIMS: TablePair(made["database"], made["queries"])}
        if "corrupted" in made:
            corrupted[system.name] = made["corrupted"]
    for pair in (pair for by_dim in pairs.values() for pair in by_dim.values()):
        rotation_between(pair.database, pair.query_table)
    return Tables(pairs, corrupted, beir)


def rotation_between(database: VectorTable, queries: VectorTable) -> Rotation | None:
    """Return the rotation that brings queries into the space of the database; None where they are in it.

    Raises:
        SpaceMismatch: The tables differ in more than the rotation.
    """
    ours, theirs = database.space, queries.space
    needs_rotation = ours.rotation is not None and theirs.rotation is None
    bare = ours.model_copy(update={"rotation": None, "ladder": theirs.ladder}) if needs_rotation else ours
    if bare.fingerprint != theirs.fingerprint or ours.ladder.width != theirs.ladder.width:
        database.check_space(theirs)
    return database.rotation if needs_rotation else None


def _write_shards(config: EvaluateConfig, beir: datasets.Beir | None) -> dict[str, str]:
    """Write the shards to embed; return the pattern of each part."""
    data, folder = config.data, Path(config.folder) / "shards"
    if beir is not None:
        return {
            "database": datasets.write_documents(beir, folder / "corpus"),
            "queries": datasets.write_queries(beir, folder / "queries"),
        }
    source = Path(data.images or "")
    train, valid = datasets.list_images(source / data.train), datasets.list_images(source / data.valid)
    if unknown := sorted({one.label for one in valid} - {one.label for one in train}):
        raise InputError(f"{source / data.valid} has classes that {source / data.train} lacks: {', '.join(unknown)}")
    shards = {
        "database": datasets.write_images(train, source, folder / data.train),
        "queries": datasets.write_images(valid, source, folder / data.valid),
    }
    if config.robustness is not None:
        robustness = config.robustness
        some = valid[:: -(-len(valid) // robustness.pictures)]
        changes = [(kind, severity) for kind in robustness.kinds for severity in robustness.severities]
        shards["corrupted"] = datasets.write_corrupted(some, source, folder / "corrupted", changes, robustness.pixels)
    return shards


def _embed_configs(config: EvaluateConfig, system: SystemConfig, shards: Mapping[str, str]) -> dict[str, EmbedConfig]:
    """Return the embedding job of each part.

    Only the database is rotated; `rotation_between` rotates queries and corrupted images when they are read.
    """
    encoder = system.encoder
    assert encoder is not None
    chunk = "" if system.chunk is None else str(system.chunk)
    settings = f"{encoder.model_dump_json()}{system.rotation.model_dump_json()}{chunk}"
    key = hashlib.sha256(settings.encode()).hexdigest()[:8]
    folder = Path(config.folder) / "tables" / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', system.name)}-{key}"
    jobs = {}
    for part, pattern in shards.items():
        if config.data.beir:
            encoder = encoder.model_copy(update={"side": "query" if part == "queries" else "document"})
            fields = InputConfig(id="id", text="text")
        else:
            kept = ("label", "corruption") if part == "corrupted" else ("label",)
            fields = InputConfig(id="id", image="image", keep=kept)
        jobs[part] = EmbedConfig(
            shards=(pattern,),
            table=str(folder / f"{part}-{Path(pattern).parent.name}.lance"),
            input=fields,
            encoder=encoder,
            chunk=system.chunk if part == "database" else None,
            rotation=system.rotation if part == "database" else type(system.rotation)(),
            cluster=config.cluster,
            limits=config.limits,
        )
    return jobs


def open_pairs(config: EvaluateConfig, system: SystemConfig) -> dict[int, TablePair]:
    """Open the tables of a system that has some, by dim; under `ALL_DIMS` where one pair serves every dim.

    Raises:
        TableNotFound: A table is missing.
        ConfigError: A table is narrower than the dim that it is for.
    """
    found = {}
    for dim in system.dims if system.is_fixed else (ALL_DIMS,):
        database, queries = system.addresses(dim)
        pair = TablePair(
            VectorTable.open(database, storage=config.storage),
            VectorTable.open(queries, storage=config.storage) if queries else None,
        )
        if system.is_fixed and pair.database.space.ladder.width < dim:
            raise ConfigError(
                f"system {system.name!r}: {database} holds {pair.database.space.ladder.width} dims, not {dim}"
            )
        found[dim] = pair
    return found
