"""Test sets on disk, ImageFolder and BEIR: read them and write them as shards for `mlake embed`.

Owns both layouts. Shards are a function of the source, down to their time stamps, so that a second run has nothing to
do. Their folder is named by a digest of the source, so that a changed source gives new shards.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipelines.encoders.image_preprocessing import ImageRule, decode
from pipelines.encoders.protocol import BadSample
from pipelines.evaluation.corruptions import corrupt
from pipelines.storage.atomic_files import atomic_path
from schemas.config import LimitsConfig
from schemas.errors import InputError, ShardNotFound, nearest
from schemas.records import IMAGE_SUFFIXES

_IMAGES_PER_SHARD, _TEXTS_PER_SHARD = 256, 8192
_WRITTEN_AT_S = 1_600_000_000  # the time stamp is part of a shard's identity
CLEAN = "clean"


@dataclass(frozen=True)
class LabelledImage:
    """An image file and its class, the name of its folder."""

    path: Path
    label: str


@dataclass(frozen=True)
class Beir:
    """A retrieval test set in BEIR layout.

    Attributes:
        corpus: corpus.jsonl or corpus.jsonl.gz.
        queries: queries.jsonl or queries.jsonl.gz.
        judged: Query id to document id to gain, only gains above 0.
    """

    corpus: Path
    queries: Path
    judged: Mapping[str, Mapping[str, int]]


def list_images(folder: Path) -> list[LabelledImage]:
    """List one split of an ImageFolder: a subfolder per class, images anywhere below; ordered by class and path.

    Raises:
        ShardNotFound: The folder is missing, or no subfolder has an image.
    """
    if not folder.is_dir():
        there = sorted(path.name for path in folder.parent.glob("*/")) if folder.parent.is_dir() else []
        raise ShardNotFound(
            f"{folder} is not a folder{nearest(folder.name, there)}; the folders beside it are: "
            f"{', '.join(there) or 'none'}; data.train and data.valid name the subfolders of data.images"
        )
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    found = [
        LabelledImage(path, one.name)
        for one in classes
        for path in sorted(one.rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
    ]
    if not found:
        raise ShardNotFound(f"{folder} holds no images; an ImageFolder has a subfolder of images for each class")
    return found


def write_images(images: Sequence[LabelledImage], source: Path, folder: Path) -> str:
    """Write images as Parquet shards with `id` (path within `source`), `label`, `image`; return their pattern."""
    rows = (
        {"id": one.path.relative_to(source).as_posix(), "label": one.label, "image": one.path.read_bytes()}
        for one in images
    )
    return _write(rows, folder / _digest(one.path for one in images), _IMAGES_PER_SHARD)


def write_corrupted(
    images: Sequence[LabelledImage], source: Path, folder: Path, changes: Sequence[tuple[str, int]], pixels: int
) -> str:
    """Write the centre square of each image, clean and after every corruption, with a column `corruption`.

    Args:
        images: Images to corrupt.
        source: Folder that ids are relative to.
        folder: Folder of the shards.
        changes: Kinds and severities of the corruptions.
        pixels: Side of the square.

    Returns:
        Pattern of the shards.
    """
    rule = ImageRule(crop=(pixels, pixels), short=pixels)

    def rows() -> Iterator[dict[str, object]]:
        for seed, one in enumerate(images):
            try:
                square = decode(one.path.read_bytes(), rule, LimitsConfig().max_pixels)
            except BadSample:
                continue  # it is a reject of the clean images, and is counted there
            name = one.path.relative_to(source).as_posix()
            for kind, severity in ((CLEAN, 0), *changes):
                changed = square if kind == CLEAN else corrupt(square, kind, severity, seed)
                png = io.BytesIO()
                Image.fromarray(changed).save(png, "PNG")
                done = f"{kind}/{severity}"
                yield {"id": f"{done}/{name}", "label": one.label, "corruption": done, "image": png.getvalue()}

    digest = hashlib.sha256(repr((changes, pixels)).encode()).hexdigest()[:8]
    return _write(rows(), folder / f"{_digest(one.path for one in images)}-{digest}", _IMAGES_PER_SHARD)


def read_beir(folder: Path, split: str) -> Beir:
    """Read the judgements of a BEIR test set.

    Raises:
        ShardNotFound: A file is missing.
        InputError: The judgements are malformed, or no gain is above 0.

    Source: Thakur et al. 2021 (arXiv 2104.08663). Files are tab-separated: query-id, corpus-id, score, with a header.
    """
    corpus, queries = (_find(folder, f"{name}.jsonl") for name in ("corpus", "queries"))
    return Beir(corpus, queries, _read_judged(folder, split))


def read_judged_queries(folder: Path, split: str = "test") -> tuple[dict[str, str], Mapping[str, Mapping[str, int]]]:
    """Read queries and their judgements, without a corpus: `queries.jsonl`, and qrels/<split>.tsv or qrels.tsv.

    Returns:
        Query id to text, of the judged ones; and query id to document id to gain, only gains above 0.

    Raises:
        ShardNotFound: A file is missing.
        InputError: A file is malformed, no gain is above 0, or a judged query has no text.
    """
    path, judged = _find(folder, "queries.jsonl"), _read_judged(folder, split)
    texts = {row["_id"]: row["text"] for row in _rows(path) if row["_id"] in judged}
    if lost := next((query for query in judged if not texts.get(query, "").strip()), None):
        raise InputError(f"{path} has no text of the query {lost!r}, which is judged; add it, or remove its judgements")
    return texts, judged


def _read_judged(folder: Path, split: str) -> dict[str, dict[str, int]]:
    path = next((p for p in (folder / "qrels" / f"{split}.tsv", folder / "qrels.tsv") if p.exists()), None)
    if path is None:
        there = sorted(p.stem for p in (folder / "qrels").glob("*.tsv"))
        raise ShardNotFound(
            f"{folder} has neither qrels/{split}.tsv nor qrels.tsv{nearest(split, there)}; "
            f"its splits are: {', '.join(there) or 'none'}; `mlake evaluate` takes data.split"
        )
    judged: dict[str, dict[str, int]] = {}
    with path.open(newline="") as file:
        for number, line in enumerate(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), 1):
            try:
                query, document, gain = line[0], line[-2], int(line[-1])
            except (ValueError, IndexError):
                if number == 1:
                    continue  # the header
                raise InputError(
                    f"{path}, line {number}: {line} is not query-id, corpus-id and a whole number, separated by tabs"
                ) from None
            if gain > 0:
                judged.setdefault(query, {})[document] = gain
    if not judged:
        raise InputError(f"{path} has no document with a score above 0; nothing can be measured")
    return judged


def write_documents(beir: Beir, folder: Path) -> str:
    """Write the corpus as Parquet shards with `id` and `text` (title first); return their pattern."""
    rows = ({"id": row["_id"], "text": f"{row.get('title') or ''} {row['text']}".strip()} for row in _rows(beir.corpus))
    return _write(rows, folder / _digest([beir.corpus]), _TEXTS_PER_SHARD)


def write_queries(beir: Beir, folder: Path) -> str:
    """Write the judged queries as Parquet shards with `id` and `text`; return their pattern."""
    rows = ({"id": row["_id"], "text": row["text"]} for row in _rows(beir.queries) if row["_id"] in beir.judged)
    judged = hashlib.sha256("\0".join(sorted(beir.judged)).encode()).hexdigest()[:8]
    return _write(rows, folder / f"{_digest([beir.queries])}-{judged}", _TEXTS_PER_SHARD)


def _digest(paths: Iterable[Path]) -> str:
    """Return 12 hex digits over names, sizes and times of files."""
    digest = hashlib.sha256()
    for path in paths:
        known = path.stat()
        digest.update(f"{path}\0{known.st_size}\0{known.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:12]


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = orjson.loads(line)
                    yield {"_id": str(row["_id"]), "text": str(row["text"]), "title": str(row.get("title") or "")}
                except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
                    raise InputError(
                        f"{path}, line {number}: {type(error).__name__}: {error}; "
                        "each line must be a JSON object with _id and text"
                    ) from None


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            return path
    raise ShardNotFound(
        f"{folder} has no {name}; a BEIR test set has corpus.jsonl (not for `mlake nightly`), queries.jsonl and "
        "qrels/<split>.tsv"
    )


def _write(rows: Iterable[Mapping[str, object]], folder: Path, per_shard: int) -> str:
    """Write shards, each atomically; once all are written, read nothing again."""
    pattern, done = str(folder / "*.parquet"), folder / "_SUCCESS"
    if done.exists():
        return pattern
    folder.mkdir(parents=True, exist_ok=True)
    stream = iter(rows)
    for number, some in enumerate(iter(lambda: list(islice(stream, per_shard)), [])):
        path = folder / f"{number:06d}.parquet"
        with atomic_path(path) as unfinished:
            pq.write_table(pa.Table.from_pylist(some), unfinished, compression="zstd")
            os.utime(unfinished, (_WRITTEN_AT_S, _WRITTEN_AT_S))
    done.touch()
    return pattern
