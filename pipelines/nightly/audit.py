"""Audit a version before it is published: each gate measures one thing and compares it with a bound of the config.

Owns the gates. Owns no publication. A gate that has nothing to compare with, such as on the first night, passes and
says so.

Shapes: Q queries, D full width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.funnel import Funnel
from pipelines.nightly import measures
from pipelines.nightly.canary import encode_again
from pipelines.nightly.gate_results import EXAMPLES, Bounds, nothing
from pipelines.nightly.judged import Judged, K, compare_judged, read_judged
from pipelines.nightly.overlap import Side, answer_overlap
from pipelines.nightly.recall import Sample, funnel_recall, sample_rows
from pipelines.tables.ledger import records_of, rows_by_shard
from pipelines.tables.rows import scan_vectors
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import RowIds
from schemas.config import EmbedConfig, TrustConfig
from schemas.config.nightly import AuditConfig
from schemas.errors import TableError
from schemas.printable import counted
from schemas.publications import GateResult
from schemas.records import Shard

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
        TableError: `label` is no kept column, or no row is one that `judged` names.
        ShardNotFound: `judged` is no folder of queries with judgements.
        InputError: It is malformed.
        EncoderNotTrusted: The published version was made by local files that `published_path` must name.
    """
    return tuple(_Audit(subject, bounds).gates())


