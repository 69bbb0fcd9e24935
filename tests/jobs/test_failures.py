"""Every exception ends as one sentence and an exit code; one that nobody foresaw says so and keeps its traceback."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, NoCredentialsError
from ray.exceptions import ActorDiedError, RayTaskError

from jobs.failures import explain
from schemas.errors import (
    ClusterLost,
    ClusterUnreachable,
    ConfigError,
    LakeError,
    NoRoomForActors,
    RunError,
    ShardsFailed,
)


def test_what_ray_carries_over_counts_as_what_was_raised_there() -> None:
    carried = RayTaskError("run", "remote traceback", ConfigError("encoder.batch is too large")).as_instanceof_cause()
    assert isinstance(carried, LakeError)
    assert (explain(carried).text, explain(carried).code) == ("encoder.batch is too large", 2)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("x"), 2, "x"),
        (RunError("x"), 1, "x"),
        (ClusterUnreachable("x"), 3, "x"),
        (NoRoomForActors("x"), 4, "x"),
        (ClusterLost("x"), 5, "x"),
        (ShardsFailed({"a.tar": "broken"}, 3), 1, "1 of 3 shards failed"),
        (OSError("no space, /home/x/local.rs:1:2"), 1, "no space; fix the cause"),
        (ValueError("Invalid user input: no field x, /a/b.rs:1:2"), 2, "Invalid user input: no field x"),
        (ValueError("External error: Query Execution error: divide by zero"), 2, "the SQL cannot be evaluated"),
        (ClientError({"Error": {"Code": "503", "Message": "slow {down}"}}, "ListObjectsV2"), 1, "the store refuses"),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"), 2, "is not UTF-8"),
        (ValueError("LanceError(IO): Unable to walk dir"), 1, "Unable to walk dir"),
        (NoCredentialsError(), 2, "storage.profile"),
        (ActorDiedError(), 1, "the cluster failed"),
        (MemoryError(), 1, "memory is full"),
        (RuntimeError("Ray did not start in time"), 1, "Ray cannot be used"),
    ],
)
def test_what_libraries_are_known_to_raise_is_one_sentence(error: Exception, code: int, said: str) -> None:
    failure = explain(error)
    assert failure.code == code
    assert said in failure.text
    assert "\n" not in failure.text
    assert ".rs:" not in failure.text
    assert "internal" not in failure.text


def test_an_unforeseen_error_is_called_internal_and_its_traceback_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for error in ZeroDivisionError("a\nb"), RuntimeError("else"), ValueError("an array's ends"):
        failure = explain(error)
        assert failure.code == 1
        assert failure.text.startswith(f"internal: {type(error).__name__}: ")
        assert "\n" not in failure.text
        path = re.search(r"\S+\.log", failure.text)
        assert path is not None
        assert str(error) in Path(path[0]).read_text()
        assert Path(path[0]).stat().st_mode & 0o077 == 0
