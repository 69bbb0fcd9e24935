"""Audit a version before it is published: each gate measures one thing and compares it with a bound of the config.

Owns the gates. Owns no publication. A gate that has nothing to compare with, such as on the first night, passes and
says so.

Shapes: Q queries, D full width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.funnel import Funnel
from pipelines.nightly.canary import encode_again
from pipelines.nightly.overlap import Side, answer_overlap
from pipelines.nightly.recall import Sample, funnel_recall, neighbours_of, sample_rows
from pipelines.tables.erased import has_passages
from pipelines.tables.ledger import records_of, rows_by_shard
from pipelines.tables.rows import read_rows, row_ids, scan_vectors
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import Floats
from schemas.config import EmbedConfig
from schemas.config.nightly import AuditConfig
from schemas.errors import TableError
from schemas.printable import counted
from schemas.publications import GateResult
from schemas.records import Shard

_K = 10
_EXAMPLES = 5
_SPECTRUM_ROWS = 2_000
_UNIT = 2e-3  # what half precision leaves of a unit row, generously


@dataclass(frozen=True)
class Subject:
    """What is audited.

    Attributes:
        table: At the version that is to be published.
        prod: What is published now; None on the first night.
        embed: The embed job that made the rows.
        shards: Shards that the config lists.
        withdraws: Whether the rows of shards that are not listed any more are removed, as the config asks.
    """

    table: VectorTable
    prod: VectorTable | None
    embed: EmbedConfig
    shards: Sequence[Shard]
    withdraws: bool = False


def audit(subject: Subject, bounds: AuditConfig) -> tuple[GateResult, ...]:
    """Measure every gate.

    Raises:
        TableError: `label` is no kept column.
    """
    return tuple(_Audit(subject, bounds).gates())


class _Audit:
    def __init__(self, subject: Subject, bounds: AuditConfig) -> None:
        self._subject, self._bounds = subject, bounds
        self._table, self._prod = subject.table, subject.prod
        label = bounds.label
        if label is not None and label not in self._table.kept.names:
            raise TableError(
                f"audit.label = {label!r}: {self._table.uri} keeps no such column; it keeps "
                f"{', '.join(self._table.kept.names) or 'none'}"
            )

    def gates(self) -> Iterator[GateResult]:
        yield self._counts()
        yield self._row_loss()
        if self._subject.withdraws:
            yield self._withdrawal()
        yield self._rejects()
        yield self._norms()
        yield from self._recall()
        yield self._canary()
        yield self._overlap()
        yield from self._drift()
        if self._bounds.label is not None:
            yield self._label(self._bounds.label)

    @property
    def _is_same_kind(self) -> bool:
        """Whether the published rows are of the same space, and cut alike."""
        prod = self._prod
        return prod is not None and prod.space.fingerprint == self._table.space.fingerprint and self._is_same_cut

    @property
    def _is_same_cut(self) -> bool:
        return self._prod is not None and _cut_of(self._prod) == _cut_of(self._table)

    @cached_property
    def _held(self) -> dict[int, int]:
        """Rows of each shard."""
        return rows_by_shard(self._table.dataset)

    @cached_property
    def _held_before(self) -> dict[int, int]:
        """Published rows of each shard."""
        return {} if self._prod is None else rows_by_shard(self._prod.dataset)

    @cached_property
    def _records(self) -> pa.Table:
        return records_of(self._table)

    @cached_property
    def _records_before(self) -> pa.Table:
        assert self._prod is not None
        return records_of(self._prod)

    @cached_property
    def _sample(self) -> Sample:
        seed = int(self._table.dataset.version)
        return sample_rows(self._table, self._bounds.queries, seed=seed, new_since=self._held_before)

    def _counts(self) -> GateResult:
        """Compare the rows of each shard with the published ones, those of a new shard with what its run recorded."""
        records, now = self._records, self._held
        expected = dict(zip(records["shard"].to_pylist(), records["rows"].to_pylist(), strict=True))
        uris = dict(zip(records["shard"].to_pylist(), records["uri"].to_pylist(), strict=True))
        # What was erased since is in the record alone, and what another tool removed is in what was published.
        # A shard that was read again for its rejects has as many rows as its run recorded.
        other = {s: rows for s, rows in self._held_before.items() if s in now and now[s] != expected.get(s)}
        expected |= {s: min(rows, expected.get(s, rows)) for s, rows in other.items()}
        wrong = [shard for shard, rows in now.items() if rows != expected.get(shard)]
        rows, wanted = sum(now.values()), sum(expected.get(shard, 0) for shard in now)
        said = f"{counted(rows, 'row')}, {wanted:,} expected of their shards"
        examples = tuple(uris.get(shard, str(shard)) for shard in wrong[:_EXAMPLES])
        return GateResult(gate="counts", passed=not wrong, measured=rows, bound=wanted, said=said, examples=examples)

    def _row_loss(self) -> GateResult:
        if self._prod is None:
            return _nothing("row loss", "nothing was published before")
        withdrawn = self._withdrawn_rows() if self._subject.withdraws else 0
        if self._is_same_cut:
            now, before, what = len(self._table), len(self._prod) - withdrawn - self._erased_rows(), "row"
        else:
            now, before, what = _texts(self._table), _texts(self._prod) - withdrawn, "text"
        loss = max(0.0, 1 - now / max(1, before))
        said = f"{counted(now, what)} after {before:,}"
        return _at_most("row loss", loss, "max_row_loss", self._bounds, said)

    def _withdrawal(self) -> GateResult:
        """Hold up a night that removes much, as where a disk was not mounted."""
        if self._prod is None:
            return _nothing("withdrawn", "nothing was published before")
        before = len(self._prod) if self._is_same_cut else _texts(self._prod)
        gone = self._withdrawn_rows()
        said = f"{gone:,} of {before:,} published are of files that are gone"
        return _at_most("withdrawn", gone / max(1, before), "max_withdrawn", self._bounds, said)

    def _withdrawn_rows(self) -> int:
        """Count the published rows of shards that are not listed any more, or their texts where these are cut anew."""
        records, listed = self._records_before, {shard.name for shard in self._subject.shards}
        gone = records.filter(pa.array([uri not in listed for uri in records["uri"].to_pylist()], pa.bool_()))
        if self._is_same_cut:
            return sum(gone["rows"].to_pylist())
        assert self._prod is not None
        return _texts(self._prod, gone["shard"].to_pylist())

    def _erased_rows(self) -> int:
        """Count the published rows of shards that are recorded with fewer rows now, since some were erased."""
        records = self._records
        now = dict(zip(records["shard"].to_pylist(), records["rows"].to_pylist(), strict=True))
        return sum(max(0, rows - now.get(shard, rows)) for shard, rows in self._held_before.items())

    def _rejects(self) -> GateResult:
        """Look at all samples since the last publication, so that a refused night is not forgotten by the next."""
        records = self._records
        new = records.filter(pc.invert(pc.is_in(records["shard"], pa.array(list(self._held_before), pa.int64()))))
        rejects = sum(new["rejects"].to_pylist())
        samples = rejects + sum(new["rows"].to_pylist())
        if not samples:
            return _nothing("rejects", "no sample is new since the last publication")
        said = f"{rejects:,} of {counted(samples, 'sample')} were rejected"
        return _at_most("rejects", rejects / samples, "max_rejects", self._bounds, said)

    def _norms(self) -> GateResult:
        bad, examples = 0, list[str]()
        for batch, x_BD in scan_vectors(self._table.dataset, ["id"]):
            norms_B = np.linalg.norm(x_BD.astype(np.float32), axis=1)
            wrong = np.flatnonzero(~(np.abs(norms_B - 1) <= _UNIT))  # so that NaN is wrong
            bad += len(wrong)
            examples += [batch["id"][int(row)].as_py() for row in wrong[: _EXAMPLES - len(examples)]]
        said = f"rows that are not of unit length, or hold NaN: {bad:,}"
        return GateResult(gate="norms", passed=not bad, measured=bad, bound=0, said=said, rows=tuple(examples))

    def _recall(self) -> Iterator[GateResult]:
        for home in Funnel.homes(self._table):
            plan = Funnel.stored(self._table, home).plan
            measured, bound = funnel_recall(self._table, home, self._sample), plan.recall - self._bounds.recall_slack
            if measured is None:
                yield _nothing(f"recall in {home}", "too few rows to measure it")
                continue
            said = f"recall@{plan.k} of the funnel in {home} is {measured}; its target is {plan.recall}"
            passed = measured.low >= bound
            gate, setting = f"recall in {home}", "audit.recall_slack"
            yield GateResult(gate=gate, passed=passed, measured=measured.low, bound=bound, setting=setting, said=said)

    def _canary(self) -> GateResult:
        """Encode rows of an old and of a new shard again, where there are both."""
        there = [shard for shard in self._subject.shards if shard.id in self._held]
        old = [shard for shard in there if shard.id in self._held_before]
        new = [shard for shard in there if shard.id not in self._held_before]
        chosen = [*old[:1], *new[:1]]
        if not chosen or not self._bounds.canary_rows:
            return _nothing("canary", "no row could be encoded again")
        cosines = encode_again(self._table, self._subject.embed, chosen, self._bounds.canary_rows)
        if not cosines:
            return _nothing("canary", "no row could be encoded again")
        worst = sorted(cosines, key=lambda pair: pair[1])
        again = f"{counted(len(cosines), 'row')} of {counted(len(chosen), 'shard')}, encoded again,"
        said = f"{again} agree with what is stored to a cosine of {worst[0][1]:.5f} or more"
        if len(cosines) < self._bounds.canary_rows:
            said += f"; {self._bounds.canary_rows} were asked for (audit.canary_rows), and there are no more"
        bad = tuple(name for name, cosine in worst if cosine < self._bounds.min_canary)[:_EXAMPLES]
        return _at_least("canary", worst[0][1], "min_canary", self._bounds, said, bad)

    def _overlap(self) -> GateResult:
        """Compare the nearest rows of yesterday's rows in both versions, among the rows that both hold."""
        if self._prod is None or not len(self._prod):
            return _nothing("overlap", "nothing was published before that is still there")
        by_document = not self._is_same_cut
        before, now = (Side(table, self._names(table), by_document) for table in (self._prod, self._table))
        shares = answer_overlap(before, now, self._bounds.queries, _K)
        if shares is None:
            return _nothing("overlap", "too few rows to compare answers")
        mean = float(np.mean(list(shares.values())))
        setting = "min_overlap" if self._is_same_kind else "min_overlap_new_space"
        worst = tuple(sorted(shares, key=lambda name: shares[name])[:_EXAMPLES])
        said = f"{mean:.0%} of the {_K} nearest rows of {len(shares)} published rows are as they were"
        return _at_least("overlap", mean, setting, self._bounds, said, worst)

    def _names(self, table: VectorTable) -> dict[int, str]:
        """Return by what name each shard is compared: itself in one space, its address where all is encoded anew."""
        held = self._held if table is self._table else self._held_before
        names = {shard: str(shard) for shard in held}
        if not self._is_same_kind:
            records = self._records if table is self._table else self._records_before
            names |= dict(zip(records["shard"].to_pylist(), records["uri"].to_pylist(), strict=True))
        return names

    def _drift(self) -> Iterator[GateResult]:
        if self._prod is None or not self._is_same_kind:
            others = "the published rows are of another space, or of other passages"
            why = "nothing was published before" if self._prod is None else others
            yield _nothing("mean shift", why)
            yield _nothing("spectrum shift", why)
            return
        now, before = (sample_rows(table, _SPECTRUM_ROWS, seed=0).vectors_QD for table in (self._table, self._prod))
        shift = float(np.linalg.norm(now.mean(axis=0) - before.mean(axis=0)))
        yield _at_most(
            "mean shift", shift, "max_mean_shift", self._bounds, f"the mean of the rows moved by {shift:.3f}"
        )
        spectra = float(np.abs(_spectrum(now) - _spectrum(before)).sum())
        said = f"the spectrum of variance changed by {spectra:.3f}"
        yield _at_most("spectrum shift", spectra, "max_spectrum_shift", self._bounds, said)

    def _label(self, label: str) -> GateResult:
        now = _label_share(self._table, label, self._bounds.queries)
        if now is None or self._prod is None or label not in self._prod.kept.names:
            return _nothing("label", "nothing was published before that has the label")
        before = _label_share(self._prod, label, self._bounds.queries)
        if before is None:
            return _nothing("label", "too few rows to compare")
        said = f"the nearest row has the same {label} for {now:.1%} of the rows, after {before:.1%}"
        return _at_most("label", max(0.0, before - now), "max_label_loss", self._bounds, said)


