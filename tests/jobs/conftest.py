"""A table with a funnel, for the tests of `mlake search` and `mlake funnel`."""

from __future__ import annotations

import lance
import pyarrow as pa
import pytest

from jobs.__main__ import main
from pipelines.encoders import load_encoder, load_preparer, make_space
from pipelines.tables.table import create_table
from pipelines.vectors.arrays import to_arrow
from schemas.config import EncoderConfig, LimitsConfig

ENCODER = EncoderConfig(name="wordllama", device="cpu")
SUBJECTS = (
    "the dog",
    "a singer",
    "our government",
    "this computer",
    "an old ship",
    "the river",
    "one player",
    "a bank",
)
VERBS = ("likes", "fears", "leaves", "finds", "follows", "buys", "forgets")
OBJECTS = ("the sea", "a song", "new taxes", "its owner", "the match", "cold water", "a red car", "good food")


@pytest.fixture(scope="session")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A table of real texts with real vectors, and a funnel tuned to recall 0.9."""
    texts = [f"{s} {v} {o}" for s in SUBJECTS for v in VERBS for o in OBJECTS]
    preparer, encoder = load_preparer(ENCODER, LimitsConfig()), load_encoder(ENCODER)
    x_BD = encoder.encode(preparer.prepare(texts))  # type: ignore[arg-type]
    table = create_table(
        str(tmp_path_factory.mktemp("search") / "t.lance"),
        make_space(ENCODER),
        pa.schema([pa.field("text", pa.string())]),
    )
    rows = {
        "id": [f"s{n}" for n in range(len(texts))],
        "shard": [0] * len(texts),
        "text": texts,
        "vector": to_arrow(x_BD),
    }
    lance.write_dataset(pa.table(rows).cast(table.dataset.schema), table.uri, mode="append")
    assert main(["funnel", table.uri, "--recall", "0.9"]) == 0
    return table.uri
