"""One lease's way: every good sample becomes its row, every bad one a reject, and memory stays bounded."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import wordllama
from PIL import Image
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from pipelines.embedding.embedder import Embedder
from pipelines.embedding.feeder import Feeder
from pipelines.encoders import BadSample, Prepared, Raw, load_encoder, load_preparer
from pipelines.shards import list_shards
from pipelines.tables.ledger import commit_leases, done_shards
from pipelines.vectors.arrays import to_numpy
from schemas.config import EmbedConfig, EncoderConfig, InputConfig, LimitsConfig
from schemas.errors import InputError, ShardUnreadable, TooManyRejects
from schemas.records import Lease, TextCounts
from tests.support.corpus import config_for, contents, differing, empty_table, texts, truth, write_corpus, write_shard
from tests.support.embedding import embed_here, lease_of


def test_a_lease_of_many_shards_gives_every_row_of_each(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "src", shards=5, rows=40)
    for name, samples in (("x", {}), ("y", {"cut": "owl " * 2_000})):
        corpus[write_shard(tmp_path / "src" / f"{name}.jsonl", samples)] = samples
    config = config_for(tmp_path / "src", tmp_path / "t.lance")
    table, result = embed_here(config)
    assert differing(contents(table.uri), truth(corpus)) == []
    assert {count.shard.uri: (count.rows, count.rejects) for count in result.counts} == {
        uri: (len(samples), 0) for uri, samples in corpus.items()
    }
    assert result.units > 200
    owls = 4_001  # two tokens each, and the last space
    assert result.texts == TextCounts(result.units + owls - 1_024, 1, owls - 1_024)
    assert result.seconds.total >= result.seconds.encode > 0
    assert done_shards(table) == {count.shard.id for count in result.counts}


def test_windows_that_another_machine_prepared_give_the_same_rows(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "src", shards=2, rows=30)
    config = config_for(tmp_path / "src", tmp_path / "t.lance")
    table, lease = empty_table(config), lease_of(config)
    windows = Feeder(config, table.kept, threads=1).feed(lease)
    commit_leases(table, [Embedder(config, threads=1).run(lease, windows)], "test")
    assert differing(contents(table.uri), truth(corpus)) == []


def test_every_bad_sample_is_one_reject_and_its_neighbours_are_unharmed(tmp_path: Path) -> None:
    good = texts("a", 6, 0)
    keys = list(good)
    bad: dict[str, object] = {"b-0": "  ", "b-1": 7, "b-2": None}
    lines = {keys[0]: good[keys[0]], **bad, **good}
    uri = write_shard(tmp_path / "src" / "a.jsonl", lines)
    with Path(uri).open("a") as file:
        file.write('{"id": "a-3", "text": "the same id again"}\n{"id": "torn\n')
    table, result = embed_here(config_for(tmp_path / "src", tmp_path / "t.lance"))
    assert differing(contents(table.uri), truth({uri: good})) == []
    found = {(reject.position, reject.key, reject.reason) for reject in result.rejects}
    assert found == {
        (1, "b-0", "empty_text"),
        (2, "b-1", "not_text"),
        (3, "b-2", "missing_field"),
        (9, "a-3", "duplicate_id"),
        (10, "", "bad_json"),
    }
    recorded = table.companion("rejects").to_table().to_pylist()
    assert {(row["position"], row["key"], row["reason"]) for row in recorded} == found
    assert {(row["uri"], row["run"]) for row in recorded} == {(uri, "test")}
    assert all(row["message"] for row in recorded)


class Odd:
    """The real preparer and encoder, but some texts hang, raise, or have no finite vector."""

    def __init__(self, config: EmbedConfig) -> None:
        self._preparer = load_preparer(config.encoder, config.limits)
        self._encoder = load_encoder(config.encoder)
        self._marked: dict[bytes, str] = {}
        self.end = threading.Event()

    def prepare(self, values: Sequence[Raw]) -> Sequence[Prepared | BadSample]:
        prepared = self._preparer.prepare(values)
        for value, one in zip(values, prepared, strict=True):
            if "hang" in str(value):
                self.end.wait(600)
            if isinstance(one, np.ndarray):
                self._marked[one.tobytes()] = str(value)
        return prepared

    def units(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.int64]:
        return self._preparer.units(prepared)

    def encode(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.float32]:
        said = [self._marked[one.tobytes()] for one in prepared]
        if any("raise" in text for text in said):
            raise ArithmeticError("the model does not like it")
        vectors_BD = self._encoder.encode(prepared)
        vectors_BD[["nan" in text for text in said]] = np.nan
        vectors_BD[["zero" in text for text in said]] = 0
        return vectors_BD


def test_what_hangs_raises_or_has_no_finite_vector_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = texts("a", 60, 0)
    odd = {"o-0": "hang here", "o-1": "raise here", "o-2": "nan here", "o-3": "zero here", "o-4": "hang again"}
    mixed = dict(sorted((good | odd).items(), key=lambda item: item[0][2:]))
    uri = write_shard(tmp_path / "src" / "a.jsonl", mixed)
    limits = {"sample_timeout_s": 1.0, "lease_bytes": 1}
    config = config_for(tmp_path / "src", tmp_path / "t.lance", limits=limits)
    odd_model = Odd(config)
    monkeypatch.setattr("pipelines.embedding.feeder.load_preparer", lambda *args: odd_model)
    monkeypatch.setattr("pipelines.embedding.embedder.load_encoder", lambda *args: odd_model)
    table, result = embed_here(config)
    odd_model.end.set()
    assert differing(contents(table.uri), truth({uri: good})) == []
    assert {reject.key: reject.reason for reject in result.rejects} == {
        "o-0": "timeout",
        "o-1": "encode_failed",
        "o-2": "not_finite",
        "o-3": "zero_vector",
        "o-4": "timeout",
    }
    messages = {reject.key: reject.message for reject in result.rejects}
    assert "limits.sample_timeout_s = 1.0" in messages["o-0"]
    assert "the model does not like it" in messages["o-1"]


def test_a_model_with_broken_weights_loses_only_the_texts_that_use_them(tmp_path: Path) -> None:
    package = Path(wordllama.__file__).parent
    shutil.copytree(package / "tokenizers", tmp_path / "model" / "tokenizers")
    (tmp_path / "model" / "weights").mkdir()
    weights = dict(load_file(package / "weights" / "l2_supercat_256.safetensors"))
    weights["embedding.weight"] = weights["embedding.weight"].copy()
    tokenizer = Tokenizer.from_file(str(package / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    weights["embedding.weight"][tokenizer.encode("violin", add_special_tokens=False).ids] = np.nan
    save_file(weights, tmp_path / "model" / "weights" / "l2_supercat_256.safetensors")
    corpus = write_corpus(tmp_path / "src", shards=2, rows=20)
    encoder = {"name": "wordllama", "path": str(tmp_path / "model")}
    config = config_for(tmp_path / "src", tmp_path / "t.lance", encoder=encoder, limits={"max_reject_fraction": 1.0})
    table, result = embed_here(config)
    clean = {
        uri: {key: text for key, text in samples.items() if "violin" not in text} for uri, samples in corpus.items()
    }
    assert differing(contents(table.uri), truth(clean)) == []
    assert {reject.reason for reject in result.rejects} == {"not_finite"}
    assert len(result.rejects) == sum("violin" in text for samples in corpus.values() for text in samples.values())


def test_a_lease_that_mostly_falls_out_stops_early(tmp_path: Path) -> None:
    write_shard(tmp_path / "src" / "a.jsonl", {f"a-{i}": " " if i % 2 else "river" for i in range(12_000)})
    config = config_for(tmp_path / "src", tmp_path / "t.lance")
    empty_table(config)
    with pytest.raises(TooManyRejects, match=r"more than limits.max_reject_fraction = 0.05; lately \d+ x empty_text"):
        Embedder(config, threads=1).run(lease_of(config))


def test_a_shard_that_is_not_what_was_listed_is_not_embedded(tmp_path: Path) -> None:
    write_corpus(tmp_path / "src", shards=2, rows=3)
    config = config_for(tmp_path / "src", tmp_path / "t.lance")
    table, lease = empty_table(config), lease_of(config)
    write_shard(Path(lease.shards[1].uri), texts("other", 9, 0))
    with pytest.raises(InputError, match=r"s001\.jsonl"):
        Embedder(config, threads=1).run(lease)
    Path(lease.shards[1].uri).unlink()
    with pytest.raises(InputError, match=r"s001\.jsonl"):
        Embedder(config, threads=1).run(lease)
    assert contents(table.uri) == {}


def test_an_unreadable_shard_is_named(tmp_path: Path) -> None:
    write_corpus(tmp_path / "src", shards=1, rows=3)
    config = config_for(tmp_path / "src", tmp_path / "t.lance")
    empty_table(config)
    (tmp_path / "src" / "broken.parquet").write_bytes(b"PAR1 not really PAR1")
    broken = Lease(tuple(list_shards([str(tmp_path / "src" / "broken.parquet")])))
    with pytest.raises(ShardUnreadable, match=r"broken\.parquet is not a whole Parquet file"):
        Embedder(config, threads=1).run(broken)


def tar_of(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_corrupt_images_are_rejected_and_the_others_embedded(tmp_path: Path) -> None:
    members = {f"{i}.png": png(i) for i in range(6)}
    members |= {"6.png": png(6)[:300], "7.png": b"GIF89a nothing", "8.png": b""}
    tar_of(tmp_path / "src" / "a.tar", members)
    config = EmbedConfig.model_validate(
        {
            "shards": f"{tmp_path}/src/*.tar",
            "table": str(tmp_path / "t.lance"),
            "input": {"image": "png"},
            "encoder": {"name": "efficientnet-lite0"},
        }
    )
    table, result = embed_here(config)
    rows = table.refresh().dataset.to_table()
    assert rows["id"].to_pylist() == ["0", "1", "2", "3", "4", "5"]
    norms = np.linalg.norm(np.array(rows["vector"].to_pylist(), np.float32), axis=1)
    assert norms == pytest.approx(1, abs=2e-3)
    assert Counter(reject.reason for reject in result.rejects) == {"bad_image": 2, "empty_image": 1}
    best = table.refresh().search(members["3.png"], k=1)
    assert best["id"].to_pylist() == ["3"]
    assert best["score"][0].as_py() == pytest.approx(1, abs=1e-2)


MEASURED = """
import sys
from pathlib import Path
from pipelines.embedding.embedder import Embedder
from pipelines.shards import list_shards
from schemas.records import Lease
from tests.support.corpus import config_for, empty_table
folder = Path(sys.argv[1])
config = config_for(folder / "src", folder / "t.lance", limits={"buffer_bytes": 16 << 20})
empty_table(config)
result = Embedder(config, threads=1).run(Lease(tuple(list_shards(config.shards))))
# Not getrusage: its peak is that of the parent where that was higher.
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(result.counts[0].rows, len(result.fragments), int(status["VmHWM"].split()[0]) * 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_shard(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    peaks, sizes = [], []
    for rows in (50_000, 500_000):
        folder = tmp_path / str(rows)
        uri = write_shard(folder / "src" / "a.jsonl", texts("a", rows, 0))
        run = subprocess.run([sys.executable, "-c", MEASURED, str(folder)], capture_output=True, text=True, check=True)
        embedded, fragments, peak = map(int, run.stdout.split())
        assert (embedded, fragments) == (rows, 1)
        peaks.append(peak)
        sizes.append(Path(uri).stat().st_size + rows * 512)  # what is read and what is written
    slope = (peaks[1] - peaks[0]) / (sizes[1] - sizes[0])
    record_property("bytes of peak memory per byte of data", slope)
    for peak, size in zip(peaks, sizes, strict=True):
        print(f"peak of {peak / 1e6:.0f} MB at {size / 1e6:.0f} MB of data")
    assert slope < 0.15


_SIZES = {
    "ok": [1.0, 4e-323, 1e-300, 1e-60, 1e-45, 1e-40, 1e-30, 1e-12, 6e-8, 1e5, 1e19, 1e38, 3.5e38, 1e300, 1.7e308],
    "zero_vector": [0.0],
    "not_finite": [np.inf, -np.inf, np.nan],
}


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_precomputed_vector_of_any_length_is_a_unit_row_or_a_reject_with_the_true_reason(
    tmp_path: Path, suffix: str
) -> None:
    sizes = {f"{size:g}": (size, why) for why, some in _SIZES.items() for size in some}
    rows = [{"id": key, "v": [size, 0.0, -size / 2, size / 4]} for key, (size, _) in sizes.items()]
    (tmp_path / "m.json").write_text('{"model": "m", "revision": "1", "dims": [2, 4]}')
    source = tmp_path / f"a{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows, pa.schema({"id": pa.string(), "v": pa.list_(pa.float64())})), source)
    else:
        rows = [row for row in rows if np.isfinite(row["v"]).all()]
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = EmbedConfig(
        shards=(str(source),),
        table=str(tmp_path / "t.lance"),
        input=InputConfig(id="id", vector="v"),
        encoder=EncoderConfig(name="precomputed", path=str(tmp_path / "m.json")),
        limits=LimitsConfig(max_reject_fraction=1),
    )
    table, result = embed_here(config)
    stored = table.dataset.to_table()
    expected_D = np.array([1, 0, -0.5, 0.25]) / np.linalg.norm([1, 0, -0.5, 0.25])
    for vector_D in to_numpy(stored["vector"]):
        np.testing.assert_allclose(vector_D, expected_D, atol=3e-3)
    assert {reject.key: reject.reason for reject in result.rejects} | dict.fromkeys(stored["id"].to_pylist(), "ok") == {
        row["id"]: sizes[row["id"]][1] for row in rows
    }
