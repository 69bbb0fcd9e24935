"""`mlake demo`: the whole lake on this machine in minutes, on real data that pip installs.

    shards    write images, articles and definitions as tar and Parquet files
    embed     run `mlake embed` for each of the three corpora
    train     train a Matryoshka head on images and their names, so that words find images
    funnel    add a prefix column with its index, tune a funnel to a recall, print its recall card
    nights    three of them: an article is corrected, and a broken model is refused
    report    measure every prefix, ask questions, write one page

Owns the order of these six. Each does only what is missing: a second run does nothing.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from math import floor
from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console

from cluster.session import connect
from jobs import embed, nightly
from jobs.options import Overrides
from pipelines.demo.corpora import list_corpora, write_shards
from pipelines.demo.nights import three_nights
from pipelines.embedding.plan import make_plan
from pipelines.funnel import Funnel, Goal
from pipelines.funnel.goal import confirmable_recall
from pipelines.reports.console import open_console
from pipelines.reports.demo import PICTURES, TABLES, build_report
from pipelines.reports.nightly import night_line
from pipelines.reports.page import write_report
from pipelines.reports.terminal import count_progress, print_next_steps, print_timed_card, waiting
from pipelines.shortlist import add_prefixes, index_prefix
from pipelines.tables.table import VectorTable
from pipelines.training.apply_head import apply_head
from pipelines.training.train_head import TrainedHead, read_trained, train_head
from schemas.config import DemoConfig, EmbedConfig, TrustConfig, load_config
from schemas.config.training import TrainConfig
from schemas.errors import RunError
from schemas.printable import counted

CONFIGS = Path(__file__).parent / "configs"
INDENT = "     "


def main(*, overrides: Overrides = None) -> int:
    """Embed, index, measure and search real data that pip installs.

    Everything is written under lake/demo. A second run does only what is missing.
    """
    run(load_config(DemoConfig, None, overrides or ()), open_console())
    return 0


def run(config: DemoConfig, console: Console) -> Path:
    """Run the steps that are missing, and print what to try next.

    Returns:
        Path of the report.

    Raises:
        RunError: It was stopped while embedding; the same command resumes.
    """
    began, folder = time.monotonic(), Path(config.folder)
    report = folder / "report.html"
    console.print("1/6  shards", style="bold")
    written = 0
    with count_progress(console, INDENT) as progress:
        for corpus in list_corpora(config.limit):
            bar = progress.add_task(corpus.name, total=len(corpus.samples))
            written += write_shards(corpus, folder / "shards", partial(progress.advance, bar))
    console.print(f"{INDENT}{written} new, in {folder / 'shards'}")
    console.print("2/6  embed", style="bold")
    rows = _embed(folder, console)
    console.print("3/6  train", style="bold")
    trained, is_new = _train(folder, console)
    if not rows and not is_new and report.exists():
        console.print(f"nothing to do: every shard is embedded and measured; to start over, remove {folder}")
    else:
        console.print("4/6  shortlist and funnel", style="bold")
        questions = pq.read_table(folder / "shards" / "questions", columns=["gloss"])["gloss"].to_pylist()
        funnel = _build_funnel(config, _open(folder, "glosses"), questions, console)
        console.print("5/6  nights", style="bold")
        _show_nights(folder, console)
        console.print("6/6  report", style="bold")
        with waiting(console, "measuring every prefix, asking questions", INDENT[1:]):
            tables = {name: _open(folder, name) for name in (*TABLES, PICTURES)}
            write_report(build_report(tables, funnel, questions, trained), report)
        console.print(f"done in {time.monotonic() - began:.0f} s", style="bold green")
    print_next_steps(folder, report, console)
    return report


def _embed(folder: Path, console: Console) -> int:
    """Embed what the tables lack; return the number of rows."""
    rows = 0
    with ExitStack() as stack:
        for name in TABLES:
            config = load_config(EmbedConfig, CONFIGS / f"{name}.toml")
            shards, table = str(folder / "shards" / name / "*"), str(folder / f"{name}.lance")
            config = config.model_copy(update={"shards": (shards,), "table": table})
            if make_plan(config).todo:
                stack.enter_context(connect())  # one Ray session for all tables; none where nothing is to do
            summary = embed.run(config)
            if summary.is_stopped:
                raise RunError("stopped while embedding; the same command resumes")
            rows += summary.rows
            done = f"{counted(summary.rows, 'row')} in {summary.total_s:.1f} s" if summary.shards_todo else "all there"
            console.print(f"{INDENT}{name}: {done}")
    return rows


def _train(folder: Path, console: Console) -> tuple[TrainedHead, bool]:
    """Train a head on images and names, and apply it to the images; return it, and whether anything was new."""
    config = load_config(TrainConfig, CONFIGS / "train" / "head-from-pairs.toml")
    data = config.data.model_copy(update={"table": str(folder / "emoji.lance")})
    config = config.model_copy(update={"data": data, "out": str(folder / "head")})
    known = read_trained(folder / "head")
    with waiting(console, "training a head on images and their names", INDENT[1:]):
        trained = known or train_head(config)
    by_dim = ", ".join(f"{share:.2f} at {dim}" for dim, share in trained.by_dim.items())
    console.print(f"{INDENT}{trained.measure} on {trained.held_out} emoji of the validation split: {by_dim}")
    rows = apply_head(_open(folder, "emoji"), trained.path, str(folder / f"{PICTURES}.lance"))
    console.print(f"{INDENT}{PICTURES}: {f'{rows:,} rows' if rows else 'all there'}")
    return trained, known is None or rows > 0


def _build_funnel(config: DemoConfig, table: VectorTable, questions: Sequence[str], console: Console) -> Funnel:
    """Add a prefix column with its index, tune a funnel, and print its recall card."""
    with waiting(console, f"adding the prefix vector_{config.shortlist_dim} and its index", INDENT[1:]):
        table = index_prefix(add_prefixes(table, [config.shortlist_dim]), config.shortlist_dim)
    recall = min(config.recall, floor(100 * confirmable_recall(len(questions))) / 100)
    if recall < config.recall:
        console.print(f"{INDENT}the target is recall {recall}: {len(questions)} questions confirm no more")
    step = f"tuning a funnel to recall {recall} on {len(questions)} held-out definitions"
    with waiting(console, step, INDENT[1:]):
        funnel = Funnel.build(table, Goal(recall=recall), queries=questions)
    print_timed_card(funnel.card, console)
    return funnel


def _show_nights(folder: Path, console: Console) -> None:
    """Run three nights, and print how each ended."""
    quiet = Console(file=io.StringIO())
    with connect():
        for came, night in three_nights(folder, partial(nightly.run, console=quiet)):
            console.print(f"{INDENT}{came}: {night_line(night)}", soft_wrap=True)
    console.print(f"{INDENT}mlake history {folder / 'nights' / 'articles.lance'}", soft_wrap=True)


def _open(folder: Path, name: str) -> VectorTable:
    head = str(folder / "head" / "encoder") if name == PICTURES else None
    return VectorTable.open(str(folder / f"{name}.lance"), trust=TrustConfig(encoder_path=head))
