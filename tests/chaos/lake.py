"""The lake of the nights: shards that come, change and go, models that get better or worse, and days that pass.

Owns what lies in the lake's folder, and what a table of it must hold. Owns no night (`nights.py`).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import random
import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.embedding.column_plan import apply_columns
from pipelines.embedding.creation import create_table_for
from pipelines.embedding.embedder import Embedder
from pipelines.embedding.plan import make_plan
from pipelines.embedding.rotation_fitter import RotationFitter
from pipelines.embedding.run import EmbedRun
from pipelines.nightly.run import NightRun
from pipelines.shards import list_shards
from pipelines.tables.companion_commits import upsert
from pipelines.tables.generations import generations_of
from pipelines.tables.night_log import NightLock
from pipelines.tables.publication_log import generation_uri
from pipelines.tables.runs import RunRecord
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_numpy
from pipelines.vectors.matryoshka import unit
from pipelines.vectors.rotation import Rotation
from schemas.columns import prefix_column
from schemas.config import EmbedConfig, StorageConfig, load_config
from schemas.config.nightly import NightlyConfig
from schemas.journal import EmbedSummary
from schemas.nights import Night
from schemas.records import Lease, LeaseResult
from tests.chaos import lake_model
from tests.support.corpus import WORDS, settings, write_config
from tests.support.embedding import SilentDisplay
from tests.support.local_pool import LocalPool

LOCAL = StorageConfig()
Contents = dict[str, tuple[int, str, bytes]]  # id -> shard, kept column `n`, half-precision vector
_BAD_LINES = ('{"id": "bad-%d", "text": " ", "n": "0"}', '{"id": "bad-%d", "text": ')
_MOST_SHARDS, _FEWEST_SHARDS = 10, 4


@dataclass(frozen=True)
class Model:
    """A state of the model.

    Attributes:
        number: Of the state.
        is_blind: Whether it is worse: like texts have unlike vectors.
        is_rotated: Whether its vectors are rotated by a PCA.
    """

    number: int
    is_blind: bool = False
    is_rotated: bool = False


@dataclass
class Lake:
    """Shards and models in a folder, and the table that nights make of them.

    Attributes:
        folder: Where everything lies.
        rng: Decides what happens.
        shards: Texts by id, by the name of the file.
        spoilt: Lines that cannot be embedded, by the name of the file.
        model: What the config names now.
        models: All that there were.
        erased: Ids that `mlake delete` has erased.
        most_rejects: Share of rejects at which a run stops, before any audit.
    """

    folder: Path
    rng: random.Random
    shards: dict[str, dict[str, str]] = field(default_factory=dict)
    spoilt: dict[str, int] = field(default_factory=dict)
    model: Model = Model(1)
    models: list[Model] = field(default_factory=list)
    erased: set[str] = field(default_factory=set)
    most_rejects: float = 1.0
    _made: int = 0

    def __post_init__(self) -> None:
        """Write the first shards, and the first model."""
        self.most_rejects = self.rng.choice((0.05, 1.0))
        for _ in range(self.rng.randint(5, 8)):
            self.add()
        self.use(self.model)

    @property
    def table(self) -> str:
        """Address of the table."""
        return str(self.folder / "t.lance")

    @property
    def is_good(self) -> bool:
        """Whether a night may publish what is there now."""
        return not self.spoilt and not self.model.is_blind

    def generations(self) -> list[str]:
        """Return the addresses of the generations that are there."""
        if not Path(self.table, "_versions").exists():
            return []
        return [generation_uri(self.table, number) for number in generations_of(self.table, LOCAL)]

    def config(self, **blocks: Any) -> Path:
        """Write the config of a night; return its file."""
        raw = settings(self.folder / "src", self.table, **self._blocks | blocks)
        return write_config(self.folder / "night.toml", raw | {"withdraw": True, "prefixes": [lake_model.DIMS[0]]})

    @property
    def _blocks(self) -> dict[str, Any]:
        return {
            "encoder": {"name": "own", "path": str(self._folder_of(self.model)), "device": "cpu"},
            "rotation": {"kind": "pca" if self.model.is_rotated else "none"},
            # Rows may come and go, and few rows have many neighbours in common by chance; the rest is as by default.
            "audit": {"queries": 40, "max_row_loss": 0.6, "max_withdrawn": 0.9, "min_overlap_new_space": 0.4},
            "cluster": {"actors": 1, "cpus_per_actor": 0.5, "decode_threads": 1, "feeders": 0},
            "limits": {"lease_bytes": 2_000, "commit_age_s": 0.05, "max_reject_fraction": self.most_rejects},
        }

    # What a day brings.

    def add(self) -> None:
        """Write a new shard; some of its texts are in others."""
        self._made += 1
        name, known = f"s{self._made:02d}", [text for some in self.shards.values() for text in some.values()]
        texts = {}
        for number in range(self.rng.randint(15, 25)):
            is_known = known and self.rng.random() < 0.1
            texts[f"{name}-{number}"] = self.rng.choice(known) if is_known else self._text()
        self._write(name, texts)

    def change(self) -> None:
        """Give some samples of a shard another text, and remove and add some."""
        name = self._any()
        texts = {key: self._text() if self.rng.random() < 0.2 else text for key, text in self.shards[name].items()}
        for key in self.rng.sample(sorted(texts), 2):
            del texts[key]
        self._made += 1
        texts |= {f"x{self._made}-{number}": self._text() for number in range(self.rng.randint(0, 4))}
        self._write(name, texts)

    def rename(self) -> None:
        """Give a shard another name."""
        name = self._any()
        self._made += 1
        self.shards[new := f"s{self._made:02d}"] = self.shards.pop(name)
        if name in self.spoilt:
            self.spoilt[new] = self.spoilt.pop(name)
        self._file(name).rename(self._file(new))

    def withdraw(self) -> None:
        """Remove a shard."""
        name = self._any()
        self._file(name).unlink()
        del self.shards[name]
        self.spoilt.pop(name, None)

    def spoil(self) -> None:
        """Put lines into a shard that cannot be embedded: so many that the audit, or the run, refuses them."""
        name = self._any()
        self.spoilt[name] = self.rng.choice((8, 30))
        self._write(name, self.shards[name])

    def mend(self) -> None:
        """Take all such lines out again."""
        for name in sorted(self.spoilt):
            del self.spoilt[name]
            self._write(name, self.shards[name])

    def use(self, model: Model) -> None:
        """Name a model in the config; its folder is made if it is not there."""
        self.model, folder = model, self._folder_of(model)
        if model in self.models:
            return
        self.models.append(model)
        folder.mkdir(exist_ok=True)
        shutil.copy(lake_model.__file__, folder / "model.py")
        said = {"class": "model:Words", "revision": str(model.number), "dims": lake_model.DIMS, "modality": "text"}
        (folder / "encoder.json").write_text(json.dumps(said))
        (folder / "model.json").write_text(json.dumps({"number": model.number, "is_blind": model.is_blind}))

    def worse(self) -> Model:
        """Return a new model that is blind."""
        return Model(len(self.models) + 1, is_blind=True)

    def better(self) -> Model:
        """Return a model that is not: a new one, one that was used before, or one that turns its vectors otherwise."""
        older = [model for model in self.models if not model.is_blind and model != self.model]
        turned = [] if self.model.is_blind else [replace(self.model, is_rotated=not self.model.is_rotated)]
        return self.rng.choice([Model(len(self.models) + 1), *older, *turned])

    def is_possible(self, event: str) -> bool:
        """Tell whether something can happen now."""
        return {
            "add": len(self.shards) < _MOST_SHARDS,
            "withdraw": len(self.shards) > _FEWEST_SHARDS,
            "mend": bool(self.spoilt),
        }.get(event, True)

    def _any(self) -> str:
        return self.rng.choice(sorted(self.shards))

    def _text(self) -> str:
        return " ".join(self.rng.choices(WORDS, k=self.rng.randint(4, 12)))

    def _file(self, name: str) -> Path:
        return self.folder / "src" / f"{name}.jsonl"

    def _folder_of(self, model: Model) -> Path:
        return self.folder / f"model-{model.number}"

    def _write(self, name: str, texts: dict[str, str]) -> None:
        self.shards[name] = texts
        lines = [json.dumps({"id": key, "text": text, "n": key.rpartition("-")[2]}) for key, text in texts.items()]
        lines += [self.rng.choice(_BAD_LINES) % number for number in range(self.spoilt.get(name, 0))]
        self._file(name).parent.mkdir(parents=True, exist_ok=True)
        self._file(name).write_text("".join(f"{line}\n" for line in lines))

    # What a table of it must hold.

    def truth(self, rotation: Rotation | None = None) -> Contents:
        """Return the rows of a table of the present shards, made without any of the engine but a rotation it fitted."""
        shards = {Path(shard.uri).stem: shard.id for shard in list_shards([f"{self.folder}/src/*.jsonl"])}
        rows = {}
        for name, texts in self.shards.items():
            for key, text in texts.items():
                x_D = lake_model.vector_of(text, self.model.number, is_blind=self.model.is_blind)
                x_1D = unit(x_D[None]).astype(np.float32)
                vector_D = (x_1D if rotation is None else rotation.apply(x_1D))[0].astype(np.float16)
                rows[key] = (shards[name], key.rpartition("-")[2], vector_D.tobytes())
        return {key: row for key, row in rows.items() if key not in self.erased}

    def from_scratch(self) -> Contents:
        """Return the rows of a table that is made of the present shards at once, without those that were erased."""
        uri = self.folder / f"fresh-{time.monotonic_ns()}.lance"
        embed_in_process(self.load_config().embed_config(str(uri)))
        rows = contents(VectorTable.open(str(uri)))
        for folder in self.folder.glob(f"{uri.stem}.*"):
            shutil.rmtree(folder)
        return {key: row for key, row in rows.items() if key not in self.erased}

    def load_config(self, **blocks: Any) -> NightlyConfig:
        """Return the config of a night."""
        return load_config(NightlyConfig, self.config(**blocks))

    def night(self, **blocks: Any) -> Night:
        """Live through a night in this process, without Ray.

        Raises:
            LakeError: As `mlake nightly`.
        """
        config = self.load_config(**blocks)
        lock = NightLock(config.table, config.storage)
        with lock:
            NightRun(config, lock, embed_in_process, lambda said: None).run()
        return lock.night

    def let_a_day_pass(self) -> None:
        """Make everything a day older: files, and the times that journals, nights and publications hold."""
        day = dt.timedelta(days=1)
        for journal in self.folder.glob("t.*runs.lance"):
            rows = lance.dataset(str(journal)).to_table()
            for name in ("started_at", "seen_at"):
                place = rows.schema.get_field_index(name)
                rows = rows.set_column(place, rows.schema.field(name), pc.subtract(rows[name], pa.scalar(day)))
            upsert(str(journal), ["run"], rows, LOCAL)
        for record in Path(self.table).glob("_[np]*/*.json"):
            said = json.loads(record.read_text())
            for name in said.keys() & {"at", "started_at", "ended_at"}:
                said[name] = said[name] and (dt.datetime.fromisoformat(said[name]) - day).isoformat()
            record.write_text(json.dumps(said))
        for file in self.folder.glob("t.*/**/*"):
            with contextlib.suppress(FileNotFoundError):
                then = file.stat().st_mtime - day.total_seconds()
                os.utime(file, (then, then))


def embed_in_process(config: EmbedConfig) -> EmbedSummary:
    """Do what `mlake embed` does, without Ray."""
    plan = make_plan(config)
    if not plan.todo:
        return EmbedSummary(shards_done=len(plan.shards))
    if plan.table is None:
        table = create_table_for(config, plan, lambda shards, tell: RotationFitter(config, 1).run(shards), str)
    else:
        table = apply_columns(plan.table, plan.columns)
    with RunRecord(table, "embed", config) as record:
        run = EmbedRun(config, plan, table, record, SilentDisplay())
        run.run(LocalPool[Lease, LeaseResult](Embedder(config, 1)), lambda: False, time.time())
    return run.summary


def contents(table: VectorTable) -> Contents:
    """Return the rows of a handle's version.

    Raises:
        AssertionError: A sample is there twice, or a prefix is not that of its vector.
    """
    rows, dims = table.dataset.to_table(), lake_model.DIMS
    assert len(set(rows["id"].to_pylist())) == rows.num_rows, "a sample is there twice"
    vectors_ND = to_numpy(rows["vector"])
    if prefix_column(dims[0]) in rows.column_names:
        cut_ND = unit(vectors_ND[:, : dims[0]].astype(np.float32))
        stored_ND = to_numpy(rows[prefix_column(dims[0])])
        assert np.allclose(stored_ND, cut_ND, atol=1e-3), "a prefix is not that of its vector"
    named = zip(*(rows[name].to_pylist() for name in ("id", "shard", "n")), vectors_ND, strict=True)
    return {key: (shard, n, vector_D.tobytes()) for key, shard, n, vector_D in named}


def differing(found: Contents, wanted: Contents, tolerance: float = 0.0) -> list[str]:
    """Return the ids of rows that lack, are too many, or differ by more than a tolerance in any number of theirs."""

    def is_other(key: str) -> bool:
        if key not in found or key not in wanted:
            return True
        one_D, other_D = (np.frombuffer(row[2], np.float16).astype(np.float64) for row in (found[key], wanted[key]))
        return found[key][:2] != wanted[key][:2] or bool(np.abs(one_D - other_D).max() > tolerance)

    return sorted(filter(is_other, found.keys() | wanted.keys()))
