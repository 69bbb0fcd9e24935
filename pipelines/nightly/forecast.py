"""Forecast a night from a few of its shards: rows whose vectors are reused, and what its operator should know first.

Owns what `mlake nightly --dry-run` says beyond the plan. A night itself does none of it, since it reads samples twice.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipelines.embedding.plan import sample_blocks
from pipelines.embedding.reuse import StoredVectors, stored_vectors
from pipelines.nightly.plan import NightPlan
from pipelines.storage.addresses import absolute
from pipelines.tables.ledger import rows_by_shard
from pipelines.tables.night_log import at_work, last_night
from schemas.columns import INPUT_HASH
from schemas.config import EmbedConfig
from schemas.config.nightly import NightlyConfig
from schemas.printable import counted
from schemas.records import Shard

_SHARDS = 4  # of the new and of the changed ones each
_ROWS = 10_000  # of each shard, from its beginning
_MANY_CHANGED = 0.5  # of the known files: rather a copied folder than so many edits


@dataclass(frozen=True)
class Forecast:
    """What a night will meet.

    Attributes:
        reused: Rows of tonight whose content stands in the table or earlier in the night, estimated; None where nothing
            is reused.
        seconds: Seconds of tonight's encoding, by the pace of the last run; None where there was none.
        samples: Samples that were looked at.
        rejects: Those of them that cannot be embedded.
        warnings: What the operator should know before, a sentence each, with what to do.
    """

    reused: int | None
    seconds: float | None
    samples: int
    rejects: int
    warnings: tuple[str, ...]


def forecast(config: NightlyConfig, plan: NightPlan) -> Forecast:
    """Read the beginnings of a few shards of tonight, and look at what may go wrong.

    Raises:
        InputError: A shard cannot be read.
    """
    job = config.embed_config(plan.uri)
    reused, samples, rejects = 0.0, 0, 0
    size = max(1, sum(shard.size for shard in plan.tonight))
    changed = frozenset(plan.changed)
    for is_changed in (False, True):
        group = [shard for shard in plan.tonight if (shard in changed) == is_changed]
        if not group:
            continue
        look = _look(_spread(group), job, _stored(plan, job))
        samples, rejects = samples + look.samples, rejects + look.rejects
        part = sum(shard.size for shard in group) / size
        reused += plan.expected_rows * part * look.equal / max(1, look.samples)
    warnings = (*_of_table(config, plan), *_of_shards(config, plan), *_of_samples(config, samples, rejects))
    found = round(reused) if _reuses(plan) else None
    seconds = None if plan.pace is None else plan.pace.seconds(max(0, plan.expected_rows - (found or 0)))
    return Forecast(found, seconds, samples, rejects, warnings)


@dataclass
class _Look:
    samples: int = 0
    rejects: int = 0
    equal: int = 0


def _look(shards: Sequence[Shard], job: EmbedConfig, stored: StoredVectors | None) -> _Look:
    """Count samples, rejects, and inputs that are stored or were seen before."""
    look, seen = _Look(), set[int]()
    for shard in shards:
        rows = 0
        for block in sample_blocks(shard, job):
            rows += block.rows.num_rows + len(block.rejects)
            look.rejects += len(block.rejects)
            if job.input.modality != "vector":
                look.equal += _equal(block.rows["input"].to_pylist(), stored, seen)
            if rows >= _ROWS:
                break
        look.samples += rows
    return look


def _equal(inputs: Sequence[str | bytes], stored: StoredVectors | None, seen: set[int]) -> int:
    is_known = [False] * len(inputs) if stored is None else stored.find(inputs).is_known_N.tolist()
    equal = 0
    for one, is_stored in zip(map(hash, inputs), is_known, strict=True):
        equal += is_stored or one in seen
        seen.add(one)
    return equal


def _spread(shards: Sequence[Shard]) -> list[Shard]:
    """Choose a few shards, spread over their sizes."""
    by_size = sorted(shards, key=lambda shard: (shard.size, shard.name))
    most = min(_SHARDS, len(by_size))
    return [by_size[(2 * place + 1) * len(by_size) // (2 * most)] for place in range(most)]


def _stored(plan: NightPlan, job: EmbedConfig) -> StoredVectors | None:
    return None if plan.embed.table is None else stored_vectors(plan.embed.table, job)


def _reuses(plan: NightPlan) -> bool:
    """Tell whether the rows of tonight have hashes."""
    held = () if plan.embed.table is None else plan.embed.table.dataset.schema.names
    return INPUT_HASH in (*held, *plan.embed.columns.kept.names)


def _of_table(config: NightlyConfig, plan: NightPlan) -> Iterator[str]:
    base = absolute(config.table)
    last, is_alive = last_night(base, config.storage)
    if last is not None and is_alive:
        yield f"{at_work(last, base)}: one that starts meanwhile is refused"
    elif last is not None and last.state == "refused":
        why = "; ".join(gate.verdict for gate in last.audit if not gate.passed)
        yield f"night {last.number} was refused, and what it embedded is audited again: {why}"
    if plan.differing:
        encoded = "all shards are" if plan.derivation is None else "what cannot be derived is"
        yield (
            f"generation {plan.generation} is started, and {encoded} encoded anew, since the config differs from "
            f"{plan.differing}; `prod` stays until it is complete and passes the audit"
        )
    if plan.not_derived:
        yield plan.not_derived
    if config.budget.minutes is not None and plan.tonight and plan.pace is None:
        yield "budget.minutes bounds nothing before the first run, whose rate it takes; set budget.rows for tonight"
    if "://" not in plan.uri and (short := _short_of_disk(base, plan)):
        yield short


def _short_of_disk(base: str, plan: NightPlan) -> str:
    folder = base.rpartition("/")[0] or "/"
    needed = 2 * plan.embed.space.ladder.width * plan.expected_rows
    try:
        free = shutil.disk_usage(folder).free
    except OSError:  # it is not there yet
        return ""
    return (
        "" if needed < free else f"tonight's vectors take {needed:,} bytes, and {folder} has {free:,} left: make room"
    )


def _of_shards(config: NightlyConfig, plan: NightPlan) -> Iterator[str]:
    table, gone = plan.embed.table, len(plan.vanished)
    if table is None:
        return
    known = gone + len(plan.changed) + plan.unchanged
    if len(plan.changed) > 1 and len(plan.changed) >= _MANY_CHANGED * known:
        yield (
            f"{len(plan.changed):,} of {counted(known, 'known file')} have changed: were they copied, or their times "
            "set? They are read again; content that is as it was is not encoded"
        )
    if gone and plan.new and not config.withdraw:
        yield (
            f"{counted(gone, 'file')} of the table are gone, and {len(plan.new):,} are new: were they renamed? The "
            "rows of the old ones stay beside them; withdraw = true removes these"
        )
    if gone and config.withdraw:
        rows = rows_by_shard(table.dataset)
        share = sum(rows.get(shard, 0) for shard in plan.vanished) / max(1, sum(rows.values()))
        if share > config.audit.max_withdrawn:
            yield (
                f"withdraw = true removes the rows of {counted(gone, 'file')} that are gone, {share:.0%} of all: is a "
                "disk not there, or has a pattern changed? audit.max_withdrawn would refuse the night"
            )


def _of_samples(config: NightlyConfig, samples: int, rejects: int) -> Iterator[str]:
    if rejects > config.audit.max_rejects * samples:
        yield (
            f"{rejects:,} of {counted(samples, 'sample')} that were looked at cannot be embedded, and "
            f"audit.max_rejects is {config.audit.max_rejects:g}: the audit would refuse the night"
        )
