"""The config of `python -m jobs demo`."""

from __future__ import annotations

from pydantic import Field

from schemas.config.blocks import ConfigBlock


class DemoConfig(ConfigBlock):
    """Settings of `python -m jobs demo`.

    Attributes:
        folder: Where its shards, tables and report go.
        limit: Samples per corpus at most; None takes all of them.
        shortlist_dim: Prefix that gets a column and an index of its own.
        recall: What the funnel is tuned to find of the true ten nearest.
    """

    folder: str = "lake/demo"
    limit: int | None = Field(None, ge=50)
    shortlist_dim: int = 64
    recall: float = Field(0.99, gt=0, le=1)
