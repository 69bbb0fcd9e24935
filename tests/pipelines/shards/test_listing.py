"""Listing: globs, ranges, folders, lists, formats by name."""

from __future__ import annotations

import os
from pathlib import Path

import lance
import pyarrow as pa
import pytest

from pipelines.shards import list_shards
from pipelines.storage.addresses import sibling
from schemas.config import InputConfig
from schemas.errors import ConfigError, ShardNotFound
from tests.support.shard_files import read


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def names(patterns: list[str], folder: Path, **options: object) -> list[str]:
    shards = list_shards([pattern.replace("~", str(folder)) for pattern in patterns], **options)  # type: ignore[arg-type]
    assert all(Path(shard.uri).is_absolute() for shard in shards)
    return [str(Path(shard.uri).relative_to(folder)) for shard in shards]


def test_globs_ranges_and_directories_in_natural_order(tmp_path: Path) -> None:
    touch(tmp_path, "x-2.tar", "x-10.tar", "x-1.tar", "deep/y.parquet", "deep/er/z.jsonl.gz", "README.md", "_SUCCESS")
    everything = ["deep/er/z.jsonl.gz", "deep/y.parquet", "x-1.tar", "x-2.tar", "x-10.tar"]
    assert names(["~"], tmp_path) == everything
    assert names(["~/*.tar"], tmp_path) == everything[2:]
    assert names(["~/x-[12].tar"], tmp_path) == everything[2:4]
    assert names(["~/**/*.parquet", "~/**/*.gz"], tmp_path) == everything[:2]
    assert names(["~/x-{1..2}.tar"], tmp_path) == everything[2:4]
    assert names(["~/{x-10.tar,deep/y.parquet}"], tmp_path) == ["deep/y.parquet", "x-10.tar"]
    assert names(["~/x-1.tar", "~/x-*.tar", "~"], tmp_path) == everything
    assert names(["~/d*"], tmp_path) == everything[:2]


def test_folders_come_in_order_too(tmp_path: Path) -> None:
    touch(tmp_path, "d10/a.tar", "d2/b.tar", "d/c.tar", "d/10.tar", "d/9.tar")
    assert names(["~"], tmp_path) == ["d/9.tar", "d/10.tar", "d/c.tar", "d2/b.tar", "d10/a.tar"]


def test_padded_ranges(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{i:04d}.tar" for i in range(12)))
    assert names(["~/{0000..0011}.tar"], tmp_path) == [f"{i:04d}.tar" for i in range(12)]


@pytest.mark.parametrize("listed", ["list.txt", "@list"])
def test_lists_in_a_file(tmp_path: Path, listed: str) -> None:
    touch(tmp_path, "a.tar", "b-1.tar", "b-2.tar", "c.tar")
    (tmp_path / listed.removeprefix("@")).write_text(f"# mine\n{tmp_path}/a.tar\n\n{tmp_path}/b-*.tar\n")
    pattern = f"{'@' if '@' in listed else ''}{tmp_path}/{listed.removeprefix('@')}"
    assert names([pattern], tmp_path) == ["a.tar", "b-1.tar", "b-2.tar"]


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "d/a.tar")
    monkeypatch.chdir(tmp_path)
    assert names(["d/a.tar", "d", "d/*", "./d/a.tar"], tmp_path) == ["d/a.tar"]


def test_identity_follows_content(tmp_path: Path) -> None:
    touch(tmp_path, "a.tar")
    (before,) = list_shards([str(tmp_path)])
    assert (before.size, before.format) == (5, "webdataset")
    assert list_shards([str(tmp_path)])[0].id == before.id
    os.utime(tmp_path / "a.tar", ns=(1, 1))
    assert list_shards([str(tmp_path)])[0].id != before.id


def test_formats_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "a.tar.gz", "b.TGZ", "c.tar.zst", "d.pq", "e.ndjson", "f.json.gz", "g.jsonl.zst")
    found = [shard.format for shard in list_shards([str(tmp_path)])]
    assert found == ["webdataset"] * 3 + ["parquet"] + ["jsonl"] * 3


def test_a_given_format_wins(tmp_path: Path) -> None:
    touch(tmp_path, "a.dat", "b.tar")
    (shard,) = list_shards([str(tmp_path / "a.dat")], "webdataset")
    assert shard.format == "webdataset"
    assert names(["~"], tmp_path, format="webdataset") == ["b.tar"]
    assert [s.format for s in list_shards([f"{tmp_path}/*"], "webdataset")] == ["webdataset"] * 2


def test_an_unknown_extension_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.csv")
    for pattern in ("a.csv", "*.csv"):
        with pytest.raises(ConfigError, match=r"a\.csv has no known extension; it may end in \.tar, .*parquet"):
            list_shards([f"{tmp_path}/{pattern}"])


