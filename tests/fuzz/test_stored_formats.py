"""Stored JSON mutated in many ways: it is read, or refused with a LakeError; nothing else is raised."""

from __future__ import annotations

import contextlib
import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from schemas.cards import CardRow, RecallCard, TunedFunnel
from schemas.checkpoints import FrozenTower, HeadFile, HeadMeasurements, ModelFile
from schemas.columns import COMPANIONS, SPACE_KEY, Ladder, Space, check_companion, space_of, table_schema
from schemas.config.training import LossConfig, ModelConfig
from schemas.errors import LakeError
from schemas.journal import journal_entry
from schemas.plans import FunnelStage, Plan
from schemas.shortlists import ShortlistSpec
from schemas.stored import Stored

SPACE = Space(encoder="m", revision="1", rotation="0" * 16, prompts={"query": "q: "}, ladder=Ladder(dims=(8, 16)))
_STAGES = (FunnelStage(dims=8, precision="int8", keep=20), FunnelStage(dims=16, precision="float16", keep=10))
_ROW = CardRow(
    dims=8, precision="int8", keep=20, probes=0, looked_at=20, recall=0.9, low=0.8, high=0.95, us_per_query=None,
    us_per_query_batched=1.5, bytes_per_vector=8,
)  # fmt: skip
_CARD = RecallCard(
    k=10, queries=9, rows_in_table=99, version=3, exact_us_per_query=1, exact_us_per_query_batched=1, chosen=0,
    rows=(_ROW,),
)  # fmt: skip
RECORDS: list[Stored] = [
    SPACE,
    TunedFunnel(plan=Plan(stages=_STAGES), card=_CARD),
    HeadFile(dims=(4, 8), towers={"text": FrozenTower(name="wordllama", space="0" * 16)}),
    HeadMeasurements(path="head", by_dim={4: 0.5}),
    ModelFile(kind="classify", model=ModelConfig(image="resnet18"), loss=LossConfig(dims=(4, 8))),
    ShortlistSpec(queries="q", queries_version=1, vectors="v", vectors_version=1, space="0" * 16, dims=(8,), k=3),
]
_STRANGE: list[Any] = [
    None, True, 0, -1, 1 << 63, 1 << 70, 1e308, float("nan"), float("inf"), "", "../../x", "\x00", "\ud800", "é" * 999,
    [], {}, [[]], {"": None}, "0" * 16, [8, 8], [16, 8], [-8], list(range(999)),
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def mutants(record: Any, rng: random.Random, count: int) -> Iterator[str]:
    """Replace, remove, add or rename a part; then damage the text itself."""
    where = [path for path in places(record) if path]
    for path in where:
        for strange in _STRANGE:
            changed = copy.deepcopy(record)
            holder = changed
            for key in path[:-1]:
                holder = holder[key]
            holder[path[-1]] = strange
            yield json.dumps(changed)
        del holder[path[-1]]
        yield json.dumps(changed)
    text = json.dumps(record)
    for _ in range(count):
        at, end = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        yield text[:at] + rng.choice(["", "}", "[" * 5000, '"', "\\u", text[at:end] * 2]) + text[end:]


def use(record: Stored) -> None:
    """Do with a record what its readers do first."""
    record.to_json()
    if isinstance(record, Space):
        assert len(record.fingerprint) == 16
        space_of(table_schema(record, pa.schema([])), "t.lance")
    elif isinstance(record, TunedFunnel):
        assert str(record.card)
        assert record.card.best
        assert record.plan.candidates
        assert record.plan.bytes_per_vector
    elif isinstance(record, ModelFile):
        assert record.modalities


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_mutated_record_is_read_or_refused(record: Stored) -> None:
    rng = random.Random(12)
    for text in mutants(json.loads(record.to_json()), rng, 300):
        with contextlib.suppress(LakeError):
            use(type(record).from_json(text, "there"))


def test_mutated_schemas_are_read_or_refused() -> None:
    rng = random.Random(12)
    types = [pa.null(), pa.int8(), pa.string(), pa.list_(pa.float16(), 8), pa.list_(pa.float16()), pa.float64()]
    sound = [table_schema(SPACE, pa.schema([])), *COMPANIONS.values()]
    for _ in range(300):
        for schema in sound:
            fields = list(schema)
            place = rng.randrange(len(fields))
            fields[place] = rng.choice([fields[place].with_name("other"), fields[place].with_type(rng.choice(types))])
            metadata = dict(schema.metadata or {})
            metadata |= rng.choice([{}, {b"lake:format": rng.randbytes(3)}, {SPACE_KEY: rng.randbytes(9)}])
            changed = pa.schema(rng.sample(fields, rng.randrange(1, len(fields) + 1)), metadata)
            with contextlib.suppress(LakeError):
                space_of(changed, "t.lance")
            with contextlib.suppress(LakeError):
                check_companion(changed, rng.choice(sound), "t.shards.lance")


@pytest.mark.parametrize("key", ["config", "summary"])
def test_mutated_journals_are_read_or_refused(key: str) -> None:
    row = dict.fromkeys(["run", "job", "state", "started_at", "seen_at"], "x") | {"config": "{}", "summary": "{}"}
    for text in mutants({"shards": ["a"], "seconds": 1.5, "stages": {"read": 1}}, random.Random(12), 300):
        with contextlib.suppress(LakeError):
            journal_entry(row | {key: text}, "t.runs.lance")
