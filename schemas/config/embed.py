"""The config of `mlake embed`."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from schemas.config.blocks import (
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