def test_a_glob_of_another_level_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "a/b/x-1.parquet", "a/b/y.tar", "_a/z.jsonl", "top.jsonl")
    for pattern, meant in {
        "*.parquet": "**/*.parquet",
        "a/x-*": "a/**/x-*",
        "a/b/*/*/*.tar": "a/b/**/*.tar",
        "*/*.jsonl": "**/*.jsonl",
    }.items():
        with pytest.raises(ShardNotFound) as refused:
            list_shards([f"{tmp_path}/{pattern}"])
        assert f"matches nothing; did you mean '{tmp_path}/{meant}'? `**/` stands for folders" in str(refused.value)
        assert list_shards([f"{tmp_path}/{meant}"])
    for pattern in ("*.pq", "a/**/*.jsonl", "nowhere/*.tar"):
        with pytest.raises(ShardNotFound, match="matches nothing") as refused:
            list_shards([f"{tmp_path}/{pattern}"])
        assert "**/` stands" not in str(refused.value)


def test_the_first_part_that_is_not_there_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "photos/2024/a.tar")
    with pytest.raises(ShardNotFound, match=r"is not there: there is no .*/phtos; did you mean 'photos'\?; its folder"):
        list_shards([f"{tmp_path}/phtos/2024/a.tar"])


def test_a_missing_file_is_named_with_its_neighbours(tmp_path: Path) -> None:
    touch(tmp_path, "train-0.tar", "train-1.tar")
    with pytest.raises(ShardNotFound, match=r"trian-0\.tar is not there; did you mean 'train-0\.tar'\?"):
        list_shards([f"{tmp_path}/trian-0.tar"])
    with pytest.raises(
        ShardNotFound, match=r"\*\.parquet matches nothing; its folder holds train-0\.tar, train-1\.tar"
    ):
        list_shards([f"{tmp_path}/*.parquet"])
    with pytest.raises(ShardNotFound, match=r"2 of .*\{0\.\.3\}\.tar are not there, the first is .*train-2\.tar"):
        list_shards([f"{tmp_path}/train-{{0..3}}.tar"])
    with pytest.raises(ShardNotFound, match=r"there is no .*/none; its folder holds train-0\.tar"):
        list_shards([f"{tmp_path}/none/x.tar"])
    with pytest.raises(ShardNotFound, match=r"no\.txt is not there"):
        list_shards([f"@{tmp_path}/no.txt"])
    with pytest.raises(ConfigError, match=r"braces .* not balanced"):
        list_shards([f"{tmp_path}/x-{{0..3.tar"])


def test_lance_tables_are_a_shard_per_fragment(tmp_path: Path) -> None:
    table = pa.table({"text": [f"t{i}" for i in range(30)]})
    uri = str(tmp_path / "t.lance")
    lance.write_dataset(table, uri, max_rows_per_file=10)
    first = list_shards([uri])
    assert [shard.uri for shard in first] == [f"{uri}#{i}" for i in range(3)]
    assert list_shards([str(tmp_path)]) == list_shards([f"{tmp_path}/*.lance"]) == list_shards([f"{uri}/"]) == first
    lance.write_dataset(table, uri, mode="append")
    assert list_shards([uri])[:3] == first
    lance.dataset(uri).delete("text = 't1'")
    assert [shard in first for shard in list_shards([uri])] == [False, True, True, False]
    with pytest.raises(ShardNotFound, match="no Lance table"):
        list_shards([str(tmp_path / "u.lance")])


HIDDEN = ("_temporary/0/a.jsonl", ".ipynb_checkpoints/a.jsonl", "._a.jsonl", ".a.jsonl", "d/_b.jsonl", "d/.git/c.jsonl")


def test_every_kind_of_pattern_discovers_the_same_files(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a.jsonl", "d/b.jsonl", *HIDDEN)
    touch(tmp_path, "other/c.jsonl", "other/_no.jsonl")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "other")
    (tmp_path / "in" / "d" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "again.jsonl").symlink_to(tmp_path / "in" / "a.jsonl")
    (tmp_path / "list.txt").write_bytes(f"\ufeff{tmp_path}/in\r\n# all\r\n".encode())
    (tmp_path / "wide.txt").write_bytes(f"{tmp_path}/in\r\n".encode("utf-16"))
    found = ["in/a.jsonl", "in/d/b.jsonl", "other/c.jsonl"]
    patterns = ["~/in", "~/in/", "~/in/**", "~/in/**/*.jsonl", "~/in/**/*.[j]sonl", "~/i*", "~/?n", "~/list.txt"]
    for pattern in [*patterns, "~/wide.txt", "file://~/in", "~/in/../in", "~//in//", "~/{in,in}", "~/in/*"]:
        assert names([pattern], tmp_path) == found, pattern
    assert names([f"~/in/{name}" for name in HIDDEN], tmp_path) == sorted(f"in/{name}" for name in HIDDEN)
    assert names(["~/in/_temporary", "~/in/.i*"], tmp_path) == [f"in/{HIDDEN[1]}", f"in/{HIDDEN[0]}"]
    assert names(["~/in/._*"], tmp_path) == [f"in/{HIDDEN[2]}"]


