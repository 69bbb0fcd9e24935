"""Members of a tar without plain data of their own: read, resolved, or rejected by name."""

from __future__ import annotations

import gzip
import io
import random
import subprocess
import tarfile
from pathlib import Path

import pytest

from pipelines.shards.decompression import Damage
from pipelines.shards.tar_links import Link, SparseMap
from pipelines.shards.tar_stream import TarStream
from schemas.config import InputConfig, LimitsConfig
from tests.support.shard_files import read

TEXT = InputConfig(text="txt", keep=("bin",))
SPARSE_FORMATS = ["gnu", "oldgnu", "posix --sparse-version=0.0", "posix --sparse-version=0.1", "posix"]


def archive(*members: tuple[str, bytes | str, bytes]) -> bytes:
    """Return an archive of (name, data, kind); of a link the data is its target."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data, kind in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if isinstance(data, str):
                info.linkname = data
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


@pytest.mark.parametrize("options", SPARSE_FORMATS)
@pytest.mark.parametrize("pieces", [0, 1, 3, 60])
def test_sparse_members_of_every_format_are_read(tmp_path: Path, options: str, pieces: int) -> None:
    dice = random.Random(pieces)
    path = tmp_path / ("long" * 30 + ".bin")
    with path.open("wb") as file:
        for number in range(pieces):
            file.seek(number * (64 << 10))
            file.write(dice.randbytes(5000))
        file.truncate(pieces * (64 << 10) + 12_345)
    (tmp_path / (path.stem + ".txt")).write_text("a text")
    (tmp_path / "z.txt").write_text("after it")
    (tmp_path / "z.bin").write_bytes(b"plain")
    names = [path.name, f"{path.stem}.txt", "z.txt", "z.bin"]
    command = ["tar", "--sparse", *f"--format={options}".split(), "-cf", "a.tar", *names]
    subprocess.run(command, cwd=tmp_path, check=True)
    got = read(tmp_path / "a.tar", TEXT)
    assert [(row["id"], row["bin"]) for row in got.rows] == [(path.stem, path.read_bytes()), ("z", b"plain")]
    assert got.rejects == []


def test_links_are_followed_within_the_archive(tmp_path: Path) -> None:
    long = "d/" + "x" * 150 + "/a.txt"
    data = archive(
        ("d/e/early.txt", "../../late.txt", tarfile.SYMTYPE),
        (long, b"one", tarfile.REGTYPE),
        ("hard.txt", f"./{long}", tarfile.LNKTYPE),
        ("d/soft.txt", f"{long.removeprefix('d/')}", tarfile.SYMTYPE),
        ("chain.txt", "d/soft.txt", tarfile.SYMTYPE),
        ("late.txt", b"two", tarfile.REGTYPE),
        ("plain.txt", b"three", tarfile.REGTYPE),
    )
    (tmp_path / "a.tar").write_bytes(data)
    got = read(tmp_path / "a.tar", InputConfig(text="txt"))
    first = {"d/e/early": "two", long.removesuffix(".txt"): "one"}
    rest = {"hard": "one", "d/soft": "one", "chain": "one", "late": "two", "plain": "three"}
    assert got.inputs == first | rest
    assert got.rejects == []


def test_what_cannot_be_read_is_rejected_by_name(tmp_path: Path) -> None:
    data = archive(
        ("out.txt", "/etc/passwd", tarfile.SYMTYPE),
        ("up.txt", "../../etc/passwd", tarfile.SYMTYPE),
        ("gone.txt", "no.txt", tarfile.LNKTYPE),
        ("loop.txt", "loop.txt", tarfile.SYMTYPE),
        ("folder.txt", "d", tarfile.SYMTYPE),
        ("d", "", tarfile.DIRTYPE),
        ("pipe.txt", "", tarfile.FIFOTYPE),
        ("device.txt", "", tarfile.CHRTYPE),
        ("big.txt", b"x" * 100, tarfile.REGTYPE),
        ("biglink.txt", "big.txt", tarfile.LNKTYPE),
        ("kept.txt", b"good", tarfile.REGTYPE),
        ("kept.bin", "big.txt", tarfile.LNKTYPE),
        ("unused.txt", b"good", tarfile.REGTYPE),
        ("unused.jpg", "gone", tarfile.SYMTYPE),
    )
    (tmp_path / "a.tar").write_bytes(data)
    got = read(tmp_path / "a.tar", TEXT, LimitsConfig(max_sample_bytes=50))
    assert got.inputs == {"unused": "good"}
    assert got.reasons == {
        **dict.fromkeys(("out", "up", "gone", "loop", "folder"), "broken_link"),
        **dict.fromkeys(("pipe", "device"), "not_a_file"),
        **dict.fromkeys(("big", "biglink", "kept"), "too_large"),
    }
    messages = {reject.key: reject.message for reject in got.rejects}
    assert messages["out"] == "txt is a symbolic link to /etc/passwd, which is no file in this archive"
    assert messages["device"] == "txt is a device in the archive"


def test_a_link_in_a_compressed_archive_is_rejected(tmp_path: Path) -> None:
    data = archive(("a.txt", b"one", tarfile.REGTYPE), ("b.txt", "a.txt", tarfile.LNKTYPE))
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(data))
    got = read(tmp_path / "a.tar.gz", InputConfig(text="txt"))
    assert (got.inputs, got.reasons) == ({"a": "one"}, {"b": "broken_link"})


@pytest.mark.parametrize(
    ("sparse", "stored"),
    [
        (SparseMap(10, [(8, 3)]), b"abc"),
        (SparseMap(10, [(0, 4)]), b"abc"),
        (SparseMap(10, [(-1, 1)]), b"abc"),
        (SparseMap(10, None), b""),
        (SparseMap(10, None), b"999999999\n0\n1\n"),
        (SparseMap(10, None), b"1\n0\nx\n"),
    ],
)
def test_a_sparse_map_that_does_not_fit_is_damage(sparse: SparseMap, stored: bytes) -> None:
    with pytest.raises(Damage, match="sparse map"):
        sparse.expand(stored)


def test_a_sparse_file_of_any_claimed_size_costs_no_memory() -> None:
    claims = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a.txt"}
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("x")
        info.pax_headers, info.size = claims | {"GNU.sparse.realsize": str(1 << 60)}, 4
        tar.addfile(info, io.BytesIO(b"0\n\0\0"))
    assert list(TarStream(io.BytesIO(file.getvalue())).members()) == [("a.txt", 1 << 60)]


@pytest.mark.parametrize(
    ("name", "target", "is_hard", "path"),
    [("d/a", "../b", False, "b"), ("d/a", "b", True, "b"), ("a", "../b", False, ""), ("d/a", "/b", False, "")],
)
def test_where_a_link_leads(name: str, target: str, is_hard: bool, path: str) -> None:
    assert Link(name, target, is_hard).path == path
