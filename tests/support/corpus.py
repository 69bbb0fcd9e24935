"""A small corpus of texts whose every row a test knows, and what a table of it must hold."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import lance
import numpy as np

from pipelines.encoders import Encoder, Preparer, load_encoder, load_preparer, make_space
from pipelines.shards import list_shards, shard_schema
from pipelines.tables.create import create_table
from pipelines.tables.table import VectorTable
from schemas.config import EmbedConfig, EncoderConfig, LimitsConfig

WORDS = (
    "river",
    "stone",
    "glass",
    "engine",
    "harbour",
    "violin",
    "winter",
    "copper",
    "garden",
    "letter",
    "lantern",
    "owl",
)

Row = tuple[str, str, bytes]  # uri of its shard, kept column `n`, half-precision vector
Corpus = dict[str, dict[str, str]]  # uri of a shard -> id -> text


def texts(prefix: str, rows: int, seed: int) -> dict[str, str]:
    """Return `rows` texts of 1 to 60 words by id."""
    dice = random.Random(f"{prefix}/{seed}")
    return {f"{prefix}-{i}": " ".join(dice.choices(WORDS, k=dice.randint(1, 60))) for i in range(rows)}


def write_shard(path: Path, samples: Mapping[str, object]) -> str:
    """Write samples as JSON lines; return the shard's uri."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lines(samples))
    return str(path)


def lines(samples: Mapping[str, object]) -> str:
    """Return samples as JSON lines."""
    records = ({"id": key, "text": text, "n": key.rpartition("-")[2]} for key, text in samples.items())
    return "".join(f"{json.dumps(record)}\n" for record in records)


def write_corpus(folder: Path, shards: int, rows: int, seed: int = 0) -> Corpus:
    """Write `shards` files of `rows` texts each."""
    names = [f"s{number:03d}" for number in range(shards)]
    samples = {str(folder / f"{name}.jsonl"): texts(name, rows, seed) for name in names}
    for uri, some in samples.items():
        write_shard(Path(uri), some)
    return samples


def settings(folder: Path | str, table: Path | str, **blocks: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config for a corpus; `blocks` replaces or adds blocks."""
    return {
        "shards": f"{folder}/*.jsonl",
        "table": str(table),
        "input": {"id": "id", "text": "text", "keep": ["n"]},
        "encoder": {"name": "wordllama"},
        "cluster": {"actors": 1, "cpus_per_actor": 0.5, "decode_threads": 1},
        "limits": {"lease_bytes": 1, "commit_age_s": 0.2},
    } | blocks


def config_for(folder: Path | str, table: Path | str, **blocks: Mapping[str, Any]) -> EmbedConfig:
    """Return `settings` as a checked config."""
    return EmbedConfig.model_validate(settings(folder, table, **blocks))


def empty_table(config: EmbedConfig) -> VectorTable:
    """Create the table of a config, without rows."""
    shards = list_shards(config.shards)
    return create_table(config.table, make_space(config.encoder), shard_schema(shards[0], config.input))


def write_config(path: Path, raw: Mapping[str, Any]) -> Path:
    """Write a config as TOML, which for these values is JSON with equals signs."""
    plain = {key: value for key, value in raw.items() if not isinstance(value, Mapping)}
    blocks = {key: value for key, value in raw.items() if isinstance(value, Mapping)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    for name, block in blocks.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in block.items())]
    path.write_text("\n".join(lines) + "\n")
    return path


def truth(corpus: Corpus) -> dict[str, Row]:
    """Return what a table of the corpus must hold, encoded text by text without any of the engine."""
    preparer, encoder = _wordllama()
    rows = {}
    for uri, samples in corpus.items():
        for key, text in samples.items():
            vector_D = encoder.encode(preparer.prepare([text]))[0]  # type: ignore[arg-type]
            rows[key] = (uri, key.rpartition("-")[2], vector_D.astype(np.float16).tobytes())
    return rows


@cache
def _wordllama() -> tuple[Preparer, Encoder]:
    config = EncoderConfig(name="wordllama", device="cpu")
    return load_preparer(config, LimitsConfig()), load_encoder(config)


def contents(table_uri: Path | str, storage_options: dict[str, str] | None = None) -> dict[str, Row]:
    """Return all rows of a table by id.

    Raises:
        AssertionError: An id is there twice.
    """
    table = lance.dataset(str(table_uri), storage_options=storage_options).to_table()
    shards = lance.dataset(str(table_uri).replace(".lance", ".shards.lance"), storage_options=storage_options)
    uri_of = {row["shard"]: row["uri"] for row in shards.to_table(columns=["shard", "uri"]).to_pylist()}
    width = table.schema.field("vector").type.list_size
    vectors_ND = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, width)
    rows = {
        key: (uri_of[shard], n, vector_D.tobytes())
        for key, shard, n, vector_D in zip(
            table["id"].to_pylist(), table["shard"].to_pylist(), table["n"].to_pylist(), vectors_ND, strict=True
        )
    }
    assert len(rows) == table.num_rows, f"{table.num_rows - len(rows)} of {table.num_rows} rows are doubled"
    return rows


def differing(found: Mapping[str, Row], wanted: Mapping[str, Row]) -> Sequence[str]:
    """Return the ids that are missing, too many, or of another content; empty where both are equal."""
    return sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
