"""The funnel beside what else people search vectors with: recall, latency, throughput, build time, bytes.

    python -m benchmarks.funnel                                  # 300,000 real texts, every system: an hour
    python -m benchmarks.funnel --rows 50000 --queries 200       # the same, small
    python -m benchmarks.funnel --data spectrum --rows 1000000   # 1M x 768; graphs are left out unless --slow
    python -m benchmarks.funnel --growth 100000 300000 500000    # the funnel alone, as the table grows
    python -m benchmarks.funnel --s3                             # the lake's home on S3: requests, bytes

Every system runs in a process of its own, on the same vectors and as many threads. Recall@10 is against the exact
float32 search, ties counted as found. `single` is the median of one query at a time, `batched` all queries in one
call. Queries are vectors that no system has in its table. Results and pictures go to <out>, lake/bench by default;
what has figures there already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.frontier import CODES, FUNNEL, OURS, TARGETS, draw, growth_table, summary

K = 10
_SINGLE_QUERIES = 200
_SETTING_S = 20.0
_TUNE = "tune "
_LARGE = 400_000
_HOMES: dict[str, Any] = {FUNNEL: "memory", CODES: "codes"}
_SWEEP = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.2, 1.5, 2)


def main() -> int:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser("python -m benchmarks.funnel", description=__doc__.split("\n")[0])
    parser.add_argument("--data", choices=["text", "spectrum"], default="text")
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--width", type=int, default=768, help="of the spectrum data")
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--targets", type=float, nargs="+", default=TARGETS, help="recalls to tune the funnel for")
    parser.add_argument("--systems", nargs="+", help="default: all")
    parser.add_argument("--slow", action="store_true", help="build graphs also over more than 400,000 vectors")
    parser.add_argument("--growth", type=int, nargs="+", metavar="ROWS", help="only the funnel, at these sizes")
    parser.add_argument("--s3", action="store_true", help="only the lake's home, against an S3 server")
    parser.add_argument("--out", type=Path, default=Path("lake/bench"))
    parser.add_argument("--one", metavar="SYSTEM", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.one:
        print(json.dumps(measure(args.one, args)))
        return 0
    if args.s3:
        print(json.dumps(against_s3(args), indent=1))
        return 0
    if args.growth:
        folders = {rows: args.out / f"results-{args.data}-{rows}" for rows in args.growth}
        grown = [measured_once(FUNNEL, args, folder, rows) for rows, folder in folders.items()]
        print(growth_table(grown))
        return 0
    name = f"{args.data}-{args.rows}"
    folder = args.out / f"results-{name}"
    results = [measured_once(system, args, folder, args.rows) for system in chosen_systems(args)]
    draw(results, args.out / f"frontier-{name}.png")
    print(summary(results))
    return 0


def chosen_systems(args: argparse.Namespace) -> list[str]:
    """Return what to run, the exact searches and the funnel first."""
    from benchmarks.peers import EXACT, PEERS, SLOW_TO_BUILD

    every = [*EXACT, *OURS, *(name for name in PEERS if name not in EXACT)]
    skipped = SLOW_TO_BUILD if args.rows > _LARGE and not args.slow else ()
    return [name for name in (args.systems or every) if name in (args.systems or ()) or name not in skipped]


def measured_once(system: str, args: argparse.Namespace, folder: Path, rows: int) -> dict[str, Any]:
    """Measure a system, unless `folder` has its figures from an earlier run: one that was interrupted goes on."""
    path = folder / f"{system}.json"
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text())
        return kept
    result = run_apart(system, args, rows)
    if "failed" not in result:
        folder.mkdir(exist_ok=True)
        path.write_text(json.dumps(result, indent=1))
    return result


def run_apart(system: str, args: argparse.Namespace, rows: int) -> dict[str, Any]:
    """Measure one system in a process of its own; a system that fails is reported as such."""
    prepare(args, rows)
    try:
        result = _in_process(system, args, rows)
    except subprocess.CalledProcessError as error:
        print(f"{system} failed:\n{error.stderr[-2000:]}", file=sys.stderr)
        return {"system": system, "rows": rows, "failed": error.stderr.strip().splitlines()[-1], "points": []}
    best = max((point["recall"] for point in result["points"]), default=0)
    print(f"{system}: built in {result['build_s']:.1f} s, recall up to {best:.4f}", file=sys.stderr)
    return result


def _in_process(system: str, args: argparse.Namespace, rows: int) -> dict[str, Any]:
    """Run `measure` in a process whose libraries are all held to the same number of threads."""
    command = [sys.executable, "-m", "benchmarks.funnel", "--one", system, "--rows", str(rows), "--out", str(args.out)]
    command += ["--data", args.data, "--queries", str(args.queries), "--threads", str(args.threads)]
    command += ["--width", str(args.width), "--targets", *map(str, args.targets)]
    limits = {name: str(args.threads) for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "LANCE_CPU_THREADS")}
    done = subprocess.run(command, env=os.environ | limits, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def prepare(args: argparse.Namespace, rows: int) -> Path:
    """Write vectors, queries and the exact answers once; return their folder."""
    import numpy as np

    folder: Path = args.out / f"{args.data}-{rows}-{args.queries}"
    if (folder / "truth.pickle").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    from benchmarks.data import spectrum_vectors, texts, wordllama_vectors
    from pipelines.funnel.ground_truth import exact_neighbours

    cache = args.out / "texts.npy"
    if not cache.exists():
        np.save(cache, wordllama_vectors([text for _, text in texts()]).astype(np.float16))
    real = np.load(cache)
    total = rows + args.queries
    if args.data == "text":
        if len(real) < total:
            raise SystemExit(
                f"{len(real):,} texts are installed; {total:,} are needed: see benchmarks/data.py, or lower --rows"
            )
        x = real[np.random.default_rng(0).permutation(len(real))[:total]]
    else:
        x = spectrum_vectors(total, args.width, real.astype(np.float32))
    np.save(folder / "vectors.npy", x[:rows])
    np.save(
        folder / "queries.npy",
        x[rows:].astype(np.float32) / np.linalg.norm(x[rows:].astype(np.float32), axis=1, keepdims=True),
    )
    parts = [slice(start, min(start + 50_000, rows)) for start in range(0, rows, 50_000)]
    truth = exact_neighbours(
        lambda: ((np.arange(part.start, part.stop), x[part]) for part in parts), np.load(folder / "queries.npy"), [K]
    )
    (folder / "truth.pickle").write_bytes(pickle.dumps(truth[K]))
    return folder


def measure(system: str, args: argparse.Namespace) -> dict[str, Any]:
    """Build a system in this process and measure it at every setting."""
    import faiss
    import numpy as np
    import torch

    torch.set_num_threads(args.threads)
    faiss.omp_set_num_threads(args.threads)
    if system.startswith(_TUNE):
        return tune_funnel(system.removeprefix(_TUNE), args)
    if system in OURS:
        return measure_funnel(system, args)
    from benchmarks.peers import PEERS, remove_leftovers

    folder = prepare(args, args.rows)
    query_QD = np.load(folder / "queries.npy")
    before, started = _resident_bytes(), time.perf_counter()
    x_ND = np.load(folder / "vectors.npy").astype(np.float32)
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    built = PEERS[system](x_ND, args.threads)
    build_s = time.perf_counter() - started
    del x_ND
    ram = _resident_bytes() - before
    points = [
        {"setting": str(setting), **_point(lambda q, s=setting: built.search(q, K, s), query_QD, folder)}
        for setting in built.settings
    ]
    remove_leftovers()
    return {
        "system": system,
        "rows": args.rows,
        "build_s": build_s,
        "ram_bytes_per_vector": ram / args.rows,
        "disk_bytes_per_vector": built.disk_bytes / args.rows,
        "points": points,
    }


def tune_funnel(system: str, args: argparse.Namespace) -> dict[str, Any]:
    """Write the vectors as a table and tune a funnel for each target; return what it took, with every plan and card.

    Large tables are tuned for one query at a time only; where vectors are read, to a bit a dim.
    """
    import numpy as np

    from benchmarks.data import write_vectors
    from benchmarks.peers import folder_bytes
    from pipelines.funnel import Funnel, Goal

    half_ND = np.load(prepare(args, args.rows) / "vectors.npy")
    folder = _table_folder(system, args)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    table = write_vectors(str(folder / "t.lance"), half_ND)
    limit = half_ND.shape[1] // 8 if system == CODES else None
    objectives: list[Any] = ["latency", "throughput"] if args.rows <= _LARGE and limit is None else ["latency"]
    tuned = []
    for target in args.targets:
        for objective in objectives:
            goal = Goal(recall=target, objective=objective, bytes_per_vector=limit)
            started = time.perf_counter()
            funnel = Funnel.build(table, goal, home=_HOMES[system])
            tune_s = time.perf_counter() - started
            print(f"{target} {objective}: {tune_s:.0f} s\n{funnel.card}", file=sys.stderr)
            stored = Funnel.stored(funnel.table, funnel.plan.home).model_dump_json()
            tuned.append({"goal": f"{target} {objective}", "tune_s": tune_s, "funnel": stored})
    return {"tuned": tuned, "disk_bytes": folder_bytes(folder)}


def measure_funnel(system: str, args: argparse.Namespace) -> dict[str, Any]:
    """Open each distinct funnel as a user would, and measure it at its own and at other numbers of candidates."""
    import numpy as np

    from pipelines.funnel.build import open_index
    from pipelines.tables.table import VectorTable
    from schemas.cards import TunedFunnel

    made = _in_process(_TUNE + system, args, args.rows)
    folder = prepare(args, args.rows)
    query_QD = np.load(folder / "queries.npy")
    table = VectorTable.open(str(_table_folder(system, args) / "t.lance"))
    points, seen, ram, opened = [], set(), 0.0, 0.0
    for one in made["tuned"]:
        plan = TunedFunnel.model_validate_json(one["funnel"]).plan
        coarse = [f"{s.dims} {s.precision}" + (f"x{s.codes}" if s.codes else "") for s in plan.stages[:-1]]
        kind = " → ".join(coarse) + (f", {plan.probes} of {plan.lists} lists" if plan.lists else "")
        before, started = _resident_bytes(), time.perf_counter()
        index = open_index(table, plan, None)
        if not seen:
            ram, opened = _resident_bytes() - before, time.perf_counter() - started
        for keep in sorted({round(plan.candidates * share) for share in _SWEEP}):
            if keep < K or (kind, keep) in seen:
                continue
            seen.add((kind, keep))
            narrowed = plan.keeping(keep)
            point = _point(lambda q, n=narrowed, i=index: i.find(q, K, n).rows_BK, query_QD, folder)
            chosen = one["goal"] if keep == plan.candidates else ""
            points.append(
                {"setting": f"{kind}, keep {keep}", "chosen_for": chosen, "bytes": index.bytes_per_vector, **point}
            )
        del index
    return {
        "system": system,
        "rows": args.rows,
        "build_s": min(one["tune_s"] for one in made["tuned"]),
        "open_s": opened,
        "ram_bytes_per_vector": ram / args.rows,
        "disk_bytes_per_vector": made["disk_bytes"] / args.rows,
        "tuned": made["tuned"],
        "points": points,
    }


def _table_folder(system: str, args: argparse.Namespace) -> Path:
    return prepare(args, args.rows) / ("codes" if system == CODES else "table")


def against_s3(args: argparse.Namespace) -> dict[str, Any]:
    """Put a table with a prefix column and its index on an S3 server; count what a query asks of it."""
    import numpy as np

    from benchmarks.data import write_vectors
    from pipelines.funnel import Funnel, Goal
    from pipelines.shortlist import add_prefixes, index_prefix
    from tests.support.s3 import running_s3

    folder = prepare(args, args.rows)
    half_ND, query_QD = np.load(folder / "vectors.npy"), np.load(folder / "queries.npy")
    with tempfile.TemporaryDirectory() as place, running_s3(Path(place)) as server:
        os.environ.update(server.environment())
        server.client().create_bucket(Bucket="lake")
        table = write_vectors("s3://lake/t.lance", half_ND, server.storage)
        table = index_prefix(add_prefixes(table, [128]), 128)
        funnel = Funnel.build(table, Goal(recall=0.9, queries=200), home="lake")
        told = [funnel.explain(query_D) for query_D in query_QD[:50]]
        shown = ("dims", "kept", "requests", "bytes_read", "milliseconds")
        stages = [[told_one.stages[n] for told_one in told] for n in range(len(funnel.plan.stages))]
        return {
            "rows": len(half_ND),
            "plan": funnel.plan.model_dump(),
            "recall": funnel.card.best.model_dump(),
            "per_query": [
                {name: statistics.median(getattr(stage, name) for stage in group) for name in shown} for group in stages
            ],
            "exact_bytes": told[0].exact_bytes,
        }


def _point(search: Callable[[Any], Any], query_QD: Any, folder: Path) -> dict[str, Any]:
    import numpy as np

    truth = pickle.loads((folder / "truth.pickle").read_bytes())
    started = time.perf_counter()
    found = search(query_QD)
    batched = [time.perf_counter() - started]
    while sum(batched) < min(_SETTING_S, 3.0) and len(batched) < 5:
        started = time.perf_counter()
        search(query_QD)
        batched.append(time.perf_counter() - started)
    single: list[float] = []
    for query_D in query_QD[:_SINGLE_QUERIES]:
        if sum(single) > _SETTING_S:
            break
        started = time.perf_counter()
        search(query_D[None])
        single.append(time.perf_counter() - started)
    recall = float(truth.recall(truth.ranks(np.asarray(found, np.int64)), found.shape[1]).mean())
    return {
        "recall": recall,
        "single_us": statistics.median(single) * 1e6,
        "batched_us": min(batched) / len(query_QD) * 1e6,
    }


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    raise SystemExit(main())
