"""What is derived from a table's vectors, and brought up to date each night: one list, so that a new kind is one entry.

Each kind says what it lacks, adds only that, and says what it did. Shortlist tables are not among them yet.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Protocol

from pipelines.funnel import Funnel, Goal
from pipelines.nightly.recall import funnel_recall, sample_rows
from pipelines.tables.indexes import index_prefix
from pipelines.tables.prefixes import add_prefixes
from pipelines.tables.table import VectorTable
from schemas.config.nightly import NightlyConfig
from schemas.errors import FunnelWarning, TableNotFound
from schemas.plans import Home


class Derived(Protocol):
    """One kind of derived data."""

    def update(self, table: VectorTable) -> Iterator[str]:
        """Bring it up to date, and yield a sentence for each thing that was done."""


class Prefixes:
    """Prefix columns and their indexes: cut and indexed for the rows that lack them."""

    def __init__(self, config: NightlyConfig, before: VectorTable | None) -> None:
        """Take the dims of the config, else those of the table or of the generation before it."""
        self._config, self._before = config, before

    def update(self, table: VectorTable) -> Iterator[str]:
        """Cut what lacks, and extend or build each index."""
        known = table.prefix_dims or (self._before.prefix_dims if self._before is not None else ())
        asked = known if self._config.prefixes is None else self._config.prefixes
        dims = [dim for dim in asked if dim in table.space.ladder.dims[:-1]]
        if not dims:
            return
        version = table.dataset.version
        table = add_prefixes(table, dims)
        for dim in dims:
            table = index_prefix(table, dim, self._config.index)
        if table.dataset.version != version:
            yield f"prefix columns {', '.join(map(str, dims))} and their indexes are up to date"


class Funnels:
    """Funnels: kept while their measured recall holds, tuned anew where it does not."""

    def __init__(self, config: NightlyConfig, before: VectorTable | None) -> None:
        """Take the funnels of the table, else those of the generation before it."""
        self._audit, self._before = config.audit, before

    def update(self, table: VectorTable) -> Iterator[str]:
        """Measure each funnel on rows of the table; tune it anew if its recall fell below its target."""
        for home in Funnel.homes(table):
            tuned = Funnel.stored(table, home)
            sample = sample_rows(table, self._audit.queries, seed=table.dataset.version)
            measured = funnel_recall(table, home, sample)
            if measured is not None and measured.interval.low < tuned.plan.recall - self._audit.recall_slack:
                said = _tune(table, home, tuned.plan.recall, tuned.plan.k)
                yield f"{said}: its recall had fallen to {measured.interval}"
        homes = Funnel.homes(self._before) if self._before is not None and not Funnel.homes(table) else ()
        for home in homes:
            assert self._before is not None
            plan = Funnel.stored(self._before, home).plan
            yield f"{_tune(table, home, plan.recall, plan.k)}, as the generation before has one"


def derived_of(config: NightlyConfig, before: str | None) -> tuple[Derived, ...]:
    """Return every kind of derived data, in the order in which they build on each other.

    Args:
        config: The night.
        before: Address of the generation that is published, whose kinds a new one takes over.
    """
    try:
        table = None if before is None else VectorTable.open(before, storage=config.storage)
    except TableNotFound:
        table = None
    return Prefixes(config, table), Funnels(config, table)


def _tune(table: VectorTable, home: Home, recall: float, k: int) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FunnelWarning)  # of a funnel that saves no time: said here
        Funnel.build(table, Goal(recall=recall, k=k), home=home)
    slower = Funnel.stored(table.refresh(), home).slower
    return f"the funnel in {home} was tuned anew for recall {recall} at k={k}{slower and f' ({slower})'}"
