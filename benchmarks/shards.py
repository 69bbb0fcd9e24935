"""Time to read a sample: this project's readers beside tarfile and webdataset, on the same small samples.

    python -m benchmarks.shards [SAMPLES]

Small texts are the hard case: there are few bytes, so the work for each sample dominates. Prints microseconds per
sample, the best of three, on one thread. webdataset is left out where it is not installed.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.shards import list_shards, read_blocks, shard_schema
from schemas.config import InputConfig

_TRIES = 3


def main(samples: int) -> None:
    """Write the shards, read each in every way, and print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, samples)
        tar = folder / "a.tar"
        ways: dict[str, Callable[[], object]] = {
            "tar, text": lambda: _read(tar, InputConfig(text="txt")),
            "tar, text and one key of json": lambda: _read(tar, InputConfig(text="txt", keep=("n",))),
            "tar, by tarfile alone": lambda: _by_tarfile(tar),
            "Parquet, text": lambda: _read(folder / "a.parquet", InputConfig(text="text")),
            "Parquet, text, id and one kept column": lambda: _read(
                folder / "a.parquet", InputConfig(text="text", id="id", keep=("n",))
            ),
            "JSONL, text": lambda: _read(folder / "a.jsonl", InputConfig(text="text")),
            "JSONL, text, id and one kept key": lambda: _read(
                folder / "a.jsonl", InputConfig(text="text", id="id", keep=("n",))
            ),
        }
        if find_spec("webdataset"):
            ways["tar, by webdataset alone"] = lambda: _by_webdataset(tar)
        for label, way in ways.items():
            print(f"{label:40} {_best_s(way) / samples * 1e6:7.2f} µs a sample")


def _write(folder: Path, samples: int) -> None:
    texts = [f"text {i} " * 20 for i in range(samples)]
    with tarfile.open(folder / "a.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for i, text in enumerate(texts):
            for extension, data in (("txt", text.encode()), ("json", json.dumps({"n": i}).encode())):
                info = tarfile.TarInfo(f"x/{i:07d}.{extension}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    ids = [f"k{i}" for i in range(samples)]
    pq.write_table(pa.table({"id": ids, "text": texts, "n": range(samples)}), folder / "a.parquet")
    with (folder / "a.jsonl").open("w") as file:
        file.writelines(json.dumps({"id": i, "text": text, "n": 1}) + "\n" for i, text in zip(ids, texts, strict=True))


def _read(path: Path, config: InputConfig) -> int:
    (shard,) = list_shards([str(path)])
    kept = shard_schema(shard, config)
    return sum(block.rows.num_rows for block in read_blocks(shard, config, kept_schema=kept))


def _by_tarfile(path: Path) -> int:
    total = 0
    with path.open("rb") as file, tarfile.open(fileobj=file, mode="r|") as archive:
        for member in archive:
            opened = archive.extractfile(member)
            total += len(opened.read()) if opened else 0
    return total


def _by_webdataset(path: Path) -> int:
    import webdataset  # type: ignore[import-untyped]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sum(1 for _ in webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False))


def _best_s(way: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(_TRIES):
        began = time.perf_counter()
        way()
        best = min(best, time.perf_counter() - began)
    return best


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000)
