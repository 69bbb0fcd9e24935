"""One frozen config model per job, the blocks they share, and `load_config`.

A config travels whole: a function that needs settings takes the model, or one of its blocks, never loose arguments.
"""

from __future__ import annotations

from schemas.config.blocks import (
    ChunkConfig,
    ClusterConfig,
    ConfigBlock,
    EncoderConfig,
    InputConfig,
    LimitsConfig,
    ModelSettings,
    PromptsConfig,
    ReuseConfig,
    RotationConfig,
    StorageConfig,
    TrustConfig,
)
from schemas.config.demo import DemoConfig
from schemas.config.deploy import DeployConfig, WorkersConfig
from schemas.config.embed import EmbedConfig
from schemas.config.evaluation import (
    Baseline,
    CascadeConfig,
    Corruption,
    EvaluateConfig,
    MeasureConfig,
    RetrievalConfig,
    RobustnessConfig,
    SystemConfig,
    TruthConfig,
)
from schemas.config.given import check_choice, check_given, check_number, check_path, check_whole
from schemas.config.loading import load_config
from schemas.config.nightly import AuditConfig, BudgetConfig, HooksConfig, NightlyConfig
from schemas.config.shortlist import ExactConfig, ListsConfig, PrefixIndexConfig, ShortlistConfig
from schemas.config.training import DataConfig, LossConfig, ModelConfig, OptimiserConfig, Recipe, RunConfig, TrainConfig

__all__ = [
    "AuditConfig",
    "Baseline",
    "BudgetConfig",
    "CascadeConfig",
    "ChunkConfig",
    "ClusterConfig",
    "ConfigBlock",
    "Corruption",
    "DataConfig",
    "DemoConfig",
    "DeployConfig",
    "EmbedConfig",
    "EncoderConfig",
    "EvaluateConfig",
    "ExactConfig",
    "HooksConfig",
    "InputConfig",
    "LimitsConfig",
    "ListsConfig",
    "LossConfig",
    "MeasureConfig",
    "ModelConfig",
    "ModelSettings",
    "NightlyConfig",
    "OptimiserConfig",
    "PrefixIndexConfig",
    "PromptsConfig",
    "Recipe",
    "RetrievalConfig",
    "ReuseConfig",
    "RobustnessConfig",
    "RotationConfig",
    "RunConfig",
    "ShortlistConfig",
    "StorageConfig",
    "SystemConfig",
    "TrainConfig",
    "TrustConfig",
    "TruthConfig",
    "WorkersConfig",
    "check_choice",
    "check_given",
    "check_number",
    "check_path",
    "check_whole",
    "load_config",
]
