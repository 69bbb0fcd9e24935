"""WebDataset archives: grouping, fields, damage, interleaved members."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import pyarrow as pa
import pytest
import webdataset
import zstandard

from pipelines.shards import list_shards, shard_schema
from schemas.config import InputConfig, LimitsConfig
from schemas.errors import FieldNotFound
from tests.support.shard_files import Member, read, shard_at, tar_bytes, text_members

TEXT = InputConfig(text="txt", keep=("n",))
SEGMENTS = InputConfig(text="txt", keep=("seg.png as seg",))
IMAGE = InputConfig(image="jpg;png", keep=("txt",))


def write(folder: Path, members: list[Member] | bytes, name: str = "a.tar") -> Path:
    path = folder / name
    path.write_bytes(members if isinstance(members, bytes) else tar_bytes(members))
    return path


def test_samples_are_the_members_of_one_key(tmp_path: Path) -> None:
    got = read(write(tmp_path, text_members(["x/1", "x/2", "x.y/3"])), TEXT)
    assert [row["id"] for row in got.rows] == ["x/1", "x/2", "x.y/3"]
    assert got.rows[1] == {"id": "x/2", "position": 1, "input": "text of x/2", "n": "x/2"}
    assert got.rejects == []
    assert got.schemas[0].field("n").type == pa.string()


def test_every_member_is_a_field_or_ignored_by_rule_or_rejected_by_name(tmp_path: Path) -> None:
    ignored = ["._b.txt", "x/.hid.txt", "__meta__/c.txt", "__MACOSX/d.txt", "__MACOSX/._e", ".DS_Store"]
    members = [("a.TXT", b"1"), ("README", b"no"), ("a.seg.png", b"2"), ("__f.txt", b"3"), *((n, b"") for n in ignored)]
    got = read(write(tmp_path, [*members, ("x/README", b"no"), ("README", b"no"), ("c.", b"no")]), SEGMENTS)
    assert got.inputs == {"a": "1", "__f": "3"}
    assert got.rows[0] == {"id": "a", "position": 0, "input": "1", "seg": b"2"}
    assert [(r.key, r.reason) for r in got.rejects] == [(n, "no_field") for n in ("README", "x/README", "README", "c.")]


def test_concatenated_archives_are_read_whole(tmp_path: Path) -> None:
    archives = [tar_bytes(text_members([f"{i}/{j}" for j in range(9)])) for i in range(3)]
    keys = [f"{i}/{j}" for i in range(3) for j in range(9)]
    for name, data in (("a.tar", b"".join(archives)), ("a.tar.gz", b"".join(map(gzip.compress, archives)))):
        got = read(write(tmp_path, data, name), TEXT)
        assert (list(got.inputs), got.rejects) == (keys, [])


def test_the_first_image_extension_of_a_sample_is_used(tmp_path: Path) -> None:
    members = [("a.png", b"P"), ("a.jpg", b"J"), ("b.png", b"p"), ("b.txt", b"\xff\xfe"), ("c.txt", b"alone")]
    got = read(write(tmp_path, members), IMAGE)
    assert got.inputs == {"a": b"J"}
    assert [row["txt"] for row in got.rows] == [None]
    assert got.reasons == {"b": "bad_kept_value", "c": "missing_field"}


@pytest.mark.parametrize(
    ("name", "pack"), [("a.tar.gz", gzip.compress), ("a.tgz", gzip.compress), ("a.tar.zst", zstandard.compress)]
)
def test_compressed(tmp_path: Path, name: str, pack: object) -> None:
    keys = [str(i) for i in range(300)]
    data = pack(tar_bytes(text_members(keys)))  # type: ignore[operator]
    assert list(read(write(tmp_path, data, name), TEXT).inputs) == keys
    cut = read(write(tmp_path, data[: len(data) // 2], name), TEXT)
    assert 0 < len(cut.rows) < 300
    assert {reject.reason for reject in cut.rejects} == {"truncated_shard"}


def test_text_may_be_a_key_of_the_json_member(tmp_path: Path) -> None:
    members = [
        ("a.json", b'{"caption": "one", "url": "u1", "n": {"deep": [1]}}'),
        ("b.json", b'{"caption": 7, "url": "u2"}'),
        ("c.json", b"{broken"),
        ("d.json", b'{"caption": "four"}'),
    ]
    got = read(write(tmp_path, members), InputConfig(text="caption", id="url", keep=("n",)))
    assert got.rows == [{"id": "u1", "position": 0, "input": "one", "n": '{"deep":[1]}'}]
    assert got.reasons == {"b": "not_text", "c": "bad_json", "": "missing_id"}


def test_bad_samples_do_not_harm_their_neighbours(tmp_path: Path) -> None:
    members = [*text_members(["1"]), ("2.txt", b" \n"), *text_members(["3"]), ("4.txt", b"\xff")]
    members += [("5.txt", b"x" * 2000), ("6.txt", b""), *text_members(["7", "1"]), ("8.txt", b"a"), ("8.txt", b"b")]
    got = read(write(tmp_path, members), TEXT, LimitsConfig(max_sample_bytes=1000))
    assert list(got.inputs) == ["1", "3", "7"]
    assert got.reasons == {
        "2": "empty_text",
        "4": "bad_utf8",
        "5": "too_large",
        "6": "empty_text",
        "1": "duplicate_id",
        "8": "duplicate_member",
    }


def test_interleaved_members_lose_only_their_samples(tmp_path: Path) -> None:
    near = [("a.txt", b"a"), ("b.txt", b"b"), ("a.json", b'{"n":1}'), ("b.json", b'{"n":1}'), ("c.txt", b"c")]
    got = read(write(tmp_path, near), TEXT)
    assert got.inputs == {"c": "c"}
    assert got.reasons == {"a": "interleaved", "b": "interleaved"}
    assert "stand apart" in got.rejects[0].message


def test_a_very_late_member_is_reported_too(tmp_path: Path) -> None:
    keys = [str(i) for i in range(1500)]
    members = [(f"{key}.txt", b"text") for key in keys] + [(f"{key}.json", b'{"n":1}') for key in keys]
    got = read(write(tmp_path, members), TEXT, kept_schema=pa.schema([("n", pa.string())]))
    assert len(got.rows) + len({reject.key for reject in got.rejects} - set(got.inputs)) == 1500
    assert {reject.reason for reject in got.rejects} == {"interleaved"}
    assert {reject.key for reject in got.rejects} == set(keys)


def test_a_truncated_archive_gives_all_whole_samples(tmp_path: Path) -> None:
    data = tar_bytes(text_members(["1", "2", "3"]))
    for cut in range(0, 6 * 1024 + 1, 256):
        got = read(write(tmp_path, data[:cut]), TEXT, kept_schema=pa.schema([("n", pa.string())]))
        whole = (cut + 512 - len(b'{"n": "1"}')) // 2048
        assert list(got.inputs) == ["1", "2", "3"][: (cut // 256 + 1) // 8], (cut, whole)
        assert {reject.reason for reject in got.rejects} == {"truncated_shard"}
        assert len(got.rejects) == 1


def test_a_cut_within_a_sample_rejects_it(tmp_path: Path) -> None:
    data = tar_bytes(text_members(["1", "2", "3"]))
    got = read(write(tmp_path, data[: 2048 + 1024 + 100]), TEXT)
    assert list(got.inputs) == ["1"]
    assert [(reject.key, reject.position) for reject in got.rejects] == [("2", 1)]


def test_a_damaged_header_loses_only_its_sample(tmp_path: Path) -> None:
    data = bytearray(tar_bytes(text_members(["1", "2", "3", "4"])))
    data[2048 + 1024 + 5] ^= 1
    got = read(write(tmp_path, bytes(data)), TEXT)
    assert list(got.inputs) == ["1", "3", "4"]
    assert got.reasons == {"2": "corrupt_shard"}
    data = bytearray(tar_bytes(text_members(["1", "2", "3", "4"])))
    data[2048 + 5] ^= 1
    got = read(write(tmp_path, bytes(data)), TEXT)
    assert list(got.inputs) == ["1", "3", "4"]
    assert got.reasons == {"": "corrupt_shard", "2": "corrupt_shard"}


def test_missing_bytes_lose_only_their_sample(tmp_path: Path) -> None:
    data = tar_bytes(text_members(["1", "2", "3", "4"]))
    got = read(write(tmp_path, data[: 2048 + 1024 + 515] + data[2048 + 1024 + 519 :]), TEXT)
    assert list(got.inputs) == ["1", "3", "4"]
    assert got.reasons["2"] == "corrupt_shard"


class _Armed:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (open, ("/tmp/must-not-exist", "w"))


def test_pickles_stay_bytes(tmp_path: Path) -> None:
    data = pickle.dumps(_Armed())
    members = [("a.txt", b"1"), ("a.pyd", data), ("a.pth", data), ("../../evil.txt", b"2"), ("/abs/evil.txt", b"3")]
    got = read(write(tmp_path, members), InputConfig(text="txt", keep=("pyd", "pth")))
    assert got.rows[0]["pyd"] == got.rows[0]["pth"] == data
    assert got.inputs == {"a": "1", "../../evil": "2", "/abs/evil": "3"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]
    assert not Path("/tmp/must-not-exist").exists()


def test_missing_fields_are_refused(tmp_path: Path) -> None:
    shard = shard_at(write(tmp_path, text_members(["1"])))
    with pytest.raises(FieldNotFound, match=r"no field 'text'; did you mean 'txt'\?; it has: txt, json, n"):
        shard_schema(shard, InputConfig(text="text"))
    with pytest.raises(FieldNotFound, match="no field 'url'"):
        shard_schema(shard, InputConfig(text="txt", keep=("url",)))
    assert shard_schema(shard, TEXT) == pa.schema([("n", pa.string())])


def test_blocks_are_bounded(tmp_path: Path) -> None:
    path = write(tmp_path, [(f"{i}.jpg", b"x" * 1_000_000) for i in range(30)])
    from pipelines.shards import read_blocks

    sizes = [block.rows["input"].nbytes for block in read_blocks(shard_at(path), InputConfig(image="jpg"))]
    assert sum(sizes) > 30_000_000
    assert max(sizes) < 10_000_000


def test_shards_written_by_webdataset_are_read_whole(tmp_path: Path) -> None:
    pattern = str(tmp_path / "pairs-%03d.tar")
    with webdataset.ShardWriter(pattern, maxcount=3, verbose=0) as sink:
        for number in range(8):
            sink.write({"__key__": f"sample{number}", "txt": f"text {number}", "json": {"url": f"u{number}"}})
    shards = list_shards([str(tmp_path / "pairs-{000..002}.tar")])
    config = InputConfig(text="txt", keep=("url",))
    rows = [row for shard in shards for row in read(shard, config).rows]
    assert [row["input"] for row in rows] == [f"text {number}" for number in range(8)]
    assert [row["url"] for row in rows] == [f"u{number}" for number in range(8)]
