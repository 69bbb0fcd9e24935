"""The public surface of Matryoshka Lake, for notebooks and programs: `from matryoshka_lake import VectorTable`.

Each name is imported from its own module at its first use, so that importing this package loads neither torch, Ray nor
an encoder. Owns the list of public names, and makes sure that they come from the packages installed beside this one.
Does not own any of them. What is not listed here is internal and may change without notice.

Example:
    >>> from matryoshka_lake import VectorTable
    >>> VectorTable.open("lake/demo/glosses.lance").search("fear of closed spaces", k=5, dim=64)  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs.embed import run as embed
    from jobs.evaluate import run as evaluate
    from jobs.rotate import run as rotate
    from jobs.shortlist import run as shortlist
    from jobs.train import run as train
    from pipelines.encoders import encoder_spec
    from pipelines.evaluation import recall_by_dim
    from pipelines.funnel import Funnel, Goal
    from pipelines.tables.hits import Hits
    from pipelines.tables.table import VectorTable
    from pipelines.tables.together import search_together
    from pipelines.vectors.arrays import to_numpy
    from pipelines.vectors.matryoshka import cut
    from schemas import __version__
    from schemas.cards import RecallCard
    from schemas.config import (
        AuditConfig,
        BudgetConfig,
        CascadeConfig,
        ChunkConfig,
        ClusterConfig,
        DataConfig,
        DemoConfig,
        DeployConfig,
        EmbedConfig,
        EncoderConfig,
        EvaluateConfig,
        ExactConfig,
        HooksConfig,
        InputConfig,
        LimitsConfig,
        ListsConfig,
        LossConfig,
        MeasureConfig,
        ModelConfig,
        NightlyConfig,
        OptimiserConfig,
        PrefixIndexConfig,
        PromptsConfig,
        RetrievalConfig,
        ReuseConfig,
        RobustnessConfig,
        RotationConfig,
        RunConfig,
        ShortlistConfig,
        StorageConfig,
        SystemConfig,
        TrainConfig,
        TrustConfig,
        TruthConfig,
        WorkersConfig,
        load_config,
    )
    from schemas.errors import (
        AuditFailed,
        ChunkMismatch,
        ClusterLost,
        ClusterUnreachable,
        ColumnMismatch,
        ConfigError,
        DependencyMissing,
        DimError,
        DimNotInLadder,
        EncoderError,
        EncoderMismatch,
        EncoderNotFound,
        EncoderNotTrusted,
        EncoderRefuses,
        FieldNotFound,
        FunnelWarning,
        InputError,
        LakeError,
        NightRunning,
        NoRoomForActors,
        NotMatryoshka,
        PublicationConflict,
        RowsLeftOut,
        RunError,
        RunExpired,
        ShardChanged,
        ShardNotFound,
        ShardsDamaged,
        ShardsFailed,
        ShardUnreadable,
        SpaceMismatch,
        TableError,
        TableExists,
        TableNotFound,
        TooManyRejects,
    )
    from schemas.plans import FunnelStage, Plan

__all__ = [
    "AuditConfig",
    "AuditFailed",
    "BudgetConfig",
    "CascadeConfig",
    "ChunkConfig",
    "ChunkMismatch",
    "ClusterConfig",
    "ClusterLost",
    "ClusterUnreachable",
    "ColumnMismatch",
    "ConfigError",
    "DataConfig",
    "DemoConfig",
    "DependencyMissing",
    "DeployConfig",
    "DimError",
    "DimNotInLadder",
    "EmbedConfig",
    "EncoderConfig",
    "EncoderError",
    "EncoderMismatch",
    "EncoderNotFound",
    "EncoderNotTrusted",
    "EncoderRefuses",
    "EvaluateConfig",
    "ExactConfig",
    "FieldNotFound",
    "Funnel",
    "FunnelStage",
    "FunnelWarning",
    "Goal",
    "Hits",
    "HooksConfig",
    "InputConfig",
    "InputError",
    "LakeError",
    "LimitsConfig",
    "ListsConfig",
    "LossConfig",
    "MeasureConfig",
    "ModelConfig",
    "NightRunning",
    "NightlyConfig",
    "NoRoomForActors",
    "NotMatryoshka",
    "OptimiserConfig",
    "Plan",
    "PrefixIndexConfig",
    "PromptsConfig",
    "PublicationConflict",
    "RecallCard",
    "RetrievalConfig",
    "ReuseConfig",
    "RobustnessConfig",
    "RotationConfig",
    "RowsLeftOut",
    "RunConfig",
    "RunError",
    "RunExpired",
    "ShardChanged",
    "ShardNotFound",
    "ShardUnreadable",
    "ShardsDamaged",
    "ShardsFailed",
    "ShortlistConfig",
    "SpaceMismatch",
    "StorageConfig",
    "SystemConfig",
    "TableError",
    "TableExists",
    "TableNotFound",
    "TooManyRejects",
    "TrainConfig",
    "TrustConfig",
    "TruthConfig",
    "VectorTable",
    "WorkersConfig",
    "__version__",
    "cut",
    "embed",
    "encoder_spec",
    "evaluate",
    "load_config",
    "recall_by_dim",
    "rotate",
    "search_together",
    "shortlist",
    "to_numpy",
    "train",
]

# Where a name lives: `module`, or `module:name` where it has another name there. For the others see `__getattr__`.
_HOMES = {
    "Funnel": "pipelines.funnel",
    "FunnelStage": "schemas.plans",
    "Goal": "pipelines.funnel",
    "Hits": "pipelines.tables.hits",
    "Plan": "schemas.plans",
    "RecallCard": "schemas.cards",
    "VectorTable": "pipelines.tables.table",
    "__version__": "schemas",
    "cut": "pipelines.vectors.matryoshka",
    "embed": "jobs.embed:run",
    "encoder_spec": "pipelines.encoders",
    "evaluate": "jobs.evaluate:run",
    "load_config": "schemas.config",
    "recall_by_dim": "pipelines.evaluation",
    "rotate": "jobs.rotate:run",
    "search_together": "pipelines.tables.together",
    "shortlist": "jobs.shortlist:run",
    "to_numpy": "pipelines.vectors.arrays",
    "train": "jobs.train:run",
}


def main() -> None:
    """Run the `mlake` command."""
    from jobs.__main__ import run

    run()


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'matryoshka_lake' has no attribute {name!r}")
    others = "schemas.config" if name.endswith("Config") else "schemas.errors"
    module, _, there = _HOMES.get(name, others).partition(":")
    value = getattr(importlib.import_module(module), there or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _import_own_packages() -> None:
    """Import the packages beside this one, whatever folders of the same names stand before them on `sys.path`.

    A notebook has its own directory first on `sys.path`. A folder `jobs` or `schemas` in it must not be taken for ours.

    Raises:
        ImportError: A package of the same name from elsewhere is imported already.
    """
    beside = Path(__file__).resolve().parent.parent
    for name in ("schemas", "pipelines", "cluster", "jobs"):
        module = sys.modules.get(name)
        if module is None:
            spec = PathFinder.find_spec(name, [str(beside)])
            if spec is None or spec.loader is None:
                raise ImportError(f"the package {name!r} is missing from {beside}; install matryoshka-lake again")
            sys.modules[name] = module = module_from_spec(spec)
            spec.loader.exec_module(module)
        elif Path(module.__file__ or "").resolve().parent != beside / name:
            raise ImportError(
                f"{name!r} is imported already from {module.__file__}, and matryoshka_lake has a package of that name; "
                "rename yours, or import matryoshka_lake in a process of its own"
            )


_import_own_packages()
