"""A class of the user's own: embedded, searched, and refused where it breaks what it promised."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from jobs.embed import run as embed
from pipelines.encoders import load_encoder, load_preparer, make_space
from pipelines.tables.table import VectorTable
from schemas.config import EmbedConfig, EncoderConfig, LimitsConfig, TrustConfig
from schemas.errors import ConfigError, EncoderError, EncoderNotTrusted, SpaceMismatch
from tests.support.own_folders import CODE, NEIGHBOUR, write_own


def test_a_class_of_ones_own_makes_a_table_that_words_search(without_ray: None, tmp_path: Path) -> None:
    config = write_own(tmp_path / "mine")
    (tmp_path / "texts.jsonl").write_text(
        "".join(json.dumps({"id": text, "text": text}) + "\n" for text in ("aaaa", "bbbb", "ccdd", "ünï €𝄞 h", " "))
    )
    table = str(tmp_path / "t.lance")
    settings = {"shards": [str(tmp_path / "texts.jsonl")], "table": table, "input": {"id": "id", "text": "text"}}
    done = embed(EmbedConfig.model_validate(settings | {"encoder": config.model_dump()}), log="json")
    assert (done.rows, done.rejects) == (4, 1)
    with pytest.raises(EncoderNotTrusted, match="--encoder-path"):
        VectorTable.open(table).search("bb")
    opened = VectorTable.open(table, trust=TrustConfig(encoder_path=config.path))
    assert opened.search("bbbbbb", k=1, dim=4)["id"].to_pylist() == ["bbbb"]
    stored = np.array([2, 1, 1, 1, 1, 1, 1, 2])[[1, 0, *range(2, 8)]] - np.array([0, 1, *[0] * 6])
    expected = stored / np.linalg.norm(stored)
    row = opened.dataset.to_table(columns=["vector"], filter="id = 'ünï €𝄞 h'")["vector"][0].as_py()
    np.testing.assert_allclose(row, expected, atol=1e-3)
    (tmp_path / "mine" / "counting.py").write_text(NEIGHBOUR + "# changed\n")
    with pytest.raises(SpaceMismatch, match="are not those that made this space"):
        opened.search("bb")


@pytest.mark.parametrize(
    ("code", "facts", "said"),
    [
        (CODE, {"dims": [4, 16]}, r"shape \(2, 8\) for 2 inputs; its description says 16 dims"),
        ("class Other: pass", {}, "has no class 'Letters'"),
        ("import nothing_like_this", {}, "cannot be imported: ModuleNotFoundError"),
        ("class Letters:\n    pass", {}, "cannot be made: TypeError"),
        (CODE, {"class": "nowhere:Letters"}, "there is no .*nowhere.py"),
    ],
)
def test_a_class_that_breaks_its_promise_is_refused(
    tmp_path: Path, code: str, facts: dict[str, object], said: str
) -> None:
    config = write_own(tmp_path / f"m{abs(hash(said))}", code, **facts)
    with pytest.raises(EncoderError, match=said):
        load_encoder(config).encode(load_preparer(config, LimitsConfig()).prepare(["a", "b"]))  # type: ignore[arg-type]


def test_a_description_that_is_wrong_is_refused_with_an_example(tmp_path: Path) -> None:
    for facts in ({"dims": []}, {"dims": [0, 8]}, {"class": "os.system"}, {"unknown": 1}):
        with pytest.raises(ConfigError, match=r"needs a file encoder\.json, such as"):
            make_space(write_own(tmp_path / "m", **facts))
    with pytest.raises(ConfigError, match=r"set encoder\.path"):
        make_space(EncoderConfig(name="own"))


def encoded(config: EncoderConfig, *texts: str) -> np.ndarray:
    return load_encoder(config).encode(load_preparer(config, LimitsConfig()).prepare(texts))  # type: ignore[arg-type]


def test_two_folders_keep_their_modules_apart_and_changed_files_are_read_anew(tmp_path: Path) -> None:
    first, second = write_own(tmp_path / "a"), write_own(tmp_path / "b")
    other = NEIGHBOUR.replace("abcdefgh", "stuvwxyz")
    (tmp_path / "b" / "counting.py").write_text(other)
    one, two = load_encoder(first), load_encoder(second)
    prepared = load_preparer(first, LimitsConfig()).prepare(["aaaa"])
    for _ in range(2):
        assert one.encode(prepared)[0].argmax() == 0  # type: ignore[arg-type]
        assert two.encode(prepared)[0].std() == 0  # type: ignore[arg-type]
    (tmp_path / "a" / "counting.py").write_text(other)
    assert encoded(first, "aaaa")[0].std() == 0
    assert "counting" not in sys.modules


def test_all_files_beside_the_class_are_part_of_its_space(tmp_path: Path) -> None:
    config = write_own(tmp_path / "a")
    fingerprints = {make_space(config).fingerprint}
    for name in ("weights.npy", "vocabulary.yaml", "deep/model.gguf"):
        (tmp_path / "a" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "a" / name).write_bytes(b"1")
        fingerprints.add(make_space(config).fingerprint)
    encoded(config, "a")  # makes __pycache__, which is none of them
    fingerprints.add(make_space(config).fingerprint)
    assert len(fingerprints) == 4


def test_a_class_may_be_a_dataclass_and_import_its_neighbour_late(tmp_path: Path) -> None:
    code = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Letters:
    device: str
    scale: float = 2.0

    def encode(self, inputs: list[str], side: str):
        from counting import letters
        return [[self.scale * n for n in letters(text)] for text in inputs]
"""
    assert encoded(write_own(tmp_path / "a", code), "aaaa", "b").shape == (2, 8)


def test_other_threads_may_import_while_a_class_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_own(tmp_path / "a")
    encoder = load_encoder(config)
    prepared = load_preparer(config, LimitsConfig()).prepare(["aaaa"])
    monkeypatch.setitem(sys.modules, "forbidden_here", None)  # type: ignore[arg-type]
    is_over = threading.Event()

    def import_again_and_again() -> None:
        while not is_over.is_set():
            for number in range(100):
                sys.modules[f"made_up_{number}"] = ModuleType(f"made_up_{number}")
            for number in range(100):
                del sys.modules[f"made_up_{number}"]

    importing = threading.Thread(target=import_again_and_again)
    importing.start()
    try:
        for _ in range(50):
            assert encoder.encode(prepared)[0].argmax() == 0  # type: ignore[arg-type]
    finally:
        is_over.set()
        importing.join()
