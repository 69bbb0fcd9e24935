"""The config of `mlake demo`."""

from __future__ import annotations

from pydantic import Field

from schemas.config.blocks import ConfigBlock


class DemoConfig(ConfigBlock):
    """Settings of `mlake demo`.

    Attributes:
        folder: Folder for its shards, tables and report.
        limit: Maximum number of samples per corpus; None takes all.
        shortlist_dim: Dim of the prefix that gets a column and an index.
        recall: Recall@10 that the funnel is tuned to.
    """

    folder: str = "lake/demo"
    limit: int | None = Field(None, ge=50)
    shortlist_dim: int = 64
    recall: float = Field(0.99, gt=0, le=1)