def test_one_file_is_one_shard_however_it_is_addressed(tmp_path: Path) -> None:
    touch(tmp_path, "d/a b.tar", "d/x/c.tar")
    (tmp_path / "l").symlink_to(tmp_path / "d" / "x")
    (tmp_path / "l.tar").symlink_to("d/x/c.tar")
    (tmp_path / "blob.tar").symlink_to(tmp_path / "blob")
    (tmp_path / "bloc.tar").symlink_to(tmp_path / "blob")
    touch(tmp_path, "blob")
    spellings = ["~/d/a b.tar", "~/d/../d//a b.tar", "~/d/./a b.tar", "file://~/d/a b.tar", "file://~/d/a%20b.tar"]
    assert names([*spellings, "~/l/../a b.tar"], tmp_path) == ["d/a b.tar"]
    assert names(["~/l.tar"], tmp_path) == names(["~/l/c.tar", "~/l", "~/l.tar"], tmp_path) == ["d/x/c.tar"]
    # The target of a link may lack the extension; the name that has it stays, once.
    assert names(["~/blo*.tar"], tmp_path) == ["blob.tar"]


@pytest.mark.parametrize(
    "name", ["a[1].tar", "a{1,2}.tar", "a{1.tar", "a\\b.tar", "a*?.tar", "[!a].tar", "é %41#?.tar"]
)
def test_a_name_that_exists_is_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder = tmp_path / f"in {name.removesuffix('.tar')}"
    touch(folder, name)
    for pattern in (name, "", "*.tar", "?*"):
        assert names([f"{folder}/{pattern}"], folder) == [name], pattern
    monkeypatch.chdir(folder)
    assert names([name], folder) == names(["*"], folder) == names(["."], folder) == [name]


def test_a_name_that_is_not_utf8_can_be_stored_and_read(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.jsonl"
    with open(path, "wb") as file:  # noqa: PTH123 - a path of bytes
        file.write(b'{"text": "one"}\n')
    (tmp_path / "list.txt").write_bytes(path + b"\n")
    (shard,) = list_shards([str(tmp_path)])
    assert shard.uri == f"file://{tmp_path}/caf%E9.jsonl"
    assert [shard] == list_shards([str(tmp_path / "list.txt")]) == list_shards([shard.uri])
    assert [row["input"] for row in read(shard, InputConfig(text="text")).rows] == ["one"]


def test_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.tar")
    (tmp_path / "b.tar").symlink_to(tmp_path / "gone.tar")
    with pytest.raises(ShardNotFound, match=r"b\.tar is a link to .*gone\.tar, which is not there"):
        list_shards([str(tmp_path)])
    assert names(["~/a*"], tmp_path) == ["a.tar"]


@pytest.mark.parametrize("table", ["in/t.lance", "in/t", "in/deep/t.lance"])
def test_the_table_and_its_companions_are_never_discovered(tmp_path: Path, table: str) -> None:
    touch(tmp_path, "in/a.jsonl")
    rows = pa.table({"text": ["x"]})
    lance.write_dataset(rows, tmp_path / "in" / "input.extra.lance")
    uri = str(tmp_path / table)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    before = list_shards([f"{tmp_path}/in"], table=uri)
    assert len(before) == 2
    suffixes = ("shards", "rejects", "runs", "shortlist", "shortlist.parts", "rotation-0a", "codebook-9f")
    for address in (uri, *(sibling(uri, suffix) for suffix in suffixes)):
        lance.write_dataset(rows, address)
    for pattern in ("in", "in/**", "i*", "**/*.lance", "in/*.jsonl", "link"):
        asked = [f"{tmp_path}/{pattern}", f"{tmp_path}/in/a.jsonl", f"{tmp_path}/in/input.extra.lance"]
        assert list_shards(asked, table=f"{tmp_path}/link/../in/{table.removeprefix('in/')}") == before, pattern
    if table.endswith(".lance"):
        with pytest.raises(ConfigError, match="is the table that this run writes to"):
            list_shards([f"{tmp_path}/in/../{table}"], table=uri)
        assert len(list_shards([f"{tmp_path}/in"])) == 3, "of another table the companions are passed over too"


def test_a_data_file_of_a_lance_table_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "x.lance")
    with pytest.raises(ConfigError, match="a Lance table is a folder"):
        list_shards([str(tmp_path / "x.lance")])


@pytest.mark.parametrize("braces", ["{0..99999999999}", "{0..9}" * 7, "{1..1001}-{1..1000}"])
def test_braces_that_stand_for_too_many_names_are_refused_at_once(tmp_path: Path, braces: str) -> None:
    with pytest.raises(ConfigError, match="stands for more than"):
        list_shards([str(tmp_path / f"x-{braces}.tar")])


def test_a_folder_of_pictures_says_how_they_become_a_shard(tmp_path: Path) -> None:
    (tmp_path / "pics").mkdir()
    for name in ("a.png", "b.png", "c.JPG"):
        (tmp_path / "pics" / name).write_bytes(b"x")
    with pytest.raises(ShardNotFound, match=r"pics/? holds no shard .*2 \.png, 1 \.JPG; .*tar -cf"):
        list_shards([f"{tmp_path}/pics"])
    with pytest.raises(ShardNotFound, match=r"pisc/ is not there; did you mean 'pics'"):
        list_shards([f"{tmp_path}/pisc/"])
