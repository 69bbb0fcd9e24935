"""Addresses of tables, companions and objects."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.storage.addresses import absolute, sibling, split_s3


def test_local_addresses_become_absolute_and_others_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("lake/t.lance") == str(tmp_path / "lake/t.lance")
    assert absolute("~/t.lance") == str(Path.home() / "t.lance")
    assert absolute("s3://bucket/t.lance") == "s3://bucket/t.lance"


@pytest.mark.parametrize("uri", ["x/laion.lance", "x/laion.lance/", "x/laion"])
def test_a_companion_lies_beside_its_table(uri: str) -> None:
    assert sibling(uri, "rejects") == "x/laion.rejects.lance"


@pytest.mark.parametrize("key", ["", "a", "a/b/", "a//b"])
def test_an_s3_address_splits_into_bucket_and_key(key: str) -> None:
    assert split_s3(f"s3://bucket/{key}") == ("bucket", key)
