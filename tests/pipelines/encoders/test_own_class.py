"""A class that a config names: workers get a copy, a search needs its name from this user, wrong ones are refused."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jobs.__main__ import main
from pipelines.encoders import encoder_spec, load_encoder, load_preparer, make_space, modules_to_send
from pipelines.encoders.own_class import offered, sources
from pipelines.tables.table import VectorTable
from schemas.config import EncoderConfig, LimitsConfig, TrustConfig
from schemas.errors import ConfigError, EncoderError, EncoderNotFound, EncoderNotTrusted, SpaceMismatch

CODE = """
from pathlib import Path
import numpy as np
from .counting import letters

class Letters:
    dims = (4, 8)
    revision = "1"

    def __init__(self, device, path=None):
        self.scale = 1.0 if path is None else float(Path(path).read_text())

    def encode(self, inputs, side):
        with Path(LOG).open("a") as log:
            print(__file__, file=log)
        return np.array([letters(text) for text in inputs]) * 1.0
"""
COUNTING = "def letters(text):\n    return [1 + text.lower().count(letter) for letter in 'abcdefgh']\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder of the user, which is the current one; its modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.partition(".")[0].startswith("mine"):
            del sys.modules[name]


def write(home: Path, package: str = "mine", code: str = CODE) -> EncoderConfig:
    folder = home / package / "deep"
    folder.mkdir(parents=True)
    (home / package / "__init__.py").write_text("")
    (folder / "__init__.py").write_text("")
    (folder / "model.py").write_text(code.replace("LOG", repr(str(home / "log"))))
    (folder / "counting.py").write_text(COUNTING)
    (home / package / "unrelated.py").write_text("")
    return EncoderConfig(class_=f"{package}.deep.model:Letters", device="cpu")


def encoded(config: EncoderConfig, *texts: str) -> np.ndarray:
    return load_encoder(config).encode(load_preparer(config, LimitsConfig()).prepare(texts))  # type: ignore[arg-type]


def test_a_class_is_sent_to_the_workers_and_answers_only_who_names_it(
    local_ray: None, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = write(home).class_
    (home / "texts.jsonl").write_text(
        "".join(json.dumps({"id": text, "text": text}) + "\n" for text in ("aaaa", "bbbb", "ccdd", " "))
    )
    toml = f'shards = "texts.jsonl"\ntable = "t.lance"\n[input]\nid = "id"\ntext = "text"\n[encoder]\nclass = "{named}"'
    (home / "mine.toml").write_text(toml)
    assert main(["embed", "mine.toml"]) == 0
    used = set((home / "log").read_text().split())
    assert used
    assert not any(Path(file).is_relative_to(home) for file in used)  # the copy that Ray made
    assert main(["embed", "mine.toml"]) == 0
    capsys.readouterr()
    assert main(["search", "t.lance", "bbbbbb"]) == 2
    assert f"made by the class {named}" in capsys.readouterr().err
    assert main(["search", "t.lance", "bbbbbb", "--k", "1", "--encoder-class", str(named)]) == 0
    assert "bbbb" in capsys.readouterr().out
    with pytest.raises(EncoderNotTrusted, match="--encoder-class"):
        VectorTable.open("t.lance").search("bb")
    table = VectorTable.open("t.lance", trust=TrustConfig(encoder_class=named))
    assert table.search("bbbbbb", k=1, dim=4)["id"].to_pylist() == ["bbbb"]
    assert table.space.class_name == named
    other = write(home, "mine_too").class_
    with pytest.raises(SpaceMismatch, match=r"the class mine_too\S+ .*not those that made this space"):
        VectorTable.open("t.lance", trust=TrustConfig(encoder_class=other)).search("bb")
    (home / "mine" / "deep" / "counting.py").write_text(COUNTING + "# changed\n")
    with pytest.raises(EncoderError, match="has changed since this process imported it"):
        table.search("bb")


def test_the_space_covers_what_its_module_imports_of_its_package_and_its_weights(home: Path) -> None:
    write(home)
    names = [str(file.relative_to(home)) for file in sources("mine.deep.model", home / "mine/deep/model.py")]
    assert names == ["mine/__init__.py", "mine/deep/__init__.py", "mine/deep/counting.py", "mine/deep/model.py"]
    (home / "w.bin2").write_text("2")
    config = EncoderConfig(class_="mine.deep.model:Letters", device="cpu")
    weighted = config.model_copy(update={"path": "w.bin2"})
    spaces = [make_space(config), make_space(weighted)]
    assert encoded(weighted, "a").shape == (1, 8)
    (home / "w.bin2").write_text("33")
    spaces.append(make_space(weighted))
    assert len({space.fingerprint for space in spaces}) == 3
    renamed = spaces[0].model_copy(update={"class_name": "other:Name"})
    assert renamed.fingerprint == spaces[0].fingerprint  # a note: `weights` covers the code
    assert modules_to_send(config) == (str(home / "mine"),)


@pytest.mark.parametrize(
    ("code", "name", "said"),
    [
        (CODE.replace("    dims = (4, 8)\n", ""), None, "dims: Field required; write in the class"),
        (CODE.replace("(4, 8)", "(0,)"), None, "dims.0: .*greater than or equal to 1"),
        (CODE.replace("(4, 8)", "(4, 16)"), None, r"shape \(1, 8\) for 1 inputs; its description says 16 dims"),
        ("import nothing_like_this", None, "cannot be imported: ModuleNotFoundError: .*nothing_like_this"),
        (CODE, "{0}.deep.model:Other", "has no class 'Other'"),
        (CODE, "{0}.deep.model:letters", "has no class 'letters'"),
        (CODE, "{0}.nowhere:Letters", "nowhere cannot be imported"),
        (
            CODE.replace("def __init__(self, device, path=None)", "def __init__(self)"),
            None,
            "cannot be made: TypeError",
        ),
    ],
)
def test_a_class_that_breaks_its_promise_is_refused(home: Path, code: str, name: str | None, said: str) -> None:
    package = f"mine_{abs(hash(said))}"
    config = write(home, package, code)
    if name is not None:
        config = config.model_copy(update={"class_": name.format(package)})
    with pytest.raises((EncoderError, ConfigError), match=said):
        encoded(config, "a")


def test_a_name_beside_a_class_and_what_is_no_class_are_refused(home: Path) -> None:
    for wrong in ("os.system", "a b:C", "../x:C", "m:f()", ":C", "m:"):
        with pytest.raises(ConfigError, match="write module:Class"):
            EncoderConfig(class_=wrong)
    config = EncoderConfig(name="wordllama", class_="mine.deep.model:Letters")
    with pytest.raises(ConfigError, match="leave one of them out"):
        make_space(config)


def test_an_installed_package_offers_an_encoder_by_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, "mine_offered")
    (home / "birds-2.0.dist-info").mkdir()
    (home / "birds-2.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: birds\nVersion: 2.0\n")
    (home / "birds-2.0.dist-info" / "entry_points.txt").write_text(
        "[matryoshka_lake.encoders]\n"
        + "".join(f"{name} = mine_offered.deep.model:Letters\n" for name in ("birds", "wordllama"))
    )
    with pytest.raises(EncoderNotFound):
        encoder_spec("birds")
    monkeypatch.syspath_prepend(home)
    importlib.invalidate_caches()
    offered.cache_clear()
    try:
        config = EncoderConfig(name="birds", device="cpu")
        assert encoded(config, "aaaa")[0].argmax() == 0
        space = make_space(config)
        assert (space.encoder, space.revision, space.class_name) == ("birds", "1", "mine_offered.deep.model:Letters")
        assert encoder_spec("wordllama").family == "wordllama"  # a package cannot take a registered name
        with pytest.raises(EncoderNotFound, match="did you mean 'birds'"):
            encoder_spec("brids")
    finally:
        offered.cache_clear()