class _Audit:
    def __init__(self, subject: Subject, bounds: AuditConfig) -> None:
        self._subject, self._bounds = subject, bounds
        self._table, self._prod, self._gate = subject.table, subject.prod, Bounds(bounds)
        label = bounds.label
        if label is not None and label not in self._table.kept.names:
            raise TableError(
                f"audit.label = {label!r}: {self._table.uri} keeps no such column; it keeps "
                f"{', '.join(self._table.kept.names) or 'none'}"
            )
        judged = bounds.judged
        self._judged = None if judged is None else read_judged(Path(judged).expanduser(), bounds.queries)

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
        if self._judged is not None:
            yield self._ask(self._judged)

    @property
    def _is_same_kind(self) -> bool:
        """Whether the published rows are of the same space, and cut alike."""
        prod = self._prod
        return prod is not None and prod.space.fingerprint == self._table.space.fingerprint and self._is_same_cut

    @property
    def _is_same_cut(self) -> bool:
        return self._prod is not None and measures.cut_of(self._prod) == measures.cut_of(self._table)

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
    def _recorded(self) -> dict[int, int]:
        """Rows of each shard, as its run recorded them."""
        return dict(zip(self._records["shard"].to_pylist(), self._records["rows"].to_pylist(), strict=True))

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
        now, expected = self._held, dict(self._recorded)
        # What was erased since is in the record alone, and what another tool removed is in what was published.
        # A shard that was read again for its rejects has as many rows as its run recorded.
        other = {s: rows for s, rows in self._held_before.items() if s in now and now[s] != expected.get(s)}
        expected |= {s: min(rows, expected.get(s, rows)) for s, rows in other.items()}
        wrong = [shard for shard, rows in now.items() if rows != expected.get(shard)]
        rows, wanted = sum(now.values()), sum(expected.get(shard, 0) for shard in now)
        said = f"{counted(rows, 'row')}, {wanted:,} expected of their shards"
        examples = self._uris(wrong[:EXAMPLES])
        return GateResult(gate="counts", passed=not wrong, measured=rows, bound=wanted, said=said, examples=examples)

    def _row_loss(self) -> GateResult:
        if self._prod is None:
            return nothing("row loss", "nothing was published before")
        withdrawn = self._withdrawn_rows() if self._subject.withdraws else 0
        if self._is_same_cut:
            now, before, what = len(self._table), len(self._prod) - withdrawn - self._erased_rows(), "row"
        else:
            now, before, what = measures.count_texts(self._table), measures.count_texts(self._prod) - withdrawn, "text"
        loss = max(0.0, 1 - now / max(1, before))
        said = f"{counted(now, what)} after {before:,}"
        return self._gate.at_most("row loss", loss, "max_row_loss", said, self._smaller_files)

    def _withdrawal(self) -> GateResult:
        """Hold up a night that removes much, as where a disk was not mounted."""
        if self._prod is None:
            return nothing("withdrawn", "nothing was published before")
        before = len(self._prod) if self._is_same_cut else measures.count_texts(self._prod)
        gone = self._withdrawn_rows()
        said = f"{gone:,} of {before:,} published are of files that are gone"
        share = gone / max(1, before)
        return self._gate.at_most("withdrawn", share, "max_withdrawn", said, lambda: _largest(self._withdrawn))

    @cached_property
    def _withdrawn(self) -> pa.Table:
        """Published records of shards that are not listed any more."""
        records, listed = self._records_before, {shard.name for shard in self._subject.shards}
        return records.filter(pa.array([uri not in listed for uri in records["uri"].to_pylist()], pa.bool_()))

    def _withdrawn_rows(self) -> int:
        """Count the published rows of shards that are not listed any more, or their texts where these are cut anew."""
        if self._is_same_cut:
            return sum(self._withdrawn["rows"].to_pylist())
        assert self._prod is not None
        return measures.count_texts(self._prod, self._withdrawn["shard"].to_pylist())

    def _smaller_files(self) -> tuple[str, ...]:
        before = measures.rows_by_file(self._held_before, self._records_before)
        for uri in self._withdrawn["uri"].to_pylist() if self._subject.withdraws else ():
            del before[uri]
        return _top(before - measures.rows_by_file(self._held, self._records))

    def _erased_rows(self) -> int:
        """Count the published rows of shards that are recorded with fewer rows now, since some were erased."""
        return sum(max(0, rows - self._recorded.get(shard, rows)) for shard, rows in self._held_before.items())

    def _rejects(self) -> GateResult:
        """Look at all samples since the last publication, so that a refused night is not forgotten by the next."""
        records = self._records
        new = records.filter(pc.invert(pc.is_in(records["shard"], pa.array(list(self._held_before), pa.int64()))))
        rejects = sum(new["rejects"].to_pylist())
        samples = rejects + sum(new["rows"].to_pylist())
        if not samples:
            return nothing("rejects", "no sample is new since the last publication")
        said = f"{rejects:,} of {counted(samples, 'sample')} were rejected"
        return self._gate.at_most(
            "rejects", rejects / samples, "max_rejects", said, lambda: _largest(new, by="rejects")
        )

    def _norms(self) -> GateResult:
        bad, examples = 0, list[str]()
        for batch, x_BD in scan_vectors(self._table.dataset, ["id"]):
            norms_B = np.linalg.norm(x_BD.astype(np.float32), axis=1)
            wrong = np.flatnonzero(~(np.abs(norms_B - 1) <= _UNIT))  # so that NaN is wrong
            bad += len(wrong)
            examples += [batch["id"][int(row)].as_py() for row in wrong[: EXAMPLES - len(examples)]]
        said = f"rows that are not of unit length, or hold NaN: {bad:,}"
        return GateResult(gate="norms", passed=not bad, measured=bad, bound=0, said=said, rows=tuple(examples))

    def _recall(self) -> Iterator[GateResult]:
        for home in Funnel.homes(self._table):
            plan, gate = Funnel.stored(self._table, home).plan, f"recall in {home}"
            recall, bound = funnel_recall(self._table, home, self._sample), plan.recall - self._bounds.recall_slack
            if recall is None:
                yield nothing(gate, "too few rows to measure it")
                continue
            low, setting = recall.interval.low, "audit.recall_slack"
            said = f"recall@{plan.k} of the funnel in {home} is {recall.interval}; its target is {plan.recall}"
            rows = () if low >= bound else self._ids(recall.lowest)
            yield GateResult(
                gate=gate, passed=low >= bound, measured=low, bound=bound, setting=setting, said=said, rows=rows
            )

    def _canary(self) -> GateResult:
        """Encode rows of an old and of a new shard again, where there are both."""
        there = [shard for shard in self._subject.shards if shard.id in self._held]
        old = [shard for shard in there if shard.id in self._held_before]
        new = [shard for shard in there if shard.id not in self._held_before]
        chosen = [*old[:1], *new[:1]]
        if not chosen or not self._bounds.canary_rows:
            return nothing("canary", "no row could be encoded again")
        cosines = encode_again(self._table, self._subject.embed, chosen, self._bounds.canary_rows)
        if not cosines:
            return nothing("canary", "no row could be encoded again")
        worst = sorted(cosines, key=lambda pair: pair[1])
        again = f"{counted(len(cosines), 'row')} of {counted(len(chosen), 'shard')}, encoded again,"
        said = f"{again} agree with what is stored to a cosine of {worst[0][1]:.5f} or more"
        if len(cosines) < self._bounds.canary_rows:
            said += f"; audit.canary_rows is {self._bounds.canary_rows}, and the first samples have no more rows"
        bad = tuple(name for name, cosine in worst if cosine < self._bounds.min_canary)
        return self._gate.at_least("canary", worst[0][1], "min_canary", said, rows=lambda: bad)

    def _overlap(self) -> GateResult:
        """Compare the nearest rows of yesterday's rows in both versions, among the rows that both hold."""
        if self._prod is None or not len(self._prod):
            return nothing("overlap", "nothing was published before that is still there")
        by_document = not self._is_same_cut
        before, now = (Side(table, self._names(table), by_document) for table in (self._prod, self._table))
        shares = answer_overlap(before, now, self._bounds.queries, K)
        if shares is None:
            return nothing("overlap", "too few rows to compare answers")
        mean = float(np.mean(list(shares.values())))
        setting = "min_overlap" if self._is_same_kind else "min_overlap_new_space"
        worst = tuple(sorted(shares, key=lambda name: shares[name]))
        said = f"{mean:.0%} of the {K} nearest rows of {len(shares)} published rows are as they were"
        return self._gate.at_least("overlap", mean, setting, said, rows=lambda: worst)

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
            yield nothing("mean shift", why)
            yield nothing("spectrum shift", why)
            return
        now, was = (sample_rows(table, _SPECTRUM_ROWS, seed=0) for table in (self._table, self._prod))
        before = was.vectors_QD
        shift = measures.mean_shift(before, now.vectors_QD)
        said = f"the mean of the rows moved by {shift:.3f}"
        movers = partial(measures.mean_movers, self._table, now, before)
        yield self._gate.at_most("mean shift", shift, "max_mean_shift", said, lambda: self._uris(movers()))
        spectra = measures.spectrum_shift(before, now.vectors_QD)
        said = f"the spectrum of variance changed by {spectra:.3f}"
        causes = partial(measures.spectrum_movers, self._table, now, before)
        yield self._gate.at_most("spectrum shift", spectra, "max_spectrum_shift", said, lambda: self._uris(causes()))

    def _label(self, label: str) -> GateResult:
        now = measures.label_share(self._table, label, self._bounds.queries)
        if now is None or self._prod is None or label not in self._prod.kept.names:
            return nothing("label", "nothing was published before that has the label")
        before = measures.label_share(self._prod, label, self._bounds.queries)
        if before is None:
            return nothing("label", "too few rows to compare")
        said = f"the nearest row has the same {label} for {now[0]:.1%} of the rows, after {before[0]:.1%}"
        loss = max(0.0, before[0] - now[0])
        return self._gate.at_most("label", loss, "max_label_loss", said, rows=lambda: self._ids(now[1]))

    def _ask(self, judged: Judged) -> GateResult:
        """Ask both versions what a person has judged. What is lost for certain must be within the bound."""
        table, prod = self._trusting(self._table), None if self._prod is None else self._trusting(self._prod)
        found = compare_judged(prod, table, judged, EXAMPLES)
        said = f"nDCG@{K} of {len(judged.texts):,} judged queries is {found.now}"
        if found.before is None or found.change is None:
            return nothing("judged queries", f"{said}; nothing was published before")
        change = found.change
        said += f", after {found.before}; the change is {change.mean:+.3f} ({change.low:+.3f} to {change.high:+.3f})"
        loss = max(0.0, -change.high)
        return self._gate.at_most("judged queries", loss, "max_ndcg_loss", said, lambda: found.worst)

    def _trusting(self, table: VectorTable) -> VectorTable:
        """Return a table that may load the encoder that this config, or `published_path`, names."""
        encoder, space = self._subject.embed.encoder, table.space
        path = self._bounds.published_path if table is self._prod else None
        trust = TrustConfig(
            encoder_path=None if space.path is None else path or encoder.path,
            encoder_class=None if space.class_name is None else encoder.class_ or encoder.name,
            trust_remote_code=encoder.trust_remote_code,
            unverified=encoder.unverified,
        )
        return VectorTable(table.uri, table.dataset, table.storage, trust=trust)

    def _uris(self, shards: Iterable[int]) -> tuple[str, ...]:
        uris = dict(zip(self._records["shard"].to_pylist(), self._records["uri"].to_pylist(), strict=True))
        return tuple(uris.get(shard, str(shard)) for shard in shards)

    def _ids(self, rows: RowIds) -> tuple[str, ...]:
        return tuple(measures.values_of(self._table, rows[:EXAMPLES], "id"))


def _largest(records: pa.Table, by: str = "rows") -> tuple[str, ...]:
    """Return the files with the most rows, or rejects, of some records."""
    return _top(Counter(dict(zip(records["uri"].to_pylist(), records[by].to_pylist(), strict=True))))


def _top(counts: Counter[str]) -> tuple[str, ...]:
    return tuple(name for name, count in counts.most_common(EXAMPLES) if count)
