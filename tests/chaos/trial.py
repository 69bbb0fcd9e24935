"""One trial: a small corpus, perhaps with an older table; one fault; runs until complete; every row compared."""

from __future__ import annotations

import contextlib
import random
import shutil
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lance
import numpy as np

from pipelines.embedding.embedder import Embedder
from pipelines.encoders import make_space
from pipelines.shards import list_shards, shard_schema
from pipelines.storage.addresses import sibling
from pipelines.storage.s3 import lance_options
from pipelines.tables.create import create_table
from pipelines.tables.ledger import commit_leases, done_shards, records_of, rejects_of
from pipelines.tables.table import VectorTable
from pipelines.vectors.rotation import Rotation
from schemas.config import EmbedConfig, StorageConfig
from schemas.records import Lease
from tests.chaos.faults import Run
from tests.chaos.shared_cluster import SharedCluster, put
from tests.chaos.shares import ALLOWED, FAULTS, OWN_LAKE
from tests.support.corpus import Corpus, Row, contents, differing, lines, settings, texts, truth, write_config
from tests.support.fault_proxy import FaultProxy, Faults
from tests.support.s3 import REGION

_MOST_RUNS = 8
_BUCKET = "chaos"


@dataclass(frozen=True)
class TrialResult:
    """Outcome of a trial.

    Attributes:
        seed: Of the trial; the same seed plans the same trial, though not the same timing.
        fault: What went wrong in it.
        codes: Exit codes of the disturbed runs, then of those that completed the job.
        rows: Rows in the end.
        wrong: What is not as it should be; empty if all is.
        seconds: It took so long.
    """

    seed: int
    fault: str
    codes: tuple[int, ...]
    rows: int
    wrong: str
    seconds: float

    def __str__(self) -> str:
        codes = " ".join(map(str, self.codes))
        outcome = f"WRONG: {self.wrong}" if self.wrong else "exact"
        return (
            f"seed {self.seed:>6}  {self.fault:<18} {self.seconds:5.1f} s  {self.rows:>3} rows  exit {codes}  {outcome}"
        )


