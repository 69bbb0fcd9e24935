"""The config of `mlake embed`."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from schemas.column_names import PASSAGE_COLUMNS
from schemas.config.blocks import (
    ChunkConfig,
    ClusterConfig,
    ConfigBlock,
    EncoderConfig,
    InputConfig,
    LimitsConfig,
    ReuseConfig,
    RotationConfig,
    StorageConfig,
)


class EmbedConfig(ConfigBlock):
    """Settings of `mlake embed`.

    Attributes:
        shards: Patterns that name the input files: globs, brace ranges, folders, or `@list` for a file of patterns.
        table: Address of the table, a local path or an s3:// URL. It is made where there is none.
    """

    shards: tuple[str, ...] = Field(min_length=1)
    table: str
    input: InputConfig
    chunk: ChunkConfig | None = None
    encoder: EncoderConfig
    rotation: RotationConfig = RotationConfig()
    cluster: ClusterConfig = ClusterConfig()
    limits: LimitsConfig = LimitsConfig()
    reuse: ReuseConfig = ReuseConfig()
    storage: StorageConfig = StorageConfig()

    @model_validator(mode="before")
    @classmethod
    def _one_pattern_is_a_list_of_one(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and isinstance(raw.get("shards"), str):
            return raw | {"shards": [raw["shards"]]}
        return raw

    @model_validator(mode="after")
    def _passages_are_of_texts(self) -> EmbedConfig:
        if self.chunk is None:
            return self
        if self.input.modality != "text":
            raise ValueError(f"[chunk] cuts texts, and this job embeds input.{self.input.modality}; leave [chunk] out")
        if taken := [name for name in PASSAGE_COLUMNS if name in self.input.columns]:
            raise ValueError(
                f"[chunk] makes a column {taken[0]!r} of its own; store the field under another name, as in "
                f'keep = ["{self.input.columns[taken[0]]} as NAME"]'
            )
        return self
