"""The reject limit: the one rule that says when too many samples of a lease or a run were rejected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from schemas.errors import TooManyRejects
from schemas.printable import counted
from schemas.records import Reject

MIN_REJECTED = 20
"""Fewer rejects never stop anything, unless all samples are rejected or the limit is 0."""
MIN_SEEN_OF_RUN = 1_000
"""Samples that a run must have seen before the limit is applied; at its end it applies to any number."""
MIN_SEEN_OF_LEASE = 10_000
"""Samples that a lease must have seen: more than a run, since the bad samples of one shard may lie together."""


def is_over_limit(rejected: int, seen: int, limit: float, *, min_seen: int = 0) -> bool:
    """Tell whether rejects pass `limits.max_reject_fraction`.

    Args:
        rejected: Samples that were rejected.
        seen: All samples, the rejected ones included.
        limit: The largest share of rejects that is allowed.
        min_seen: Fewer samples are not judged.
    """
    is_certain = rejected >= MIN_REJECTED or limit == 0 or rejected == seen
    return seen >= min_seen and rejected > limit * seen and is_certain


def check_rejects(examples: Sequence[Reject], rejected: int, seen: int, limit: float, *, min_seen: int = 0) -> None:
    """Refuse to continue when rejects pass the limit.

    Args:
        examples: The latest rejects; without any, nothing is checked.
        rejected: Samples that were rejected.
        seen: All samples, the rejected ones included.
        limit: The largest share of rejects that is allowed.
        min_seen: Fewer samples are not judged.

    Raises:
        TooManyRejects: The limit is passed; the message counts the reasons and names an example.
    """
    if not examples or not is_over_limit(rejected, seen, limit, min_seen=min_seen):
        return
    reasons = Counter(reject.reason for reject in examples).most_common(3)
    first = examples[0]
    raise TooManyRejects(
        f"{rejected} of {counted(seen, 'sample')} were rejected, more than limits.max_reject_fraction = {limit}; "
        f"lately {', '.join(f'{count} x {reason}' for reason, count in reasons)}; fix [input], or raise the limit",
        f"{first.key or first.position}: {first.message}",
    )
