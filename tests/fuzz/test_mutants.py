"""Files damaged in many ways: nothing hangs or crashes, intact samples are read, and each lost one is a reject."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.encoders.image_preprocessing import ImageRule, decode
from pipelines.encoders.protocol import BadSample
from schemas.config import InputConfig, LimitsConfig
from schemas.errors import FieldNotFound, ShardUnreadable
from tests.fuzz.mutation import IN_PLACE, Mutant, grow, sound
from tests.support.shard_files import ReadShard, read, tar_bytes

SIZES = [pytest.param(60, id="short"), pytest.param(1_100, id="long", marks=pytest.mark.slow)]
SEED = 20_260_711
LIMITS = LimitsConfig(max_sample_bytes=1 << 20)


def read_mutant(path: Path, mutant: Mutant, config: InputConfig, kept: pa.Schema) -> ReadShard:
    path.write_bytes(mutant.data)
    return read(path, config, LIMITS, kept_schema=kept)


def summary(got: ReadShard) -> tuple[int, tuple[str, ...]]:
    return len(got.rows), tuple(sorted({reject.reason for reject in got.rejects}))


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("kind", ["text", "image"])
def test_tar(tmp_path: Path, count: int, kind: str) -> None:
    rng = np.random.default_rng(SEED)
    samples: dict[str, dict[str, bytes]] = {}
    for i in range(12):
        size = int(rng.integers(1, 1500))
        data = rng.bytes(size) if kind == "image" else rng.bytes(size).hex().encode()
        samples[f"d/{i:03d}"] = {"bin" if kind == "image" else "txt": data, "json": json.dumps({"n": str(i)}).encode()}
    members = [(f"{key}.{ext}", data) for key, parts in samples.items() for ext, data in parts.items()]
    seed = tar_bytes(members)
    ranges, at = {}, 0
    for key, parts in samples.items():
        stop = at + sum(512 + len(data) + -len(data) % 512 for data in parts.values())
        ranges[key] = (at, stop)
        at = stop
    config = InputConfig(image="bin", keep=("n",)) if kind == "image" else InputConfig(text="txt", keep=("n",))
    kept = pa.schema([("n", pa.string())])

    def outcome(mutant: Mutant) -> tuple[int, tuple[str, ...]]:
        got = read_mutant(tmp_path / "a.tar", mutant, config, kept)
        named = {reject.key for reject in got.rejects}
        rows = {row["id"]: (row["input"], row["n"]) for row in got.rows}
        for i, (key, parts) in enumerate(samples.items()):
            value = parts["bin"] if kind == "image" else parts["txt"].decode()
            if mutant.holds(*ranges[key]) and rows.get(key) != (value, str(i)):
                # A copy of a sample's bytes elsewhere makes two of it, or sets one of its members apart.
                assert "splice" in mutant.steps, (mutant.steps, key)
                assert key in named | rows.keys(), (mutant.steps, key)
        if set(samples) - set(rows):
            assert got.rejects, (mutant.steps, sorted(rows))
        return summary(got)

    assert summary(read_mutant(tmp_path / "a.tar", sound(seed), config, kept)) == (12, ())
    assert sum(1 for _ in grow(seed, count, outcome, rng)) == count


@pytest.mark.parametrize("count", SIZES)
def test_jsonl_gz(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(SEED)
    texts = [f"{i} " + rng.bytes(int(rng.integers(1, 40))).hex() for i in range(3000)]
    plain = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    seed = gzip.compress(plain, mtime=0)
    config = InputConfig(text="text")

    def outcome(mutant: Mutant) -> tuple[int, tuple[str, ...]]:
        got = read_mutant(tmp_path / "a.jsonl.gz", mutant, config, pa.schema([]))
        right = sum(row["position"] < 3000 and row["input"] == texts[row["position"]] for row in got.rows)
        if right < 3000 or len(got.rows) > 3000:
            assert got.rejects, mutant.steps
        # All that is decompressed before the damage is delivered, but for the last piece.
        sure = zlib.decompressobj(31).decompress(seed[: mutant.first_damage])
        lost_at_most = 2_048 if set(mutant.steps) == {"truncate"} else 70_000
        assert right >= sure[: max(0, len(sure) - lost_at_most)].count(b"\n"), mutant.steps
        return len(got.rows) // 300, tuple(sorted({reject.reason for reject in got.rejects}))

    assert sum(1 for _ in grow(seed, count, outcome, rng)) == count


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_parquet(tmp_path: Path, count: int, compression: str) -> None:
    rng = np.random.default_rng(SEED)
    rows, group = 900, 150
    texts = [f"{i} " + rng.bytes(12).hex() for i in range(rows)]
    path = tmp_path / "a.parquet"
    table = pa.table({"text": texts, "n": range(rows)})
    pq.write_table(table, path, row_group_size=group, compression=compression, write_page_checksum=True)
    seed = path.read_bytes()
    meta = pq.read_metadata(path)
    footer = len(seed) - 8 - int.from_bytes(seed[-8:-4], "little")
    ranges = []
    for i in range(meta.num_row_groups):
        chunks = [meta.row_group(i).column(c) for c in range(2)]
        starts = [min(c.dictionary_page_offset or c.data_page_offset, c.data_page_offset) for c in chunks]
        ranges.append((min(starts), max(s + c.total_compressed_size for s, c in zip(starts, chunks, strict=True))))
    config = InputConfig(text="text", keep=("n",))
    kept = pa.schema([("n", pa.int64())])

    def outcome(mutant: Mutant) -> tuple[int, tuple[str, ...]]:
        try:
            got = read_mutant(path, mutant, config, kept)
        except (ShardUnreadable, FieldNotFound) as error:
            return 0, (type(error).__name__,)
        there = {row["position"]: (row["input"], row["n"]) for row in got.rows}
        if len(mutant.data) == len(seed) and mutant.holds(footer, len(seed)) and set(mutant.steps) <= set(IN_PLACE):
            for i, (start, stop) in enumerate(ranges):
                if mutant.holds(start, stop):
                    assert all(there.get(p) == (texts[p], p) for p in range(i * group, (i + 1) * group)), mutant.steps
            assert there.keys() | {reject.position for reject in got.rejects} == set(range(rows)), mutant.steps
        return summary(got)

    assert sum(1 for _ in grow(seed, count, outcome, rng)) == count


def picture(kind: str) -> bytes:
    coarse = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(coarse).resize((96, 72))
    if kind == "progressive":
        image.save(file, "JPEG", progressive=True, exif=exif)
    elif kind == "animation":
        image.save(file, "GIF", save_all=True, append_images=[image.rotate(90)] * 3)
    else:
        image.save(file, kind, exif=exif)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "progressive", "WEBP", "TIFF", "animation"])
def test_images(count: int, kind: str) -> None:
    rule = ImageRule(crop=(24, 24), short=24)

    def outcome(mutant: Mutant) -> str:
        try:
            pixels = decode(mutant.data, rule, 10**6)
        except BadSample as bad:
            return bad.reason + str(bad)[:20]
        assert pixels.shape == (24, 24, 3)
        assert pixels.dtype == np.uint8
        return "good"

    assert sum(1 for _ in grow(picture(kind), count, outcome, np.random.default_rng(SEED))) == count
