"""Parquet files: types, ids, bad values, damaged row groups."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.shards import read_blocks, shard_schema
from pipelines.shards.parquet_pages import dictionary_of, largest_page, largest_value
from schemas.config import InputConfig, LimitsConfig
from schemas.errors import FieldNotFound, ShardNotFound, ShardUnreadable
from tests.support.shard_files import read, shard_at

TEXT = InputConfig(text="text", id="key", keep=("n", "tags"))


def table(rows: int = 10) -> pa.Table:
    return pa.table(
        {
            "key": [f"k{i}" for i in range(rows)],
            "text": [f"text {i}" for i in range(rows)],
            "n": pa.array(range(rows), pa.int16()),
            "tags": [[str(i)] for i in range(rows)],
            "other": [b"never read"] * rows,
        }
    )


def write(folder: Path, data: pa.Table, **options: object) -> Path:
    pq.write_table(data, folder / "a.parquet", **options)
    return folder / "a.parquet"


def test_keeps_the_files_own_types(tmp_path: Path) -> None:
    path = write(tmp_path, table(), row_group_size=3)
    got = read(path, TEXT)
    assert got.rows[7] == {"id": "k7", "position": 7, "input": "text 7", "n": 7, "tags": ["7"]}
    kept = shard_schema(shard_at(path), TEXT)
    assert kept.types == [pa.int16(), table().schema.field("tags").type]
    assert got.schemas[0].field("n").type == pa.int16()


def test_default_ids_are_shard_and_position(tmp_path: Path) -> None:
    path = write(tmp_path, table())
    got = read(path, InputConfig(text="text"))
    assert got.rows[3]["id"] == f"{shard_at(path).id}-3"


def test_ids_may_be_integers_dictionaries_and_binary(tmp_path: Path) -> None:
    ids = [
        pa.array([3, 1, 2], pa.uint64()),
        pa.array(["a", "b", "a2"]).dictionary_encode(),
        pa.array([b"a", b"b", b"\xff"]),
    ]
    for values, expected in zip(ids, (["3", "1", "2"], ["a", "b", "a2"], ["a", "b"]), strict=True):
        path = write(tmp_path, pa.table({"key": values, "text": ["x", "y", "z"]}))
        assert [row["id"] for row in read(path, InputConfig(text="text", id="key")).rows] == expected


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.string_view()])
def test_texts_of_every_string_type(tmp_path: Path, kind: pa.DataType) -> None:
    path = write(tmp_path, pa.table({"text": pa.array(["a", None, " ", "ü"]).cast(kind)}))
    got = read(path, InputConfig(text="text"))
    assert [row["input"] for row in got.rows] == ["a", "ü"]
    assert [reject.reason for reject in got.rejects] == ["missing_field", "empty_text"]


def test_bad_utf8_in_a_string_column(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"b\xffd", b"fine"])
    bad = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    path = write(tmp_path, pa.table({"text": bad, "kept": bad, "key": ["a", "b", "c"]}))
    got = read(path, InputConfig(text="text", id="key"))
    assert got.reasons == {"b": "bad_utf8"}
    got = read(path, InputConfig(text="key", keep=("kept",)))
    assert [row["kept"] for row in got.rows] == ["good", "fine"]
    assert [reject.reason for reject in got.rejects] == ["bad_kept_value"]


def test_images_as_binary_or_in_a_struct(tmp_path: Path) -> None:
    structs = pa.array([{"bytes": b"J", "path": "a"}, {"bytes": None, "path": "b"}, {"bytes": b"", "path": "c"}])
    path = write(tmp_path, pa.table({"image": structs, "png": [b"P", b"Q", None]}))
    got = read(path, InputConfig(image="image"))
    assert [row["input"] for row in got.rows] == [b"J"]
    assert [reject.reason for reject in got.rejects] == ["missing_field", "empty_image"]
    assert [row["input"] for row in read(path, InputConfig(image="image;png")).rows] == [b"J", b"Q"]
    assert [row["input"] for row in read(path, InputConfig(image="jpg;png")).rows] == [b"P", b"Q"]


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.list_(pa.float32(), 2), pa.large_list(pa.float16())])
def test_vectors(tmp_path: Path, kind: pa.DataType) -> None:
    numbers = np.asarray([[1, 2], [3, 4]], np.float16)
    values = pa.array([numbers[0], None, numbers[1]], pa.list_(pa.float16())).cast(kind)
    path = write(tmp_path, pa.table({"emb": values}))
    got = read(path, InputConfig(vector="emb"))
    assert [row["input"] for row in got.rows] == [[1, 2], [3, 4]]
    assert got.schemas[0].field("input").type == pa.list_(pa.float64())
    assert [reject.reason for reject in got.rejects] == ["missing_field"]


def test_a_null_in_a_vector_is_not_a_number(tmp_path: Path) -> None:
    path = write(tmp_path, pa.table({"emb": [[1.0, None], None, [3.0, 4.0]]}))
    got = read(path, InputConfig(vector="emb"))
    assert np.isnan(got.rows[0]["input"][1])
    assert got.rows[1]["input"] == [3.0, 4.0]


def test_duplicates_nulls_and_sizes(tmp_path: Path) -> None:
    keys = ["a", "b", None, "a", "c"]
    path = write(tmp_path, pa.table({"key": keys, "text": ["1", "2", "3", "4", "x" * 99]}))
    got = read(path, InputConfig(text="text", id="key"), LimitsConfig(max_sample_bytes=50))
    assert got.inputs == {"a": "1", "b": "2"}
    assert [(reject.position, reject.reason) for reject in got.rejects] == [
        (2, "missing_id"),
        (3, "duplicate_id"),
        (4, "too_large"),
    ]


def test_duplicates_far_apart(tmp_path: Path) -> None:
    keys = [f"k{i}" for i in range(20_000)]
    path = write(tmp_path, pa.table({"key": keys + keys[::100], "text": ["t"] * 20_200}))
    got = read(path, InputConfig(text="text", id="key"))
    assert len(got.rows) == 20_000
    assert [reject.key for reject in got.rejects] == keys[::100]


def test_fields_of_a_wrong_type_are_refused(tmp_path: Path) -> None:
    shard = shard_at(write(tmp_path, table()))
    for config, message in (
        (InputConfig(text="txet"), "no field 'txet'; did you mean 'text'?; it has: key, text, n, tags, other"),
        (InputConfig(text="n"), "field 'n' is int16; as text it must be a string"),
        (InputConfig(image="text"), "field 'text' is string; as image it must be binary"),
        (InputConfig(vector="tags"), "as vector it must be a list of floats"),
        (InputConfig(text="text", id="tags"), "an id is a text or an integer"),
        (InputConfig(text="text", id="id2"), "no field 'id2'"),
        (InputConfig(text="text", keep=("m",)), "no field 'm'"),
    ):
        with pytest.raises(FieldNotFound, match=re.escape(message)):
            shard_schema(shard, config)


def test_casts_to_the_tables_types(tmp_path: Path) -> None:
    path = write(tmp_path, pa.table({"text": ["a", "b", "c"], "n": ["1", "x", "2"], "wide": [1, 2, 300]}))
    kept = pa.schema([("n", pa.int64()), ("wide", pa.int8())])
    got = read(path, InputConfig(text="text", keep=("n", "wide")), kept_schema=kept)
    assert [(row["n"], row["wide"]) for row in got.rows] == [(1, 1)]
    assert [reject.message for reject in got.rejects] == ["n = 'x' does not fit int64", "wide = 300 does not fit int8"]
    with pytest.raises(FieldNotFound, match=r"field 'n' is string here and list<.*> in the table"):
        read(path, InputConfig(text="text", keep=("n",)), kept_schema=pa.schema([("n", pa.list_(pa.int8()))]))


def test_a_damaged_row_group_loses_only_its_own_rows(tmp_path: Path) -> None:
    path = write(tmp_path, table(3000), row_group_size=1000, compression="snappy", write_page_checksum=True)
    meta = pq.read_metadata(path)
    chunk = meta.row_group(1).column(1)
    data = bytearray(path.read_bytes())
    middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    data[middle] ^= 0xFF
    path.write_bytes(data)
    got = read(path, TEXT)
    assert {row["position"] for row in got.rows} == set(range(1000)) | set(range(2000, 3000))
    assert [reject.position for reject in got.rejects] == list(range(1000, 2000))
    assert {reject.reason for reject in got.rejects} == {"corrupt_row_group"}
    assert "row group 1 is damaged from row 1000 on" in got.rejects[0].message


def test_a_file_without_its_footer(tmp_path: Path) -> None:
    path = write(tmp_path, table())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ShardUnreadable, match="not a whole Parquet file"):
        read(path, TEXT, kept_schema=pa.schema([]))


def test_a_file_that_changed_or_is_gone_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, table())
    shard = shard_at(path)
    write(tmp_path, table(11))
    with pytest.raises(ShardUnreadable, match="has changed since it was listed"):
        shard_schema(shard, TEXT)
    path.unlink()
    with pytest.raises(ShardNotFound, match="is gone since it was listed"):
        next(read_blocks(shard, TEXT))


def test_a_column_without_a_type_is_all_null(tmp_path: Path) -> None:
    path = write(tmp_path, pa.table({"text": [None, None], "key": ["a", "b"]}))
    assert read(path, InputConfig(text="text", id="key")).reasons == {"a": "missing_field", "b": "missing_field"}


def test_an_empty_file(tmp_path: Path) -> None:
    assert read(write(tmp_path, table(0)), TEXT).rows == []


def test_large_rows_come_a_few_at_a_time(tmp_path: Path) -> None:
    image = np.random.default_rng(0).bytes(1_000_000)
    path = write(tmp_path, pa.table({"image": [image] * 80}), use_dictionary=False, write_batch_size=1)
    assert pq.read_metadata(path).num_row_groups == 1
    before = pa.total_allocated_bytes()
    most = 0
    for block in read_blocks(shard_at(path), InputConfig(image="image")):
        assert block.rows["input"].nbytes < 10_000_000
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 30_000_000


def test_encrypted_files_are_refused_without_ending_the_process(tmp_path: Path) -> None:
    path = write(tmp_path, table())
    data = path.read_bytes()
    # As with a footer in plain text: a signature of 28 bytes stands behind it.
    footer_bytes = int.from_bytes(data[-8:-4], "little")
    path.write_bytes(data[:-8] + bytes(28) + (footer_bytes + 28).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(ShardUnreadable, match="has encrypted columns; decrypt it"):
        read(path, TEXT)
    path.write_bytes(data[:-4] + b"PARE")
    with pytest.raises(ShardUnreadable, match=r"is encrypted; decrypt it|is not a whole Parquet file"):
        read(path, TEXT)


def test_a_dictionary_larger_than_the_buffer_is_rejected(tmp_path: Path) -> None:
    data = table(6).set_column(1, "text", pa.array(["x" * 300_000] * 3 + ["y"] * 3))
    path = write(tmp_path, data, row_group_size=3, dictionary_pagesize_limit=1 << 20)
    got = read(path, TEXT, LimitsConfig(buffer_bytes=200_000))
    assert [row["input"] for row in got.rows] == ["y"] * 3
    assert {reject.reason for reject in got.rejects} == {"too_large"}
    assert "dictionary of column text in row group 0 is 300004 bytes" in got.rejects[0].message


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_page_larger_than_the_buffer_is_rejected(tmp_path: Path, version: Literal["1.0", "2.0"]) -> None:
    plain, limits = InputConfig(text="text"), LimitsConfig(buffer_bytes=200_000)
    texts = [f"{n:03d}{'z' * 3_000}" for n in range(100)]  # of which the header of a page holds the least and the most
    options = {"use_dictionary": False, "data_page_version": version, "compression": "zstd", "write_batch_size": 1}
    path = write(tmp_path, pa.table({"text": texts}), data_page_size=30_000, **options)
    assert [row["input"] for row in read(path, plain, limits).rows] == texts
    write(tmp_path, pa.table({"text": texts}), **options)
    got = read(path, plain, limits)
    assert got.rows == []
    assert [reject.reason for reject in got.rejects] == ["too_large"] * 100
    assert re.search(r"a page of column text in row group 0 is 30\d{4} bytes", got.rejects[0].message)


@pytest.mark.parametrize("compression", ["snappy", "zstd", "gzip", "brotli", "lz4", "none"])
def test_the_largest_value_of_a_dictionary_is_known(tmp_path: Path, compression: str) -> None:
    values = ["a", "b" * 70_000, "c" * 300]
    path = write(tmp_path, pa.table({"text": values * 50, "n": [1] * 150}), compression=compression)
    group = pq.ParquetFile(path).metadata.row_group(0)
    with path.open("rb") as file:
        page, numbers = (dictionary_of(file, group.column(i)) for i in range(2))
        assert page is not None
        assert page.nbytes == sum(map(len, values)) + 12
        assert largest_value(file, page, group.column(0)) == 70_000
        assert numbers is not None
        assert largest_value(file, numbers, group.column(1)) == numbers.nbytes == 8
    write(tmp_path, pa.table({"text": values}), use_dictionary=False)
    with path.open("rb") as file:
        assert dictionary_of(file, pq.ParquetFile(path).metadata.row_group(0).column(0)) is None


@pytest.mark.parametrize("header", [b"\x15" + b"\xff" * (4 << 20), b"\x15\x00" * 3 + b"\x1c" * (1 << 20)])
def test_a_page_header_of_endless_structs_or_integers_is_left_to_arrow(header: bytes) -> None:
    chunk = SimpleNamespace(
        total_uncompressed_size=1 << 40,
        total_compressed_size=1 << 30,
        data_page_offset=0,
        dictionary_page_offset=None,
    )
    assert largest_page(BytesIO(header), chunk, 1) == 0
