"""What `mlake embed` does on one actor before a new table has a row: compare the encoder, and fit the rotation."""

from __future__ import annotations

import dataclasses
from functools import partial

from cluster.actors import ActorPool
from cluster.placement import PoolSize
from pipelines.embedding.creation import Tell
from pipelines.embedding.equality import EqualityChecker, check_equality, may_compare
from pipelines.embedding.plan import EmbedPlan
from pipelines.embedding.rotation_fitter import RotationFitter, fit_rotation
from pipelines.reports.progress import Screen
from pipelines.reports.terminal import say_equality
from pipelines.vectors.rotation import Rotation
from schemas.config import EmbedConfig
from schemas.journal import Equality
from schemas.records import Shard


def compare_encoder(config: EmbedConfig, size: PoolSize, plan: EmbedPlan, screen: Screen) -> Equality | None:
    """Compare the encoder with its reference implementation on samples of the first shard, and say how alike they are.

    Raises:
        RunError: They differ, or it could not be tried.
    """
    if not may_compare(config):
        return None
    screen.begin("comparing the encoder with its reference implementation")
    with ActorPool[Shard, Equality | None](partial(EqualityChecker, config, size.threads), _one(size)) as pool:
        found = check_equality(pool, plan.todo[0], config.limits.max_tries)
    if found is not None:
        screen.say(say_equality(found))
    return found


def fit_on_an_actor(config: EmbedConfig, size: PoolSize, shards: tuple[Shard, ...], tell: Tell) -> Rotation:
    """Fit a rotation on samples of some shards."""
    with ActorPool[tuple[Shard, ...], Rotation](partial(RotationFitter, config, size.threads), _one(size)) as pool:
        return fit_rotation(pool, shards, config.limits.max_tries, tell)


def _one(size: PoolSize) -> PoolSize:
    return dataclasses.replace(size, actors=1, in_flight=1, grows=False)
