"""Three nights of a small lake: articles come, one of them is corrected, and a broken model is refused.

Owns the story, in a folder of its own that is made anew each time. Owns no night: the job passes in what runs one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.config.nightly import NightlyConfig
from schemas.nights import Night

_BROKEN_MODEL = Path(__file__).parent / "broken_model"
_CORRECTION = "\n\nCorrection: a name in this article was spelt wrongly."


def three_nights(folder: Path, run: Callable[[NightlyConfig], Night]) -> Iterator[tuple[str, Night]]:
    """Run the nights, and yield what came before each with its record.

    Args:
        folder: Of the demo; its `shards/news` are there.
        run: Runs a night.
    """
    home = folder / "nights"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(folder / "shards" / "news", home / "shards")
    config = NightlyConfig.model_validate(
        {
            "shards": str(home / "shards" / "*.parquet"),
            "table": str(home / "articles.lance"),
            "input": {"id": "id", "text": "body", "keep": ["title", "category"]},
            "encoder": {"name": "wordllama"},
        }
    )
    yield "new articles", run(config)
    _correct_an_article(min((home / "shards").iterdir()))
    yield "an article was corrected", run(config)
    broken = config.encoder.model_copy(update={"name": "own", "path": str(_BROKEN_MODEL)})
    yield "a model that lost its weights", run(config.model_copy(update={"encoder": broken}))


def _correct_an_article(shard: Path) -> None:
    rows, modified_s = pq.read_table(shard).to_pylist(), shard.stat().st_mtime
    rows[0]["body"] += _CORRECTION
    pq.write_table(pa.Table.from_pylist(rows), shard, compression="zstd")
    os.utime(shard, (modified_s + 1, modified_s + 1))
