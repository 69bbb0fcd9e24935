"""Addresses of tables, companions and objects."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.storage.addresses import absolute, companion_stem, real, sibling, split_s3


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


def test_all_addresses_of_a_local_file_have_one_form(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "d" / "e")
    a = str(tmp_path / "d" / "a")
    spellings = [
        "d/a",
        "./d//a",
        "d/e/../a",
        "link/../a",
        f"file://{a}",
        f"FILE://localhost{a}",
        f"file:{a}",
        f"{tmp_path}/d/./a/",
    ]
    assert {absolute(spelling) for spelling in spellings} == {a}
    assert (absolute("link/x"), real("link/x")) == (str(tmp_path / "link/x"), str(tmp_path / "d/e/x"))
    assert real("link#3") == f"{tmp_path}/d/e#3"
    for remote in ("s3://b/x/../a//c#1", "hf://d/%20"):
        assert absolute(remote) == real(remote) == remote


def test_a_companion_names_its_table() -> None:
    for suffix in ("shards", "rejects", "runs", "shortlist", "shortlist.parts", "parts", "rotation-09af"):
        assert companion_stem(sibling("x/laion.lance", suffix)) == "x/laion"
    assert companion_stem("x/laion.lance") is companion_stem("x/laion.more.lance") is None
