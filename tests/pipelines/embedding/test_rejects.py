"""The reject limit holds once enough samples are seen and rejected, and at once where all are."""

from __future__ import annotations

import pytest

from pipelines.embedding.rejects import MIN_SEEN_OF_RUN, check_rejects, is_over_limit
from schemas.errors import TooManyRejects
from schemas.records import Reject


@pytest.mark.parametrize(
    ("rejected", "seen", "limit", "min_seen", "is_over"),
    [
        (60, 1_000, 0.05, MIN_SEEN_OF_RUN, True),
        (50, 1_000, 0.05, MIN_SEEN_OF_RUN, False),  # the limit itself is allowed
        (60, 999, 0.05, MIN_SEEN_OF_RUN, False),  # too few are seen
        (19, 100, 0.05, 0, False),  # too few are rejected
        (20, 100, 0.05, 0, True),
        (3, 3, 0.05, 0, True),  # all of them
        (1, 100, 0.0, 0, True),
        (100, 100, 1.0, 0, False),
    ],
)
def test_the_limit(rejected: int, seen: int, limit: float, min_seen: int, is_over: bool) -> None:
    assert is_over_limit(rejected, seen, limit, min_seen=min_seen) == is_over


def test_the_error_counts_the_reasons_and_names_one() -> None:
    rejects = [Reject(1, position, "", "empty_text", "nothing there") for position in range(30)]
    with pytest.raises(
        TooManyRejects, match=r"30 of 60 .* = 0\.05; lately 30 x empty_text; .*; for example 0: nothing"
    ):
        check_rejects(rejects, 30, 60, 0.05)
    check_rejects([], 30, 60, 0.05)
