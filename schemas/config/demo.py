"""The config of `mlake demo`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from schemas.config.blocks import ConfigBlock
from schemas.config.bounds import MAX_COUNT, Dim, Number


class DemoConfig(ConfigBlock):
    """Settings of `mlake demo`.

    Attributes:
        folder: Folder for its shards, tables and report.
        limit: Maximum number of samples per corpus; None takes all.
        shortlist_dim: Dim of the prefix that gets a column and an index.
        recall: Recall@10 that the funnel is tuned to.
    """

    folder: str = "lake/demo"
    limit: Annotated[int, Number, Field(ge=50, le=MAX_COUNT)] | None = None
    shortlist_dim: Dim = 64
    recall: Annotated[float, Number, Field(gt=0, le=1)] = 0.99
