"""A ladder knows where vectors may be cut; a schema carries its space; a fingerprint changes when the vectors do."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.columns import (
    SHARDS,
    Ladder,
    Space,
    check_companion,
    prefix_column,
    rotation_schema,
    space_of,
    table_schema,
    vector_field,
)
from schemas.errors import ConfigError, DimNotInLadder, NotMatryoshka, TableError
from schemas.plans import FunnelStage, Plan

SPACE = Space(encoder="m", revision="1", ladder=Ladder(dims=(64, 128, 256)))
STAGES = (FunnelStage(dims=64, precision="int8", keep=20), FunnelStage(dims=256, precision="float16", keep=10))


@given(st.integers(1, 300))
def test_only_rungs_are_allowed(dim: int) -> None:
    if dim in (64, 128, 256):
        assert SPACE.ladder.check(dim) == dim
    else:
        with pytest.raises(DimNotInLadder, match=f"dim {dim} is not in the ladder of t; allowed: 64, 128, 256"):
            SPACE.ladder.check(dim, "t")


@given(st.integers(1, 300))
def test_a_ladder_may_allow_every_dim_from_one_on(dim: int) -> None:
    ladder = Ladder(dims=(64, 256), any_from=32)
    if 32 <= dim <= 256:
        assert ladder.check(dim) == dim
    else:
        with pytest.raises(DimNotInLadder, match="every dim from 32"):
            ladder.check(dim)


def test_one_rung_means_not_matryoshka_and_the_remedy_is_named() -> None:
    ladder = Ladder(dims=(384,))
    assert ladder.check(384) == ladder.width == 384
    with pytest.raises(NotMatryoshka, match=r"t is not Matryoshka-trained.*rotation\.kind=pca.*mlake rotate"):
        ladder.check(64, "t")


@pytest.mark.parametrize(
    "change",
    [
        {"encoder": "n"},
        {"revision": "2"},
        {"weights": "x"},
        {"prompts": {"query": "q: "}},
        {"pooling": "cls"},
        {"steps": ("layer_norm", "l2")},
        {"max_length": 12},
        {"dtype": "bfloat16"},
        {"rotation": "r"},
        {"ladder": Ladder(dims=(64, 256))},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_changes_the_vectors_changes_the_fingerprint(change: dict[str, object]) -> None:
    assert SPACE.model_copy(update=change).fingerprint != SPACE.fingerprint


def test_where_the_files_are_does_not_change_the_fingerprint() -> None:
    assert SPACE.model_copy(update={"path": "/elsewhere"}).fingerprint == SPACE.fingerprint
    assert len(SPACE.fingerprint) == 16


def test_a_setting_of_a_later_release_counts_only_where_it_is_set() -> None:
    class LaterLadder(Ladder):
        unit: str = "dim"

    class Later(Space):
        normalise: bool = True
        tags: tuple[str, ...] = ()
        ladder: LaterLadder

    settings = SPACE.model_dump()
    assert Later.model_validate(settings).fingerprint == SPACE.fingerprint
    changes = ({"normalise": False}, {"tags": ("a",)}, {"ladder": {"dims": (64, 128, 256), "unit": "bit"}})
    assert len({Later.model_validate(settings | change).fingerprint for change in ({}, *changes)}) == 4


def test_the_fingerprint_is_the_one_of_the_first_release() -> None:
    assert SPACE.fingerprint == "b17c668bcabb1b60"


def test_a_schema_says_its_space() -> None:
    schema = table_schema(SPACE, pa.schema([pa.field("n", pa.int32())]))
    assert schema.names == ["id", "shard", "n", "vector"]
    assert schema.field("vector").type == pa.list_(pa.float16(), 256)
    assert space_of(schema, "t") == SPACE
    with pytest.raises(TableError, match="t does not say what space"):
        space_of(schema.remove_metadata(), "t")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (b"{", "the space in the table's schema is not valid JSON"),
        (b'{"encoder": "m"}', "is malformed: revision: Field required; ladder: Field required"),
        (b'{"format": 2, "release": "0.3"}', r"has format 2 and needs matryoshka-lake 0\.3 or newer"),
    ],
)
def test_a_malformed_or_newer_space_is_refused(written: bytes, said: str) -> None:
    with pytest.raises(TableError, match=said):
        space_of(table_schema(SPACE, pa.schema([])).with_metadata({b"lake:space": written}), "t")


def test_a_table_without_its_own_columns_is_refused() -> None:
    schema = table_schema(SPACE, pa.schema([]))
    for number, name in enumerate(["id", "shard", "vector"]):
        with pytest.raises(TableError, match=f"the vector table has no column '{name}'"):
            space_of(schema.remove(number), "t")
    with pytest.raises(TableError, match="has a column 'vector' of type"):
        space_of(schema.set(2, vector_field(8)), "t")


def test_companions_are_checked_by_their_columns() -> None:
    check_companion(SHARDS, SHARDS, "t.shards.lance")
    with pytest.raises(TableError, match=r"t\.shards\.lance: the table's companion has no column 'shard'"):
        check_companion(SHARDS.remove(0), SHARDS, "t.shards.lance")
    with pytest.raises(TableError, match="of type"):
        check_companion(rotation_schema(8), rotation_schema(16), "t.rotation-x.lance")


def test_vector_columns_are_named_by_their_dim_and_laid_out_to_scan_fast() -> None:
    assert prefix_column(64) == "vector_64"
    assert vector_field(64, "vector_64").metadata == {b"lance-encoding:structural-encoding": b"miniblock"}


@pytest.mark.parametrize("name", ["../../etc/x", "0123", "0" * 17, "0123456789ABCDEF", "0" * 15 + "/", "0" * 16 + "\n"])
def test_a_fingerprint_that_could_be_a_path_is_refused(name: str) -> None:
    space = json.loads(SPACE.to_json()) | {"rotation": name}
    with pytest.raises(TableError, match="rotation: String should match pattern"):
        Space.from_json(json.dumps(space), "t.lance")
    with pytest.raises(ConfigError, match="codebook"):
        Plan(stages=STAGES, codebook=f"codebook-{name}")
    assert Plan(stages=STAGES, codebook="codebook-0123456789abcdef").codebook


@pytest.mark.parametrize("dims", [[], [0, 8], [-8], [8, 8], [16, 8], [1 << 40]])
def test_a_ladder_that_no_vector_can_have_is_refused(dims: list[int]) -> None:
    space = json.loads(SPACE.to_json()) | {"ladder": {"dims": dims}}
    with pytest.raises(TableError, match=r"ladder"):
        Space.from_json(json.dumps(space), "t.lance")
