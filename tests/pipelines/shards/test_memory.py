"""Memory is bounded by the config, whatever a shard claims to hold: measured as the peak of a process of its own."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.shard_files import tar_bytes

# What a shard may take, beside what Python and the libraries take.
MOST_MB = 250
MEASURE = """
import json, sys
from pathlib import Path
from pipelines.shards import list_shards, read_blocks
from schemas.config import InputConfig, LimitsConfig

def memory(field):
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) // 1024

Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
start, found = memory("VmRSS"), {}
for shard in list_shards([sys.argv[1]]):
    rows = 0
    for block in read_blocks(shard, InputConfig(text="text", keep=("big",)), LimitsConfig(buffer_bytes=32 << 20)):
        rows += block.rows.num_rows
        assert block.rows.num_rows == 1 or block.rows.nbytes <= 8 << 20, block.rows.nbytes
    found[shard.uri.rpartition("/")[2]] = [rows, memory("VmHWM") - start]
print(json.dumps(found))
"""


def write_shards(folder: Path, rows: int = 150, value_bytes: int = 2 << 20) -> None:
    """Write shards of a few kB that hold `rows * value_bytes`."""
    value = "x" * value_bytes
    once = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([value]))
    table = pa.table({"text": [f"t{i}" for i in range(rows)], "big": once})
    pq.write_table(table, folder / "a.parquet", compression="zstd", dictionary_pagesize_limit=1 << 30)
    line = json.dumps({"text": "t", "big": value}) + "\n"
    (folder / "b.jsonl").write_text(line * 60)
    members = ((f"{i:03d}.{kind}", data) for i in range(60) for kind, data in (("text", b"t"), ("big", value.encode())))
    (folder / "c.tar.gz").write_bytes(gzip.compress(tar_bytes(members), 1))
    plain = pa.schema([("text", pa.string()), ("big", pa.string())])
    lance.write_dataset(table.slice(0, 60).cast(plain), folder / "d.lance")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is measured as Linux tells it")
def test_large_kept_values_and_dictionaries_are_read_a_few_rows_at_a_time(tmp_path: Path) -> None:
    write_shards(tmp_path)
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    found = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert {name: rows for name, (rows, _) in found.items()} == {
        "a.parquet": 150,
        "b.jsonl": 60,
        "c.tar.gz": 60,
        "d.lance#0": 60,
    }
    assert {name: peak_mb for name, (_, peak_mb) in found.items() if peak_mb > MOST_MB} == {}