@dataclass
class _Trial:
    shared: SharedCluster
    fault: str
    rng: random.Random
    folder: Path
    prefix: str
    corpus: Corpus = field(default_factory=dict)
    log: Path = Path()
    has_older: bool = False

    @property
    def is_on_s3(self) -> bool:
        return self.fault == "bad_network"

    @property
    def table(self) -> str:
        return f"{self.prefix}/t.lance"

    @property
    def storage(self) -> StorageConfig:
        return self.shared.server.storage if self.is_on_s3 else StorageConfig()

    def write(self, name: str, samples: dict[str, str]) -> None:
        uri = f"{self.prefix}/src/{name}.jsonl"
        self.corpus[uri] = samples
        data = lines(samples).encode()
        if self.is_on_s3:
            put(self.shared.server, _BUCKET, {uri.removeprefix(f"s3://{_BUCKET}/"): data})
        else:
            Path(uri).parent.mkdir(parents=True, exist_ok=True)
            Path(uri).write_bytes(data)

    def write_corpus(self) -> None:
        """Write the shards; in a third of the trials the table already holds older contents of some."""
        names = [f"s{number:02d}" for number in range(self.rng.randint(8, 20))]
        if self.rng.random() < 1 / 3:
            for name in names[: self.rng.randint(2, len(names))]:
                self.write(name, texts(name, self.rng.randint(3, 25), seed=1))
            self.has_older = True
            self._embed_here()
            for uri in self.rng.sample(sorted(self.corpus), len(self.corpus) // 2):
                del self.corpus[uri]
        for name in names:
            if f"{self.prefix}/src/{name}.jsonl" not in self.corpus:
                self.write(name, texts(name, self.rng.randint(3, 25), seed=2))

    def _embed_here(self) -> None:
        """Create the older table, without Ray."""
        config = EmbedConfig.model_validate(self.config(self.storage))
        shards = list_shards(config.shards, storage=self.storage)
        kept = shard_schema(shards[0], config.input, self.storage)
        table = create_table(self.table, make_space(config.encoder), kept, self.storage)
        commit_leases(table, [Embedder(config, 1).run(Lease((shard,))) for shard in shards], "past")

    def config(self, storage: StorageConfig) -> dict[str, Any]:
        rng = random.Random(self.rng.random())
        cluster = {
            "actors": rng.choice((1, 2)),
            "cpus_per_actor": 0.5,
            "decode_threads": 1,
            "leases_per_actor": rng.choice((1, 2, 3)),
            "feeders": int(rng.random() < 0.1),
        }
        limits = {
            "lease_bytes": rng.choice((1, 1, 5_000)),
            "commit_age_s": rng.choice((0.0, 0.05, 0.5)),
            "commit_shards": rng.choice((1, 4, 256)),
            "max_tries": 20,
        }
        at = {name: value for name, value in storage.model_dump().items() if value}
        return settings(f"{self.prefix}/src", self.table, cluster=cluster, limits=limits, storage=at)

    def committed_share(self) -> float:
        """Return the share of shards that are in the table, or 0 while there is none."""
        try:
            rows = lance.dataset(self.table, storage_options=lance_options(self.storage)).to_table(columns=["shard"])
        except (ValueError, OSError):
            return 0.0
        return len(set(rows["shard"].to_pylist())) / len(self.corpus)

    def rewrite(self) -> None:
        """Give a random shard another content."""
        uri = self.rng.choice(sorted(self.corpus))
        self.write(Path(uri).stem, texts(Path(uri).stem, self.rng.randint(3, 25), seed=self.rng.randint(3, 99)))

    def lose(self) -> None:
        """Delete a random companion; the records only if no older content is there, which they alone tell from new."""
        lost = self.rng.choice(("rejects", "runs") if self.has_older else ("shards", "rejects", "runs"))
        shutil.rmtree(sibling(self.table, lost), ignore_errors=True)

    def run(self) -> tuple[list[int], str]:
        with self._network() as storage:
            config = write_config(self.folder / "config.toml", self.config(storage))
            run = Run(
                self.shared,
                ["embed", str(config), "--log", "json"],
                self.log,
                self.rng,
                self.committed_share,
                self.table,
                self.rewrite,
                self.lose,
            )
            codes = FAULTS[self.fault](run)
            while self.fault not in OWN_LAKE and (codes[-1] != 0 or self.fault != "undisturbed"):
                if len(codes) > _MOST_RUNS:
                    return codes, f"not complete after {len(codes)} runs"
                with self.shared.driver() as driver:
                    codes.append(driver.run(run.argv, self.log))
                if codes[-1] == 0:
                    break
        if unexpected := set(codes) - set(ALLOWED[self.fault]):
            return codes, f"a run ended with code {unexpected.pop()}"
        if "Traceback (most recent call last)" in self.log.read_text(errors="replace"):
            return codes, "a run ended with a traceback instead of an error"
        return codes, "" if self.fault in OWN_LAKE else self._wrong()

    @contextlib.contextmanager
    def _network(self) -> Iterator[StorageConfig]:
        if not self.is_on_s3:
            yield self.storage
            return
        bad = Faults(
            rate=self.rng.choice((0.03, 0.1, 0.2)),
            seed=self.rng.randrange(1 << 30),
            stall_s=1.0,
            slow_bytes_per_s=50_000,
        )
        with FaultProxy(self.shared.server.endpoint, bad) as proxy:
            yield StorageConfig(endpoint=proxy.endpoint, region=REGION)

    def _wrong(self) -> str:
        """Compare the table with the source, row for row; return what differs."""
        options = lance_options(self.storage)
        try:
            found = contents(self.table, options)
        except AssertionError as error:
            return str(error)
        table = VectorTable.open(self.table, storage=self.storage)
        wanted = truth(self.corpus)
        if (rotation := table.rotation) is not None:
            wanted = {key: _rotated(row, found.get(key, row), rotation) for key, row in wanted.items()}
        if bad := differing(found, wanted):
            return f"{len(bad)} rows differ, such as {bad[0]}"
        listed = {shard.id for shard in list_shards([f"{self.prefix}/src/*.jsonl"], storage=self.storage)}
        if not listed <= done_shards(table):
            return f"{len(listed - done_shards(table))} shards are not in the ledger"
        recorded = set(records_of(table)["shard"].to_pylist())
        if lacking := listed - recorded:
            return f"{len(lacking)} shards are not recorded"
        rejects = rejects_of(table).num_rows
        return f"{rejects} rejects" if rejects else ""


def _rotated(row: Row, found: Row, rotation: Rotation) -> Row:
    """Return a row as it is after a rotation: with the vector that was found, if that is right up to rounding."""
    was_D, is_D = (np.frombuffer(each[2], np.float16).astype(np.float32) for each in (row, found))
    is_right = np.allclose(rotation.apply(was_D), is_D, atol=2e-3)
    return (*row[:2], found[2] if is_right else b"another vector")


def run_trial(shared: SharedCluster, seed: int, fault: str) -> TrialResult:
    """Run one trial."""
    began = time.monotonic()
    folder = shared.folder / f"trial-{seed}"
    folder.mkdir()
    prefix = f"s3://{_BUCKET}/trial-{seed}" if fault == "bad_network" else str(folder)
    trial = _Trial(shared, fault, random.Random(seed), folder, prefix, log=folder / "log.txt")
    codes: list[int] = []
    rows = 0
    try:
        if fault not in OWN_LAKE:
            trial.write_corpus()
        codes, wrong = trial.run()
        rows = sum(map(len, trial.corpus.values()))
    except Exception as error:  # a trial that breaks is a finding, and the others go on
        where = traceback.extract_tb(error.__traceback__)[-1]
        wrong = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
    return TrialResult(seed, fault, tuple(codes), rows, wrong, time.monotonic() - began)
