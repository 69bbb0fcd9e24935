"""A table with a funnel, for the tests of `mlake search` and `mlake funnel`."""

from __future__ import annotations

import pytest

from jobs.__main__ import main
from tests.support.wordllama_tables import wordllama_table

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
    table = wordllama_table(tmp_path_factory.mktemp("search") / "t.lance", texts)
    assert main(["funnel", table.uri, "--recall", "0.9"]) == 0
    return table.uri
