"""A rotation is fitted on samples of many shards; only the death of the actor is worth another try."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pipelines.embedding.rotation_fitter import RotationFitter, fit_rotation
from pipelines.shards import list_shards
from pipelines.vectors.rotation import Rotation, fit_pca
from schemas.errors import InputError, RunError
from schemas.records import Shard
from schemas.work import Outcome, RetryPolicy
from tests.support.corpus import config_for, write_corpus, write_shard

Shards = tuple[Shard, ...]


def test_a_rotation_is_fitted_on_samples_of_all_shards(tmp_path: Path) -> None:
    write_corpus(tmp_path / "src", shards=4, rows=100)
    config = config_for(tmp_path / "src", tmp_path / "t.lance", rotation={"kind": "pca", "sample_rows": 200})
    fitter = RotationFitter(config, threads=1)
    rotation = fitter.run(list_shards(config.shards))
    assert fitter.progress()["rows"] >= 200
    matrix = rotation.matrix_DD
    assert matrix @ matrix.T == pytest.approx(np.eye(256), abs=1e-4)
    write_shard(tmp_path / "blank" / "a.jsonl", {"a-0": " "})
    with pytest.raises(InputError, match=r"no sample of .* can be embedded"):
        fitter.run(list_shards([f"{tmp_path}/blank/*"]))


class OneOutcome:
    """A pool whose only item ends as told."""

    actors = 1

    def __init__(self, **how: object) -> None:
        self._how = how

    def run(
        self, items: Iterable[Shards], retry: RetryPolicy[Shards] | None = None, tick_s: float = 0.25
    ) -> Iterator[Outcome[Shards, Rotation] | None]:
        assert retry is not None
        assert (retry.max_tries, retry.is_final(InputError())) == (3, True)
        yield None
        for item in items:
            yield Outcome(item, **self._how)  # type: ignore[arg-type]

    def drop_waiting(self) -> int:
        return 0

    def progress(self) -> dict[str, int]:
        return {}

    def up_at(self) -> float | None:
        return None


def test_the_rotation_or_its_error_comes_out_of_the_pool() -> None:
    rotation = fit_pca([np.eye(4, dtype=np.float32)])
    told: list[int] = []
    assert fit_rotation(OneOutcome(result=rotation), (), 3, told.append) is rotation
    assert told == [0]
    with pytest.raises(InputError, match="unreadable"):
        fit_rotation(OneOutcome(error=InputError("unreadable")), (), 3)
    with pytest.raises(RunError, match="died 3 times"):
        fit_rotation(OneOutcome(error=OSError(), died=True), (), 3)
