"""What one search of a funnel did, stage by stage."""

from __future__ import annotations

from pydantic import ConfigDict

from schemas.html import ShownAsHtml
from schemas.plans import Precision


class StageReport(ShownAsHtml):
    """Work of one stage for one query.

    Attributes:
        dims: Number of dims compared.
        precision: Precision of the compared vectors.
        compared: Number of vectors compared.
        kept: Candidates for the next stage.
        bytes_read: Bytes of vectors or codes read; in the lake, bytes read from the storage.
        requests: Number of reads from the storage; 0 in memory.
        milliseconds: Time taken.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    dims: int
    precision: Precision
    compared: int
    kept: int
    bytes_read: int
    requests: int
    milliseconds: float


class Explanation(ShownAsHtml):
    """One query, stage by stage, beside the cost of an exact search.

    Attributes:
        stages: Stages from coarse to full width.
        exact_bytes: Bytes of an exact float32 search at full width.
        exact_milliseconds: Time of that search, from the recall card.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    stages: tuple[StageReport, ...]
    exact_bytes: int
    exact_milliseconds: float

    def __str__(self) -> str:
        """Return the stages as a text table."""
        lines = [f"{'dims':>6} {'precision':>9} {'compared':>10} {'kept':>6} {'bytes':>13} {'requests':>8} {'ms':>8}"]
        lines += [
            f"{s.dims:>6} {s.precision:>9} {s.compared:>10,} {s.kept:>6,} {s.bytes_read:>13,} {s.requests or '':>8}"
            f" {s.milliseconds:>8.2f}"
            for s in self.stages
        ]
        lines.append(
            f"{'exact':>6} {'':>9} {'':>10} {'':>6} {self.exact_bytes:>13,} {'':>8} {self.exact_milliseconds:>8.2f}"
        )
        return "\n".join(lines)