def _cut_of(table: VectorTable) -> str | None:
    """Return how the texts of a table are cut into passages, in words; None where they are not."""
    return None if table.source is None else table.source.chunk


def _texts(table: VectorTable, shards: Sequence[int] | None = None) -> int:
    """Count the texts of a table, or of some of its shards, of which its rows may be passages."""
    wanted = ["passage = 0"] if has_passages(table) else []
    if shards is not None:
        wanted.append(f"shard IN ({', '.join(map(str, shards))})" if shards else "false")
    return int(table.dataset.count_rows(" AND ".join(wanted) or None))


def _label_share(table: VectorTable, label: str, queries: int) -> float | None:
    sample = sample_rows(table, queries, seed=1)
    truth = neighbours_of(table, sample, 1)
    if truth is None:
        return None
    nearest_Q = np.array([ids[0] for ids in truth.ties_Q], np.int64)
    asked, found = (_labels(table, rows, label) for rows in (sample.rows_Q, nearest_Q))
    return float(np.mean([one == other for one, other in zip(asked, found, strict=True)]))


def _labels(table: VectorTable, rows: npt.NDArray[np.int64], label: str) -> list[object]:
    found = read_rows(table.dataset, np.unique(rows), [label])
    of_row = dict(zip(row_ids(found).tolist(), found[label].to_pylist(), strict=True))
    return [of_row[row] for row in rows.tolist()]


