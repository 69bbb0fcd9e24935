"""`mlake evaluate` refuses what it cannot measure, and says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.__main__ import main
from tests.support.labelled_tables import clouds, systems, write_systems, write_table


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    write_systems(folder)
    return folder


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("", "'systems' is missing"),
        ('[[systems]]\nname = "x"\n', "give `database` (a table), or `encoder`"),
        ('[[systems]]\nname = "x"\nencoder = { name = "wordllama" }\n', "set data.images or data.beir"),
        ('[[systems]]\nname = "x"\ndatabase = "a-{dim}.lance"\n', "{dim} in an address needs `dims`"),
        ('[data]\nimages = "a"\nbeir = "b"\n[[systems]]\nname = "x"\ndatabase = "a"\n', "not both"),
        ('[[systems]]\nname = "x"\ndatabase = "nowhere.lance"\n', "nowhere.lance"),
        (
            '[data]\nlabel = "lable"\n[[systems]]\nname = "x"\ndatabase = "LAKE/mrl-train.lance"\n',
            "did you mean 'label'?",
        ),
        (
            '[[systems]]\nname = "x"\ndatabase = "LAKE/mrl-train.lance"\nqueries = "LAKE/ff-4-val.lance"\n',
            "holds vectors of space",
        ),
        (
            '[[systems]]\nname = "x"\ndatabase = "LAKE/mrl-train.lance"\ndims = [4, 99]\n',
            "dim 99 is beyond its 16 dims",
        ),
        ('[data]\nbeir = "LAKE"\n[[systems]]\nname = "x"\nencoder = { name = "wordllama" }\n', "has no corpus.jsonl"),
        (
            '[data]\nimages = "LAKE"\n[[systems]]\nname = "x"\nencoder = { name = "efficientnet-lite0" }\n',
            "is not a folder",
        ),
        ('[[systems]]\nname = "x"\ndatabase = "{dim}"\ndims = [8]\n[cascade]\n', "put one first that can be cut"),
        ('[robustness]\nkinds = ["fog"]\n[[systems]]\nname = "x"\ndatabase = "a"\n', "robustness.kinds"),
    ],
)
def test_a_config_that_cannot_be_measured_is_refused(
    toml: str, said: str, lake: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "bad.toml"
    config.write_text(f'folder = "{tmp_path}/out"\n{toml.replace("LAKE", str(lake))}')
    assert main(["evaluate", str(config)]) == 2
    assert said in capsys.readouterr().err


def test_systems_of_other_samples_are_not_compared(
    lake: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x_ND, labels_N = clouds(200, 2)
    write_table(tmp_path / "few.lance", x_ND[:80], labels_N[:80])
    config = tmp_path / "bad.toml"
    second = f'[[systems]]\nname = "few"\ndatabase = "{lake}/mrl-train.lance"\nqueries = "{tmp_path}/few.lance"\n'
    config.write_text(f'folder = "{tmp_path}/out"\n{systems(lake)}{second}')
    assert main(["evaluate", str(config)]) == 2
    assert "of 200 queries only 80 are in every system's tables" in capsys.readouterr().err
