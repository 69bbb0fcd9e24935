"""Runs go on with a table by the names of its columns: what fits lands where it belongs, the rest is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.embedding.plan import make_plan
from pipelines.tables.create import create_table
from pipelines.tables.runs import RunRecord
from schemas.config import EmbedConfig
from schemas.errors import ColumnMismatch, FieldNotFound, LakeError
from schemas.source import TableSource
from tests.support.embedding import embed_planned
from tests.support.shard_files import tar_bytes


class Lake:
    """A folder of shards and one table, embedded run by run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.shards = folder, 0

    def config(self, keep: Sequence[str] = (), side: str = "document", **fields: Any) -> EmbedConfig:
        source = {"id": "id", "text": "text"} | fields | {"keep": keep}
        encoder = {"name": "wordllama", "side": side}
        shards = [f"{self.folder}/*.{ending}" for ending in ("jsonl", "parquet", "tar")]
        found = [pattern for pattern in shards if list(self.folder.glob(pattern.rpartition("/")[2]))]
        return EmbedConfig.model_validate(
            {
                "shards": found,
                "table": str(self.folder / "t.lance"),
                "input": source,
                "encoder": encoder,
                "limits": {"max_reject_fraction": 1.0},
            }
        )

    def lines(self, *records: Mapping[str, Any]) -> None:
        """Write a shard of JSON lines; each record gets an id and a text."""
        self.shards += 1
        texts = [{"id": f"{self.shards}-{at}", "text": f"words {at}"} | one for at, one in enumerate(records)]
        (self.folder / f"{self.shards:03}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in texts))

    def parquet(self, **columns: pa.Array) -> None:
        """Write a Parquet shard of columns; it gets ids and texts."""
        self.shards += 1
        rows = len(next(iter(columns.values())))
        own = {"id": [f"{self.shards}-{at}" for at in range(rows)], "text": [f"words {at}" for at in range(rows)]}
        pq.write_table(pa.table(own | columns), self.folder / f"{self.shards:03}.parquet")

    def embed(self, keep: Sequence[str] = (), **settings: Any) -> list[Any]:
        """Embed what is new; return the rejects."""
        return list(embed_planned(self.config(keep, **settings))[1].rejects)

    def rows(self, *names: str) -> dict[str, tuple[Any, ...]]:
        """Return columns of the table by id."""
        found = lance.dataset(str(self.folder / "t.lance")).to_table(columns=["id", *names]).to_pylist()
        return {row["id"]: tuple(row[name] for name in names) for row in found}

    def notes(self, keep: Sequence[str] = (), **settings: Any) -> str:
        return "; ".join(make_plan(self.config(keep, **settings)).columns.notes)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def test_every_value_stands_in_its_own_column_whatever_each_run_keeps(lake: Lake) -> None:
    dice, expected = random.Random(2), {}
    fields = ["a", "b", "c", "d"]
    for run in range(1, 5):
        keep = dice.sample(fields, dice.randint(0, 4))
        lake.lines({name: f"{name} of {run}" for name in dice.sample(fields, 4)})
        if run == 3:  # another tool changes the table
            lance.dataset(str(lake.folder / "t.lance")).add_columns([pa.field("theirs", pa.int64())])
        assert lake.embed(keep) == []
        expected[f"{run}-0"] = {name: f"{name} of {run}" for name in keep}
    names = [name for name in fields if name in lance.dataset(str(lake.folder / "t.lance")).schema.names]
    assert lake.rows(*names, "theirs") == {
        key: (*(kept.get(name) for name in names), None) for key, kept in expected.items()
    }


def test_what_changes_is_said_in_the_plan(lake: Lake) -> None:
    lake.lines({"title": "a", "url": "b", "score": 7})
    lake.embed(["title", "url"])
    lake.lines({"title": "c", "url": "e", "lang": "d", "score": 8})
    keep = ["title", "lang", "score as points"]
    assert lake.notes(["title", "url"]) == ""
    notes = lake.notes(keep)
    assert "'lang' is new: it is added as string" in notes
    assert "'points' is new" in notes
    assert "'url' is not in input.keep: it is null in new rows" in notes
    lake.embed(keep)
    assert "'tone' is new: it is added when there are shards" in lake.notes([*keep, "tone"])
    assert lake.rows("title", "url", "lang", "points") == {
        "1-0": ("a", "b", None, None),
        "2-0": ("c", None, "d", "8"),
    }


def test_a_table_of_a_template_has_the_vectors_of_the_texts_as_made_and_keeps_its_template(lake: Lake) -> None:
    lake.lines({"title": "red; blue", "stars": 0.10}, {"title": None}, {"title": "red", "text": "; blue; 0.10"})
    template = "{title}; {text} {stars?}"
    assert [(r.key, r.message) for r in lake.embed(["stars"], text=template)] == [("1-1", "has no title")]
    made = lake.rows("vector", "stars")
    assert made["1-0"][1] == "0.1"
    assert lake.embed(["stars"], text=template) == []
    with pytest.raises(ColumnMismatch, match=r"input.text was '\{title\}; .*'; use those, or write to another table$"):
        lake.embed(["stars"], text=f"{template}; {{text}}")
    whole = Lake(lake.folder / "whole")
    whole.folder.mkdir()
    whole.lines({"text": "red; blue; words 0 0.1"}, {"text": "red; ; blue; 0.10 "})
    whole.embed()
    assert list(whole.rows("vector").values()) == [made["1-0"][:1], made["1-2"][:1]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": "key"}, "input.id is 'key', and was 'id'"),
        ({"id": None}, "input.id is not set, and was 'id'"),
        ({"text": "title"}, "input.text is 'title', and input.text was 'text'"),
        ({"id_prefix": "shard"}, "input.id_prefix is 'shard', and was 'none'"),
        ({"side": "query"}, "encoder.side is 'query', and was 'document'"),
    ],
)
@pytest.mark.parametrize("is_first_release", [False, True])
def test_a_run_from_other_fields_is_refused(
    lake: Lake, change: dict[str, Any], words: str, *, is_first_release: bool
) -> None:
    lake.lines({"title": "a", "key": "k"})
    config = lake.config()
    if is_first_release:
        plan = make_plan(config)
        RunRecord(create_table(config.table, plan.space, plan.columns.kept), "embed", config)
    else:
        lake.embed()
    with pytest.raises(ColumnMismatch, match=words):
        lake.notes(**change)
    make_plan(lake.config(text="text;title"))


