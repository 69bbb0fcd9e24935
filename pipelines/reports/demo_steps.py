"""Steps of `mlake demo` that need no Ray, with what they print: the head of the pictures, and the funnel.

Owns their order and words. `pipelines.training` trains; `pipelines.funnel` tunes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import floor
from pathlib import Path

from rich.console import Console

from pipelines.funnel import Funnel, Goal
from pipelines.funnel.goal import confirmable_recall
from pipelines.reports.demo import PICTURES
from pipelines.reports.terminal import print_timed_card, waiting
from pipelines.shortlist import add_prefixes, index_prefix
from pipelines.tables.table import VectorTable
from pipelines.training.apply_head import apply_head
from pipelines.training.train_head import TrainedHead, read_trained, train_head
from schemas.config import DemoConfig, TrustConfig, load_config
from schemas.config.training import TrainConfig

INDENT = "     "


def train_pictures(folder: Path, configs: Path, console: Console) -> tuple[TrainedHead, bool]:
    """Train a head on images and names, and apply it to the images; return it, and whether anything was new."""
    config = load_config(TrainConfig, configs / "train" / "head-from-pairs.toml")
    data = config.data.model_copy(update={"table": str(folder / "emoji.lance")})
    config = config.model_copy(update={"data": data, "out": str(folder / "head")})
    known = read_trained(folder / "head")
    with waiting(console, "training a head on images and their names", INDENT[1:]):
        trained = known or train_head(config)
    by_dim = ", ".join(f"{share:.2f} at {dim}" for dim, share in trained.by_dim.items())
    console.print(f"{INDENT}{trained.measure} on {trained.held_out} emoji of the validation split: {by_dim}")
    rows = apply_head(open_table(folder, "emoji"), trained.path, str(folder / f"{PICTURES}.lance"))
    console.print(f"{INDENT}{PICTURES}: {f'{rows:,} rows' if rows else 'all there'}")
    return trained, known is None or rows > 0


def build_funnel(config: DemoConfig, table: VectorTable, questions: Sequence[str], console: Console) -> Funnel:
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


def open_table(folder: Path, name: str) -> VectorTable:
    """Open a table of the demo, the pictures with the head that made them."""
    head = str(folder / "head" / "encoder") if name == PICTURES else None
    return VectorTable.open(str(folder / f"{name}.lance"), trust=TrustConfig(encoder_path=head))