def _spectrum(x_ND: Floats) -> npt.NDArray[np.float64]:
    centred = x_ND.astype(np.float64) - x_ND.mean(axis=0)
    values: npt.NDArray[np.float64] = np.linalg.svd(centred, compute_uv=False) ** 2
    full = np.zeros(x_ND.shape[1])
    full[: len(values)] = values / max(values.sum(), 1e-12)
    return full


def _nothing(gate: str, said: str) -> GateResult:
    return GateResult(gate=gate, passed=True, said=said)


def _at_most(gate: str, measured: float, setting: str, bounds: AuditConfig, said: str) -> GateResult:
    bound: float = getattr(bounds, setting)
    passed = measured <= bound  # NaN does not pass
    return GateResult(gate=gate, passed=passed, measured=measured, bound=bound, setting=f"audit.{setting}", said=said)


def _at_least(
    gate: str, measured: float, setting: str, bounds: AuditConfig, said: str, rows: tuple[str, ...] = ()
) -> GateResult:
    bound: float = getattr(bounds, setting)
    passed = measured >= bound  # NaN does not pass
    return GateResult(
        gate=gate,
        passed=passed,
        measured=measured,
        bound=bound,
        setting=f"audit.{setting}",
        said=said,
        rows=() if passed else rows,
    )