def test_a_column_is_not_filled_from_another_field(lake: Lake) -> None:
    lake.lines({"title": "a", "headline": "b"})
    lake.embed(["title"])
    lake.lines({"title": "a", "headline": "b"})
    with pytest.raises(ColumnMismatch, match=r"is taken from the field 'title'.*takes it from 'headline'"):
        lake.notes(["headline as title"])
    lake.embed(["headline as other"])
    assert lake.rows("title", "other") == {"1-0": ("a", None), "2-0": (None, "b")}


def test_a_column_that_takes_no_nulls_is_made_to_take_them(lake: Lake) -> None:
    lake.lines({"n": "1"})
    config = lake.config(["n"])
    source = TableSource(id="id", modality="text", field="text", side="document")
    kept = pa.schema([pa.field("n", pa.string(), nullable=False)])
    create_table(config.table, make_plan(config).space, kept, source=source)
    lake.embed(["n"])
    lance.dataset(str(lake.folder / "t.lance")).add_columns({"theirs": "1"})
    assert not lance.dataset(str(lake.folder / "t.lance")).schema.field("theirs").nullable
    lake.lines({"n": "2"})
    assert "'theirs' takes no nulls: it is made to take them" in lake.notes(["n"])
    assert lake.embed(["n"]) == []
    lake.lines({"m": "2"})
    assert lake.embed(["m"]) == []
    assert lake.rows("n", "theirs") == {"1-0": ("1", 1), "2-0": ("2", None), "3-0": (None, None)}


