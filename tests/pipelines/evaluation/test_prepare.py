"""Tables to evaluate: test sets become shards and embedding jobs; queries follow the database's rotation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.decomposition import PCA

from pipelines.evaluation.prepare import ALL_DIMS, prepare, rotation_between
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_numpy
from schemas.config import EmbedConfig, EvaluateConfig
from schemas.errors import InputError, SpaceMismatch
from tests.support.labelled_tables import clouds, write_table
from tests.support.small_tables import rotate_table


class Embedding:
    """Records embedding jobs, and writes a table of as many vectors as their shards have rows."""

    def __init__(self) -> None:
        self.jobs: dict[str, EmbedConfig] = {}

    def __call__(self, config: EmbedConfig) -> None:
        part = Path(config.table).name.partition("-")[0]
        self.jobs[part] = config
        rows = sum(pq.read_table(path).num_rows for path in Path(config.shards[0]).parent.glob("*.parquet"))
        write_table(Path(config.table), *clouds(rows, 1))


def image_folder(root: Path, *valid: str) -> Path:
    for part, labels in (("train", ("a", "b")), ("val", valid)):
        for label in labels:
            (root / part / label).mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (16, 16), (number, 0, 0)).save(root / part / label / f"{number}.png")
    return root


def test_an_image_folder_becomes_jobs_of_which_only_the_database_is_rotated(tmp_path: Path) -> None:
    system = {"name": "my system", "encoder": {"name": "efficientnet-lite0"}, "rotation": {"kind": "pca"}}
    config = EvaluateConfig.model_validate(
        {
            "folder": str(tmp_path / "out"),
            "data": {"images": str(image_folder(tmp_path / "images", "a", "b"))},
            "systems": [system],
            "robustness": {"kinds": ["jpeg"], "pictures": 10, "pixels": 8},
        }
    )
    embed = Embedding()
    tables = prepare(config, embed)
    assert list(embed.jobs) == ["database", "queries", "corrupted"]
    assert [job.rotation.kind for job in embed.jobs.values()] == ["pca", "none", "none"]
    assert embed.jobs["corrupted"].input.keep == ("label", "corruption")
    assert tables.pairs["my system"][ALL_DIMS].database.uri == embed.jobs["database"].table
    assert tables.corrupted["my system"].dataset.count_rows() == 8  # four images, each clean and as JPEG


def test_a_class_without_training_images_is_refused(tmp_path: Path) -> None:
    images = image_folder(tmp_path, "a", "c")
    config = EvaluateConfig.model_validate(
        {
            "folder": str(tmp_path / "out"),
            "data": {"images": str(images)},
            "systems": [{"name": "x", "encoder": {"name": "efficientnet-lite0"}}],
        }
    )
    with pytest.raises(InputError, match=r"has classes that .* lacks: c"):
        prepare(config, Embedding())


def test_a_beir_folder_is_embedded_as_documents_and_queries(tmp_path: Path) -> None:
    for name in ("corpus", "queries"):
        (tmp_path / f"{name}.jsonl").write_text(f"{json.dumps({'_id': 'a', 'text': 'words'})}\n")
    (tmp_path / "qrels.tsv").write_text("a\ta\t1\n")
    config = EvaluateConfig.model_validate(
        {
            "folder": str(tmp_path / "out"),
            "data": {"beir": str(tmp_path)},
            "systems": [{"name": "x", "encoder": {"name": "wordllama"}}],
        }
    )
    embed = Embedding()
    tables = prepare(config, embed)
    assert [job.encoder.side for job in embed.jobs.values()] == ["document", "query"]
    assert tables.beir is not None
    assert tables.beir.judged == {"a": {"a": 1}}


def test_queries_are_rotated_as_their_database_is(tmp_path: Path) -> None:
    x_ND, labels_N = clouds(300, 5)
    for name, part in (("train", slice(None, 200)), ("val", slice(200, None))):
        write_table(tmp_path / f"{name}.lance", x_ND[part], labels_N[part], dims=(16,), encoder="all-MiniLM-L6-v2")
    rotated = rotate_table(VectorTable.open(str(tmp_path / "train.lance")))
    queries = VectorTable.open(str(tmp_path / "val.lance"))
    rotation = rotation_between(rotated, queries)
    assert rotation is not None
    before = VectorTable.open(rotated.uri, version=2).dataset.to_table()["vector"]
    axes = PCA().fit(to_numpy(before).astype(np.float64))
    np.testing.assert_allclose(np.abs(rotation.matrix_DD[:3]), np.abs(axes.components_[:3]), atol=1e-2)
    assert rotation_between(queries, queries) is None
    other = write_table(tmp_path / "other.lance", x_ND[:9], labels_N[:9])
    with pytest.raises(SpaceMismatch):
        rotation_between(rotated, other)
