"""Nights of a small lake, quiet and disturbed ones; each morning `prod` is compared with what it must be, row for row.

That is a table of the lake as it is, or yesterday's `prod` where the audit refused the night, or the night was killed
before it published. Readers that have had `prod` open since earlier mornings must answer as they did.

Owns what happens in a night, and the comparisons. What lies in the lake is in `lake.py`.
"""

from __future__ import annotations

import contextlib
import random
import signal
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from pipelines.funnel import Funnel, Goal
from pipelines.tables.erased import erased_samples
from pipelines.tables.maintenance import unneeded_files
from pipelines.tables.publication_log import read_log, resolve_prod
from pipelines.tables.table import VectorTable
from pipelines.tables.tags import read_tags
from schemas.errors import FunnelWarning, LakeError, TableNotFound
from schemas.publications import PROD
from tests.chaos.faults import Run, clean_impatiently
from tests.chaos.lake import LOCAL, Contents, Lake, contents, differing
from tests.chaos.lake_model import DIMS, vector_of
from tests.chaos.processes import kill

_NIGHT_S, _DELETE_S = 8.0, 1.0  # about how long a night takes, and `mlake delete`
_ROUNDED = 3e-3  # a number of a vector that was rotated in half precision
_READERS = 5  # that are kept open, one for each morning; what they have open lives for a week
_EVENTS = {"add": 3, "change": 4, "rename": 2, "withdraw": 2, "erase": 3, "spoil": 1, "mend": 3, "model": 2}
_EVENTS |= {"tune": 1}
KINDS = {"quiet": 5, "by_command": 2, "in_parts": 1, "killed": 5, "twice": 2, "beside_a_cleaner": 2, "suspended": 2}
_COMPLETE = {"quiet", "by_command", "twice", "suspended"}
"""Kinds of nights after which all work is done."""


def nights(run: Run) -> list[int]:
    """Live through five to nine nights of a lake; return their exit codes."""
    folder = run.log.parent / "lake"
    folder.mkdir()
    month = Month(run, Lake(folder, run.rng))
    for _ in range(run.rng.randint(4, 8)):
        month.day()
        month.night(run.rng.choices(list(KINDS), list(KINDS.values()))[0])
    month.end()
    return month.codes


class _Reader:
    """Somebody who has `prod` open since a morning, and what he got then."""

    def __init__(self, table: VectorTable) -> None:
        self._table, self._rows = table, contents(table)
        self._funnels = [Funnel.open(table, home=home) for home in Funnel.homes(table)]
        self._answers = self._ask()

    def check(self) -> None:
        assert contents(self._table) == self._rows, "a reader finds other rows than when he opened `prod`"
        assert self._ask() == self._answers, "a reader gets other answers than when he opened `prod`"

    def _ask(self) -> list[Any]:
        queries = [vector_of(text, 1, is_blind=False) for text in ("owl lantern", "river stone glass")]
        hits = [self._table.search(query, k=5, dim=dim) for query in queries for dim in DIMS]
        hits += [funnel.search(query, k=4) for funnel in self._funnels for query in queries]
        return [each.to_pylist() for each in hits]


