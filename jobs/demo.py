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

import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console

from cluster.session import connect
from jobs import embed, nightly
from jobs.options import Overrides
from pipelines.demo.corpora import list_corpora, write_shards
from pipelines.demo.nights import three_nights
from pipelines.embedding.plan import make_plan
from pipelines.reports.console import open_console
from pipelines.reports.demo import PICTURES, TABLES, build_report
from pipelines.reports.demo_steps import INDENT, build_funnel, open_table, train_pictures
from pipelines.reports.nightly import night_line
from pipelines.reports.page import write_report
from pipelines.reports.terminal import count_progress, print_next_steps, waiting
from schemas.config import DemoConfig, EmbedConfig, load_config
from schemas.errors import RunError
from schemas.printable import counted

CONFIGS = Path(__file__).parent / "configs"


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
    trained, is_new = train_pictures(folder, CONFIGS, console)
    if not rows and not is_new and report.exists():
        console.print(f"nothing to do: every shard is embedded and measured; to start over, remove {folder}")
    else:
        console.print("4/6  shortlist and funnel", style="bold")
        questions = pq.read_table(folder / "shards" / "questions", columns=["gloss"])["gloss"].to_pylist()
        funnel = build_funnel(config, open_table(folder, "glosses"), questions, console)
        console.print("5/6  nights", style="bold")
        _show_nights(folder, console)
        console.print("6/6  report", style="bold")
        with waiting(console, "measuring every prefix, asking questions", INDENT[1:]):
            tables = {name: open_table(folder, name) for name in (*TABLES, PICTURES)}
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


def _show_nights(folder: Path, console: Console) -> None:
    """Run three nights, and print how each ended."""
    with connect():
        for came, night in three_nights(folder, partial(nightly.run, say=lambda said: None)):
            console.print(f"{INDENT}{came}: {night_line(night)}", soft_wrap=True)
    console.print(f"{INDENT}mlake history {folder / 'nights' / 'articles.lance'}", soft_wrap=True)
