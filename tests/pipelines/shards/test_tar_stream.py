"""The tar parser reads what tarfile reads, and recovers from damage."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.shards.decompression import Damage
from pipelines.shards.tar_stream import TarStream
from tests.support.shard_files import tar_bytes

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
names = st.text(
    st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cc"]), min_size=1, max_size=140
)


def walk(data: bytes, read: bool = True) -> tuple[list[tuple[str, bytes | None]], list[Damage]]:
    stream = TarStream(io.BytesIO(data))
    members: list[tuple[str, bytes | None]] = []
    damages = []
    for item in stream.members():
        if isinstance(item, Damage):
            damages.append(item)
        elif isinstance(item, tuple):
            members.append((item[0], stream.read() if read else None))
    return members, damages


def by_tarfile(data: bytes) -> list[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [(info.name, archive.extractfile(info).read()) for info in archive if info.isreg()]  # type: ignore[union-attr]


@given(st.lists(st.tuples(names, st.binary(max_size=1500)), max_size=8), st.sampled_from(FORMATS[1:]))
def test_reads_what_tarfile_reads(members: list[tuple[str, bytes]], kind: int) -> None:
    data = tar_bytes([(f"d/{name.replace('/', '_')}", content) for name, content in members], kind)
    got, damages = walk(data)
    assert got == by_tarfile(data)
    assert not damages


@pytest.mark.parametrize("kind", FORMATS)
def test_long_names(kind: int) -> None:
    members = [("a" * 90 + "/" + "b" * 60 + ".txt", b"1"), ("short.txt", b"2")]
    assert walk(tar_bytes(members, kind)) == (members, [])


def test_sizes_beyond_octal_and_by_pax() -> None:
    data = bytearray(tar_bytes([("a.txt", b"hello")], tarfile.GNU_FORMAT))
    data[124:136] = b"\x80" + (5).to_bytes(11, "big")
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + 256 + sum(data[156:512]))
    assert walk(bytes(data)) == ([("a.txt", b"hello")], [])
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a.txt")
        info.size, info.pax_headers = 5, {"size": "5", "comment": "ü\n="}
        archive.addfile(info, io.BytesIO(b"hello"))
    assert walk(file.getvalue()) == ([("a.txt", b"hello")], [])


def test_members_that_are_no_regular_files_are_skipped() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"x{kind.decode()}.txt")
            info.type, info.linkname = kind, "../../etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("a.txt")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"1"))
    assert walk(file.getvalue()) == ([("a.txt", b"1")], [])


@pytest.mark.parametrize("blocks", [1, 2, 7, 20, 40])
def test_archives_one_behind_the_other_are_one(blocks: int) -> None:
    """As `cat` joins them, whether their writers fill the last record or write two blocks of zeros only."""
    archives = [tar_bytes([(f"{i}/{j}.txt", b"x" * 512) for j in range(blocks)]) for i in range(3)]
    names = [f"{i}/{j}.txt" for i in range(3) for j in range(blocks)]
    short = [archive.rstrip(b"\0")[: 1024 * blocks] + bytes(1024) for archive in archives]
    for whole in (b"".join(archives), b"".join(short), short[0] + archives[1] + short[2]):
        members, damages = walk(whole)
        assert [name for name, _ in members] == names
        assert damages == []


def test_holes_of_a_download_are_noticed() -> None:
    data = tar_bytes([(f"{i}.txt", b"x" * 600) for i in range(200)])
    hole = data[: 1536 * 5] + bytes(1536 * 3) + data[1536 * 8 :]
    members, damages = walk(hole)
    assert [name for name, _ in members] == [f"{i}.txt" for i in range(200) if i not in (5, 6, 7)]
    assert ["4608 zeros" in str(damage) for damage in damages] == [True]
    members, damages = walk(data[: 1536 * 5] + bytes(len(data) - 1536 * 5))
    assert len(members) == 5
    assert [damage.reason for damage in damages] == ["truncated_shard"]


def test_bytes_lost_in_a_header_do_not_harm_the_member_before_it() -> None:
    data = tar_bytes([("a.txt", b"x" * 600), ("b.txt", b"y"), ("c.txt", b"z")])
    for lost in (data[:1600] + data[1610:], data[:1600] + b"more" + data[1600:]):
        got, damages = walk(lost)
        assert [name for name, _ in got] == ["a.txt", "c.txt"]
        assert [type(damage).__name__ for damage in damages] == ["Damage"]


@pytest.mark.parametrize("read", [True, False])
def test_every_cut_is_noticed(read: bool) -> None:
    data = tar_bytes([("a.txt", b"x" * 700), ("b.txt", b"y")])
    end = 512 + 1024 + 512 + 512
    for cut in range(0, end + 1024, 37):
        members, damages = walk(data[:cut], read)
        assert [damage.reason for damage in damages] == ["truncated_shard"]
        assert len(members) == (cut >= 512) + (cut >= 512 + 1024 + 512)
    assert walk(data[: end + 1024], read)[1] == []


@given(st.data())
def test_a_damaged_header_loses_only_its_own_member(data: st.DataObject) -> None:
    members = [(f"{i}.txt", b"%d" % i * (i * 300)) for i in range(5)]
    archive = bytearray(tar_bytes(members))
    victim = data.draw(st.integers(0, 4))
    at = sum(512 + len(content) + -len(content) % 512 for _, content in members[:victim])
    byte = data.draw(st.integers(0, 511))
    archive[at + byte] ^= 1 << data.draw(st.integers(0, 7))
    got, damages = walk(bytes(archive))
    # A flip that the checksum's own field absorbs changes nothing.
    kept = [member for i, member in enumerate(members) if i != victim]
    assert [member for member in got if member != members[victim]] == kept
    assert len(damages) == (members[victim] not in got)


def test_a_damaged_extended_header_loses_its_member() -> None:
    long = "n" * 150 + ".txt"
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        for byte in (0, 130, 150, 156):
            data = bytearray(tar_bytes([("a.txt", b"1"), (long, b"2"), ("c.txt", b"3")], kind))
            data[1024 + byte] ^= 0x55
            got, damages = walk(bytes(data))
            assert got == [("a.txt", b"1"), ("c.txt", b"3")]
            assert [damage.reason for damage in damages] == ["corrupt_shard"]
    broken = tar_bytes([("a.txt", b"1"), (long, b"2"), ("c.txt", b"3")], tarfile.PAX_FORMAT).replace(b"path=", b"path ")
    got, damages = walk(broken)
    assert got == [("a.txt", b"1"), ("c.txt", b"3")]
    assert "malformed" in str(damages[0])


@pytest.mark.parametrize(
    "record", [b"-9 a=b\n", b"0 a=b\n", b"99 a=b\n", b"x a=b\n", b"4010 size=" + b"9" * 3999 + b"\n"]
)
def test_extended_headers_with_wrong_values_are_damage(record: bytes) -> None:
    def header(name: bytes, kind: bytes, size: int) -> bytes:
        block = bytearray(tar_bytes([(name.decode(), b"")])[:512])
        block[124:136], block[156:157] = b"%011o\0" % size, kind
        block[148:156] = b"%06o\0 " % (sum(block[:148]) + 256 + sum(block[156:]))
        return bytes(block)

    lie = header(b"PaxHeader", b"x", len(record)) + record + bytes(-len(record) % 512)
    got, damages = walk(lie + tar_bytes([("a.txt", b"1"), ("b.txt", b"2")]))
    assert got == [("b.txt", b"2")]
    assert [damage.reason for damage in damages] == ["corrupt_shard"]


def test_missing_bytes_are_a_shift() -> None:
    data = tar_bytes([("a.txt", b"x" * 600), ("b.txt", b"y"), ("c.txt", b"z")])
    got, damages = walk(data[:700] + data[710:])
    assert [name for name, _ in got] == ["a.txt", "b.txt", "c.txt"]
    assert [type(damage).__name__ for damage in damages] == ["Shift"]


def test_a_file_that_is_no_archive_is_one_damage() -> None:
    for junk in (b"\x89PNG" * 1000, b"<html>" * 100):
        got, damages = walk(junk)
        assert got == []
        assert len(damages) == 1