@dataclass
class Month:
    """Days and nights of a lake.

    Attributes:
        run: The drivers, and the random numbers.
        lake: The lake.
        codes: Exit codes of the nights.
    """

    run: Run
    lake: Lake
    codes: list[int] = field(default_factory=list)
    _shown: Contents | None = None  # by `prod`
    _head: int = 0  # number of the last publication that was seen
    _lagging: set[str] = field(default_factory=set)  # their erasure was killed, and `prod` may show them still
    _readers: list[_Reader] = field(default_factory=list)

    @property
    def _rng(self) -> random.Random:
        return self.run.rng

    def day(self, *, changes_model: bool = True) -> None:
        """Let a day pass, in which up to three things happen."""
        self.lake.let_a_day_pass()
        self._live(changes_model=changes_model)

    def _live(self, *, changes_model: bool = True) -> None:
        own: dict[str, Callable[[], None]] = {"erase": self._erase, "model": self._change_model, "tune": self._tune}
        weights = _EVENTS | ({} if changes_model else {"model": 0})
        events = self._rng.choices(list(weights), list(weights.values()), k=self._rng.randint(0, 3))
        for event in filter(self.lake.is_possible, events):
            self._say(f"by day: {event}")
            own.get(event, getattr(self.lake, event, lambda: None))()

    def night(self, kind: str) -> None:
        """Live through a night, and compare `prod` in the morning."""
        self._say(f"night {len(self.codes) + 1}: {kind}, {self.lake.model}, spoilt: {sorted(self.lake.spoilt)}")
        codes = getattr(self, f"_{kind}")()
        self.codes += codes
        self._say(f"exit {codes}")
        is_complete = kind in _COMPLETE
        if is_complete:
            wanted = 0 if self.lake.is_good else 1
            assert wanted in codes, f"a night of the kind {kind} ends with {codes}, and {wanted} is expected"
        self._compare(is_complete=is_complete)

    def end(self) -> None:
        """Bring everything in order; the last night must publish it, the one after has nothing to do."""
        self.lake.let_a_day_pass()
        self.lake.mend()
        if self.lake.model.is_blind:
            self.lake.use(self.lake.better())
        self.night("quiet")
        if not self.lake.model.is_rotated:  # another rotation is fitted from scratch
            _check_equal(self._shown, self.lake.from_scratch(), "a table made from scratch")
        assert self.lake.night().state == "nothing", "a second night finds something to do"
        self.lake.let_a_day_pass()
        with self.run.shared.driver() as driver:
            code = driver.run(["clean", self.lake.table, "--older-than", "0"], self.run.log)
        assert code == 0, f"mlake clean ends with {code}"
        self._check_readers()
        for uri in self.lake.generations():
            left = unneeded_files(uri, LOCAL)["path"].to_pylist()
            assert not left, f"files of {uri} are left that no version needs: {left}"

    # What a person does by day.

    def _change_model(self) -> None:
        if self._shown is None:  # without any answers of yesterday, no audit knows a worse one
            return
        is_worse = not self.lake.model.is_blind and self._rng.random() < 0.5
        self.lake.use(self.lake.worse() if is_worse else self.lake.better())

    def _tune(self) -> None:
        if self._shown is None or len(self._shown) < 60:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FunnelWarning)  # among so few rows it saves no time
            Funnel.build(self._newest(), Goal(recall=0.5, k=5, queries=12))

    def _erase(self) -> None:
        if self._shown is None or self._lagging:
            return
        there = sorted(contents(self._newest()))
        ids = self._rng.sample(there, min(len(there), self._rng.randint(1, 3)))
        argv = ["delete", self.lake.table, "--where", f"id IN ({', '.join(map(repr, ids))})"]
        argv += ["--hide-prod"] * (not self.lake.model.is_blind and self._rng.random() < 0.3)
        with self.run.shared.driver() as driver, ThreadPoolExecutor(1) as pool:
            code = pool.submit(driver.run, argv, self.run.log)
            if self._rng.random() < 0.3:
                with contextlib.suppress(TimeoutError):
                    code.result(self._rng.uniform(0, _DELETE_S))
                if not code.done():
                    driver.send_signal(signal.SIGKILL)
            ended = code.result()
        self._say(f"{argv}: exit {ended}")
        assert ended in (0, 1, 2, -signal.SIGKILL), f"mlake delete ends with {ended}"
        is_known = erased_samples(VectorTable.open(self.lake.table)).find([0] * len(ids), ids, {})
        assert is_known.all() or not is_known.any(), f"of {ids}, some are remembered as erased: {is_known}"
        assert is_known.all() == (ended == 0) or ended < 0, f"mlake delete ends with {ended}; remembered: {is_known}"
        if ended < 0:
            self.lake.let_a_day_pass()  # until then it is taken for a run that is at work
        if is_known.all():
            self.lake.erased |= set(ids)
            self._lagging = set(ids)
        self._compare(is_complete=False)
        if ended == 0:
            assert self._shown is None or self._shown.keys().isdisjoint(ids), "`prod` shows what was erased"

    # Kinds of nights.

    def _quiet(self) -> list[int]:
        return [self._in_process()]

    def _in_parts(self) -> list[int]:
        return [self._in_process(budget={"rows": 60})]

    def _in_process(self, **blocks: Any) -> int:
        try:
            night = self.lake.night(**blocks)
        except LakeError as error:
            self._say(f"{type(error).__name__}: {error}")
            return 1
        self._say(f"{night.state}: {[gate.verdict for gate in night.audit if not gate.passed]}")
        return int(night.state == "refused")

    def _by_command(self) -> list[int]:
        with self.run.shared.driver() as driver:
            return [driver.run(self._command(), self.run.log)]

    def _killed(self) -> list[int]:
        with self.run.shared.driver() as driver, ThreadPoolExecutor(1) as pool:
            code = pool.submit(driver.run, self._command(), self.run.log)
            self._wait_for_a_moment(code)
            if not code.done():
                driver.send_signal(signal.SIGKILL)
            return [code.result()]

    def _twice(self) -> list[int]:
        with self.run.shared.driver() as first, self.run.shared.driver() as second, ThreadPoolExecutor(2) as pool:
            codes = [pool.submit(first.run, self._command(), self.run.log)]
            time.sleep(self._rng.choice((0.0, 0.1, 0.5, 2.0)))
            codes.append(pool.submit(second.run, self._command(), self.run.log))
            return [code.result() for code in codes]

    def _beside_a_cleaner(self) -> list[int]:
        clean = ["clean", self.lake.table, "--older-than", "0", "--compact"]
        with self.run.shared.driver() as driver, self.run.shared.driver() as cleaner, ThreadPoolExecutor(1) as pool:
            code = pool.submit(driver.run, self._command(), self.run.log)
            while not code.done():
                time.sleep(self._rng.uniform(0, 1))
                for uri in self.lake.generations():
                    clean_impatiently(uri, self._rng)
                if self._rng.random() < 0.5:
                    cleaner.run(clean, self.run.log)
            return [code.result()]

    def _suspended(self) -> list[int]:
        """Stop a night by SIGSTOP until the next one, which takes over, and let it go on at some moment of that."""
        with self.run.shared.driver() as first, self.run.shared.driver() as second, ThreadPoolExecutor(2) as pool:
            codes = [pool.submit(first.run, self._command(), self.run.log)]
            self._wait_for_a_moment(codes[0])
            kill(first.pid, signal.SIGSTOP)
            try:
                self._compare(is_complete=False)
                self.day()
                codes.append(pool.submit(second.run, self._command(), self.run.log))
                with contextlib.suppress(TimeoutError):
                    codes[1].result(self._rng.choice((0, self._rng.uniform(0, _NIGHT_S), None)))
            finally:
                kill(first.pid, signal.SIGCONT)
            return [code.result() for code in codes]

    def _command(self) -> list[str]:
        return ["nightly", str(self.lake.config()), "--log", "json"]

    def _wait_for_a_moment(self, code: Future[int]) -> None:
        """Wait for a random moment of the night's time, or of what it writes."""
        if self._rng.random() < 0.3:
            with contextlib.suppress(TimeoutError):
                code.result(self._rng.uniform(0, _NIGHT_S))
            return
        pattern = self._rng.choice(("t.*/_versions/*", "t.*/_versions/*", "t.lance/_publications/*"))
        files = len(list(self.lake.folder.glob(pattern))) + self._rng.randint(1, 8 if "versions" in pattern else 1)
        while not code.done() and len(list(self.lake.folder.glob(pattern))) < files:
            time.sleep(0.005)
        with contextlib.suppress(TimeoutError):
            code.result(self._rng.uniform(0, 0.3))

    # Mornings.

    def _compare(self, *, is_complete: bool) -> None:
        """Compare `prod` with what it must be: another than before only if a night has published since."""
        prod = self._open()
        found = None if prod is None else contents(prod)
        log = read_log(self.lake.table, LOCAL)
        is_published = any(record.action == "publish" and record.run for record in log[self._head :])
        self._head = len(log)
        if is_published:
            assert self.lake.is_good, f"a night has published {self.lake.model}, spoilt: {self.lake.spoilt}"
        if is_published or (is_complete and self.lake.is_good):
            rotation = None if prod is None else prod.rotation
            assert (rotation is not None) == self.lake.model.is_rotated, f"`prod` is not of {self.lake.model}"
            _check_equal(found, self.lake.truth(rotation), "the lake", _ROUNDED if self.lake.model.is_rotated else 0.0)
        elif log and log[-1].action == "hide":
            assert found is None, "`prod` is hidden, and shows something"
        elif found != _without(self._shown, self._lagging):
            _check_equal(found, self._shown, "yesterday's")
        self._shown = found
        self._lagging &= (found or {}).keys()
        if prod is not None and is_complete:
            tags, version = read_tags(prod.uri, LOCAL), prod.dataset.version
            assert tags.get(PROD) == version, f"the tag `prod` is at {tags.get(PROD)}, and `prod` at {version}"
        self._check_readers()
        self._readers = [*self._readers, *([] if prod is None else [_Reader(prod)])][-_READERS:]

    def _check_readers(self) -> None:
        for reader in self._readers:
            reader.check()

    def _open(self) -> VectorTable | None:
        try:
            table = VectorTable.open(self.lake.table, PROD)
        except TableNotFound:
            return None
        return table if table.publication is not None else None

    def _newest(self) -> VectorTable:
        """Open the newest version of the generation that is published."""
        prod = resolve_prod(self.lake.table, LOCAL)
        assert prod is not None
        return VectorTable.open(prod.uri)

    def _say(self, text: str) -> None:
        with self.run.log.open("a") as log:
            log.write(f"--- {text}\n")


def _without(rows: Contents | None, ids: set[str]) -> Contents | None:
    return rows and {key: row for key, row in rows.items() if key not in ids}


def _check_equal(found: Contents | None, wanted: Contents | None, of_what: str, tolerance: float = 0.0) -> None:
    found, wanted = found or {}, wanted or {}
    bad = differing(found, wanted, tolerance)
    lacking, other = sum(key not in found for key in bad), sum(key not in wanted for key in bad)
    assert not bad, (
        f"`prod` is not {of_what}: {lacking} of {len(wanted)} rows lack, {other} are too many, "
        f"{len(bad) - lacking - other} are different, such as {bad[:3]}"
    )
