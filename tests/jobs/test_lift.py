"""What `mlake delete` has erased stays out, whatever becomes of its shard, until `mlake lift` lets it in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.__main__ import main
from pipelines.tables.erased import remembered
from pipelines.tables.opening import open_dataset
from tests.support.corpus import settings, write_config
from tests.support.erasures import LOCAL
from tests.support.shard_files import tar_bytes, text_members


class Lake:
    """A table that is embedded from a folder of lines, and what its verbs said."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], **fields: Any) -> None:
        self.src, self.uri, self._capsys, self._folder = folder / "src", str(folder / "t.lance"), capsys, folder
        self.fields: dict[str, Any] = {"text": "text", **fields}
        self.src.mkdir()

    def write(self, file: str, *names: str) -> None:
        lines = [json.dumps({"id": name, "text": f"the text of {name}"}) for name in names]
        (self.src / file).write_text("".join(f"{line}\n" for line in lines))

    def run(self, *words: str) -> tuple[int, str]:
        self._capsys.readouterr()
        code = main(list(words))
        printed = self._capsys.readouterr()
        return code, " ".join((printed.out + printed.err).split())

    def embed(self, *words: str) -> tuple[int, str]:
        config = settings(self.src, self.uri, input=self.fields) | {"shards": str(self.src)}
        return self.run("embed", str(write_config(self._folder / "c.toml", config)), *words)

    def erase(self, where: str) -> None:
        assert self.run("delete", self.uri, "--where", where)[0] == 0

    def texts(self) -> list[str]:
        rows = open_dataset(self.uri, LOCAL).to_table(columns=["id"])["id"].to_pylist()
        return sorted(str(name).rpartition("-")[2] for name in rows)

    def path(self, file: str) -> str:
        return str(self.src / file)


@pytest.mark.parametrize("prefix", ["none", "shard"])
def test_a_changed_shard_brings_no_erased_sample_back(
    tmp_path: Path, without_ray: None, capsys: pytest.CaptureFixture[str], prefix: str
) -> None:
    lake = Lake(tmp_path, capsys, id="id", id_prefix=prefix)
    lake.write("a.jsonl", "p", "q", "r")
    lake.write("b.jsonl", "s", "t")
    assert lake.embed()[0] == 0
    lake.erase("id LIKE '%q'")
    for _ in range(2):  # the rule holds for every later content
        lake.write("a.jsonl", *"pqrvwxyz"[: 4 + _])
        code, said = lake.embed("--dry-run")
        assert "samples with these ids stay out; to let them in: mlake lift" in said
        code, said = lake.embed()
        assert (code, "have erased them: 1 sample" in said.replace("has", "have")) == (0, True)
        assert lake.texts() == sorted([*"prvwxyz"[: 3 + _], "s", "t"])
    assert remembered(lake.uri, LOCAL) == {lake.path("a.jsonl"): 1}
    code, said = lake.run("lift", lake.uri, "--id", "q")
    assert (code, remembered(lake.uri, LOCAL)) == (0, {})
    lake.write("a.jsonl", "q")
    assert lake.embed()[0] == 0
    assert lake.texts() == ["q", "s", "t"]


def test_an_erased_id_stays_out_of_every_shard_unless_others_have_it(
    tmp_path: Path, without_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = Lake(tmp_path, capsys, id="id")
    lake.write("a.jsonl", "p", "q", "twice")
    lake.write("b.jsonl", "s", "twice")
    assert lake.embed()[0] == 0
    (shard,) = {
        row["shard"]
        for row in open_dataset(lake.uri, LOCAL).to_table(columns=["id", "shard"]).to_pylist()
        if row["id"] == "q"
    }
    lake.erase(f"shard = {shard} AND id IN ('q', 'twice')")
    (lake.src / "a.jsonl").unlink()
    lake.write("moved.jsonl", "p", "q", "twice")  # `twice` never was a name of one sample alone
    assert lake.embed()[0] == 0
    assert lake.texts() == ["p", "p", "s", "twice", "twice"]
    lake.write("a.jsonl", "q", "twice", "new")
    assert lake.embed()[0] == 0
    assert lake.texts() == ["new", "p", "s", "twice", "twice"]


def test_samples_without_ids_are_refused_where_they_cannot_be_known(
    tmp_path: Path, without_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = Lake(tmp_path, capsys, keep=["id as name"])
    lake.write("a.jsonl", "p", "q", "r")
    (lake.src / "b.tar").write_bytes(tar_bytes(text_members(["s", "t"])))
    lake.fields["text"] = "text;txt"
    assert lake.embed()[0] == 0
    lake.erase("name = 'q'")
    lake.erase("id = 's'")
    assert lake.texts() == ["0", "2", "t"]
    lake.write("a.jsonl", "p", "q", "r", "u")
    code, said = lake.embed()
    assert (code, "a.jsonl has changed since `mlake delete` erased 1 sample of it, which had no id" in said) == (
        2,
        True,
    )
    code, said = lake.run("lift", lake.uri, "--shard", lake.path("a.jsonk"))
    assert (code, f"did you mean {lake.path('a.jsonl')!r}" in said) == (2, True)
    assert lake.run("lift", lake.uri, "--shard", lake.path("a.jsonl"))[0] == 0
    # A tar names its samples, so they are known by that in its later contents.
    (lake.src / "b.tar").write_bytes(tar_bytes(text_members(["s", "t", "v"])))
    assert lake.embed()[0] == 0
    assert lake.texts() == ["0", "1", "2", "3", "t", "v"]


def test_an_erasure_of_what_older_versions_have_does_not_touch_the_present_sample(
    tmp_path: Path, without_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(*samples: dict[str, Any]) -> None:
        (lake.src / "a.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))

    lake = Lake(tmp_path, capsys, id="id", keep=["by"])
    write({"id": "p", "text": "one", "by": "jo"}, {"id": "q", "text": "two", "by": "jo"})
    assert lake.embed()[0] == 0
    write({"id": "p", "text": "one", "by": "ann"})
    assert lake.embed()[0] == 0
    lake.erase("by = 'jo'")  # both are in the older version alone
    write({"id": "p", "text": "one, again", "by": "ann"}, {"id": "q", "text": "two", "by": "jo"})
    assert lake.embed()[0] == 0
    assert lake.texts() == ["p"]
    code, said = lake.run("lift", lake.uri)
    assert (code, "2 erased samples of" in said) == (0, True)
