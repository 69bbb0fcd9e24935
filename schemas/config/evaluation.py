"""The config of `mlake evaluate`: the data, the systems to compare, and the measurements."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from schemas.config.blocks import (
    ChunkConfig,
    ClusterConfig,
    ConfigBlock,
    EncoderConfig,
    LimitsConfig,
    RotationConfig,
    StorageConfig,
)
from schemas.config.bounds import MAX_COUNT, Count, Dim, K, Number, Seed, Share

Corruption = Literal[
    "gaussian-noise", "shot-noise", "impulse-noise", "gaussian-blur", "brightness", "contrast", "jpeg", "pixelate"
]
Baseline = Literal["truncation", "pca", "random-columns", "random-projection"]
_DIM = "{dim}"


class TruthConfig(ConfigBlock):
    """The ground truth, and the samples that encoders embed.

    Attributes:
        images: Folder with the subfolders `train` and `valid`, each with one subfolder of images per class.
        beir: Folder in BEIR layout: corpus.jsonl, queries.jsonl, and qrels/<split>.tsv or qrels.tsv.
        train: Subfolder of `images` that is searched, and that probes are fitted on.
        valid: Subfolder of `images` whose images are the queries.
        split: Name of the relevance judgements.
        label: Column of a table that holds the class of a row.
        held_out: For a system with one table: fraction of its rows that are queries and are not searched. The default
            for a table made through a head is the rows that the head held out.
        queries: Maximum number of queries, evenly spread over all; None takes all.
    """

    images: str | None = None
    beir: str | None = None
    train: str = "train"
    valid: str = "val"
    split: str = "test"
    label: str = "label"
    held_out: Share = 0.2
    queries: Annotated[int, Number, Field(ge=2, le=MAX_COUNT)] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.images and self.beir:
            raise ValueError("name `images` or `beir`, not both; another evaluation is another config")
        return self


class SystemConfig(ConfigBlock):
    """Vectors to evaluate under one name: those of tables, or of an encoder that embeds the data.

    Attributes:
        name: Name of the system in the results.
        database: Table that is searched, and that probes are fitted on. With `{dim}` in the address there is one
            table per dim.
        queries: Table of the queries, with `{dim}` likewise; None holds out a part of `database`.
        encoder: Encoder that embeds the data, in place of tables.
        rotation: Rotation of that encoder's vectors.
        chunk: Cut the texts of `data.beir` into passages for that encoder; a document is as near as its nearest one.
        dims: Dims to measure; empty is every dim of its ladder.
    """

    name: str
    database: str | None = None
    queries: str | None = None
    encoder: EncoderConfig | None = None
    rotation: RotationConfig = RotationConfig()
    chunk: ChunkConfig | None = None
    dims: tuple[Dim, ...] = ()

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.database is None) == (self.encoder is None):
            raise ValueError(f"system {self.name!r}: give `database` (a table), or `encoder`, and not both")
        if self.chunk is not None and self.encoder is None:
            raise ValueError(f"system {self.name!r}: `chunk` goes with `encoder`; a table has its passages already")
        if self.queries is not None and self.database is None:
            raise ValueError(f"system {self.name!r}: `queries` goes with `database`")
        if self.is_fixed:
            if not self.dims:
                raise ValueError(f"system {self.name!r}: {_DIM} in an address needs `dims`")
            if self.queries is not None and _DIM not in self.queries:
                raise ValueError(f"system {self.name!r}: {_DIM} must be in the addresses of both its tables")
        return self

    @property
    def is_fixed(self) -> bool:
        """Whether each dim has its own tables."""
        return self.database is not None and _DIM in self.database

    def addresses(self, dim: int) -> tuple[str, str | None]:
        """Return the addresses of the searched table and of the query table, for a dim."""
        database = (self.database or "").replace(_DIM, str(dim))
        return database, self.queries and self.queries.replace(_DIM, str(dim))


class MeasureConfig(ConfigBlock):
    """Measurements at every dim.

    Attributes:
        between: Measure also half-way between the dims of a ladder.
        linear: Fit linear probes.
        k: Number of neighbours of mAP@k and nDCG@k.
        recall: Each K of recall@K.
        shots: Rows per class of the few-shot training sets.
        imbalance: Rows of the most common class divided by rows of the rarest, in a long-tail training set; None makes
            no such set.
        repeats: Number of few-shot and long-tail sets of each kind.
        draws: Number of bootstrap draws.
        confidence: Confidence of all intervals.
        seed: Seed of every random choice.
        device: Torch device of neighbours and linear probes; `auto` is a GPU if there is one.
    """

    between: bool = True
    linear: bool = True
    k: K = 10
    recall: tuple[K, ...] = (10, 100)
    shots: tuple[Count, ...] = ()
    imbalance: Annotated[float, Number, Field(gt=1, le=1e6)] | None = None
    repeats: Annotated[Count, Field(le=10_000)] = 5
    draws: Annotated[int, Number, Field(ge=10, le=1_000_000)] = 1000
    confidence: Share = 0.95
    seed: Seed = 0
    device: str = "auto"


class RobustnessConfig(ConfigBlock):
    """Retrieval of clean images with corrupted ones.

    Attributes:
        kinds: Kinds of corruption.
        severities: Severities of each kind, 1 to 5.
        pictures: Number of images of `valid` that are corrupted, evenly spread over it.
        pixels: Side of the square that is cut from the middle of each image; clean images are cut the same way.
    """

    kinds: tuple[Corruption, ...] = Field(min_length=1)
    severities: tuple[Literal[1, 2, 3, 4, 5], ...] = Field((3,), min_length=1)
    pictures: Annotated[int, Number, Field(ge=10, le=MAX_COUNT)] = 500
    pixels: Annotated[int, Number, Field(ge=8, le=16_384)] = 224


class CascadeConfig(ConfigBlock):
    """Adaptive classification by linear probes at nested dims.

    Attributes:
        held_out: Fraction of the queries that the thresholds are learnt on; accuracy is measured on the others.
    """

    held_out: Share = 0.2


class RetrievalConfig(ConfigBlock):
    """Adaptive and funnel retrieval.

    Attributes:
        keep: Candidates of adaptive retrieval: a shortlist and one rerank.
        keeps: Candidates that each stage of the funnel keeps.
        queries: Maximum number of queries; each setting is timed on all of them three times.
    """

    keep: Count = 200
    keeps: tuple[Count, ...] = Field((200, 100, 50, 25, 10), min_length=2)
    queries: Annotated[int, Number, Field(ge=2, le=MAX_COUNT)] = 1000


class EvaluateConfig(ConfigBlock):
    """Settings of `mlake evaluate`.

    Attributes:
        folder: Folder for metrics.json, report.html, and the shards and tables of encoders.
        data: The ground truth.
        systems: Systems to compare; the first is the reference.
        baselines: Baselines made from full vectors: those of the first system that has its own tables per dim, at its
            largest dim, as in the paper; without one, those of the first system. A system with a ladder is its own
            truncation.
        measure: Measurements at every dim.
        robustness: Measurements on corrupted images; only with `data.images` and a first system with an encoder.
        cascade: Adaptive classification; needs labels.
        retrieval: Adaptive and funnel retrieval.
    """

    folder: str
    data: TruthConfig = TruthConfig()
    systems: tuple[SystemConfig, ...] = Field(min_length=1)
    baselines: tuple[Baseline, ...] = ("truncation", "pca", "random-columns")
    measure: MeasureConfig = MeasureConfig()
    robustness: RobustnessConfig | None = None
    cascade: CascadeConfig | None = None
    retrieval: RetrievalConfig | None = None
    cluster: ClusterConfig = ClusterConfig()
    limits: LimitsConfig = LimitsConfig()
    storage: StorageConfig = StorageConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        names = [system.name for system in self.systems]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two systems are named {twice[0]!r}")
        has_samples = self.data.images is not None or self.data.beir is not None
        for system in self.systems:
            if system.encoder is not None and not has_samples:
                raise ValueError(
                    f"system {system.name!r} has an encoder: set data.images or data.beir, for it to embed"
                )
            if system.chunk is not None and self.data.beir is None:
                raise ValueError(f"system {system.name!r}: `chunk` cuts texts; set data.beir")
            if self.data.beir and system.database is not None and system.queries is None:
                raise ValueError(f"system {system.name!r}: judgements need a table of queries; set `queries`")
        if self.robustness is not None and not (self.data.images and self.systems[0].encoder):
            raise ValueError("[robustness] corrupts pictures: it needs data.images and a first system with an encoder")
        if self.systems[0].is_fixed and (self.cascade or self.retrieval):
            raise ValueError(
                f"[cascade] and [retrieval] cut the vectors of the first system, and {names[0]!r} has others at each "
                "dim; put one first that can be cut"
            )
        if self.cascade is not None and self.data.beir:
            raise ValueError("[cascade] classifies: it needs labels, not judgements")
        return self