def test_the_type_comes_from_all_files_and_holds_the_values_of_all(lake: Lake) -> None:
    day = 1_600_000_000
    nothing = pa.nulls(1)
    lake.parquet(
        n=pa.array([2**30], pa.int32()), at=pa.array([day], pa.timestamp("s")), c=nothing, s=pa.array([{"x": 1}])
    )
    lake.parquet(
        n=pa.array([2**40]),
        at=pa.array([day * 10**9 + 1], pa.timestamp("ns")),
        c=pa.array(["here"]),
        s=pa.array([{"y": "z"}]),
    )
    lake.parquet(n=pa.array([1.5]), at=pa.array([day], pa.timestamp("s")), c=nothing, s=pa.nulls(1))
    assert lake.embed(["n", "at", "c", "s"]) == []
    rows = lake.rows("n", "c", "s")
    assert rows["1-0"] == (2.0**30, None, {"x": 1, "y": None})
    assert rows["2-0"] == (2.0**40, "here", {"x": None, "y": "z"})
    assert rows["3-0"] == (1.5, None, None)
    stamps = lance.dataset(str(lake.folder / "t.lance")).to_table(columns=["at"])["at"]
    assert sorted(stamps.cast(pa.int64()).to_pylist()) == [day * 10**9, day * 10**9, day * 10**9 + 1]


def test_values_that_do_not_fit_a_column_that_is_there_are_rejected_and_counted(lake: Lake) -> None:
    lake.parquet(n=pa.array([1, 2], pa.int32()))
    lake.embed(["n"])
    lake.parquet(n=pa.array([3.0, 2.5, None, 1e300]))
    assert "'n' is int32, and double in the shards: values that do not fit are rejected" in lake.notes(["n"])
    assert [(r.key, r.reason, r.message) for r in lake.embed(["n"])] == [
        ("2-1", "bad_kept_value", "n = 2.5 does not fit int32"),
        ("2-3", "bad_kept_value", "n = 1e+300 does not fit int32"),
    ]
    assert lake.rows("n") == {"1-0": (1,), "1-1": (2,), "2-0": (3,), "2-2": (None,)}


def test_a_column_of_nulls_gets_its_type_from_the_first_value(lake: Lake) -> None:
    lake.parquet(c=pa.nulls(2), tags=pa.array([[], []], pa.list_(pa.null())), same=pa.array([1, 2]))
    assert "holds no value" not in lake.notes(["same"])
    lake.embed(["c", "same"])
    lake.parquet(c=pa.array([["x"]]), tags=pa.array([["y"]]), same=pa.array([3]))
    assert "'c' holds only nulls so far: it becomes list" in lake.notes(["c", "same"])
    lake.embed(["same", "c"])
    assert lake.rows("c", "same") == {"1-0": (None, 1), "1-1": (None, 2), "2-0": (["x"], 3)}


def test_types_that_are_not_alike_are_refused_in_the_plan(lake: Lake) -> None:
    lake.parquet(n=pa.array([1]))
    lake.parquet(n=pa.array(["one"]))
    with pytest.raises(FieldNotFound, match=r"'n' is int64 in .*001.parquet and string in .*002.parquet"):
        lake.notes(["n"])
    (lake.folder / "002.parquet").unlink()
    lake.embed(["n"])
    lake.parquet(n=pa.array([[1]]))
    with pytest.raises(LakeError, match=r"003.parquet: field 'n' is list.* here and int64 in the table"):
        lake.notes(["n"])
    assert list(lake.rows("n")) == ["1-0"]


@pytest.mark.parametrize("is_tar", [False, True])
def test_values_of_json_meet_a_column_of_numbers(lake: Lake, *, is_tar: bool) -> None:
    lake.parquet(n=pa.array([1.5]))
    lake.embed(["n"])
    values = ["2", "1.10", "1e3", '"1e3"', '"2.5"', '"x"', "null"]
    records = [f'{{"id": "2-{at}", "text": "words", "n": {value}}}' for at, value in enumerate(values)]
    if is_tar:
        members = [(f"{at}.json", record.encode()) for at, record in enumerate(records)]
        (lake.folder / "2.tar").write_bytes(tar_bytes(members))
    else:
        (lake.folder / "2.jsonl").write_text("\n".join(records))
    rejects = lake.embed(["n"])
    assert [(r.key, r.reason) for r in rejects] == [("2-3", "bad_kept_value"), ("2-5", "bad_kept_value")]
    assert lake.rows("n") == {
        "1-0": (1.5,), "2-0": (2.0,), "2-1": (1.1,), "2-2": (1000.0,), "2-4": (2.5,), "2-6": (None,)
    }  # fmt: skip
