"""Test sets as they lie on disk: ImageFolder and BEIR, read and laid out as shards for `jobs embed`.

Owns both layouts. Shards are a function of what was read, down to their time stamps, so that a second run finds its
work done; their folder carries a digest of the source, so that a changed source is another test set.
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

from pipelines.encoders.images import ImageRule, decode
from pipelines.encoders.protocol import BadSample
from pipelines.evaluation.corruptions import corrupt
from pipelines.storage.atomic_files import atomic_path
from schemas.config import LimitsConfig
from schemas.errors import InputError, ShardNotFound, nearest

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".ppm", ".avif"})
_PICTURES_PER_SHARD, _TEXTS_PER_SHARD = 256, 8192
_WRITTEN_AT_S = 1_600_000_000  # part of a shard's identity
CLEAN = "clean"


@dataclass(frozen=True)
class Picture:
    """An image file and its class: the folder it lies in."""

    path: Path
    label: str


@dataclass(frozen=True)
class Beir:
    """A retrieval test set.

    Attributes:
        corpus: corpus.jsonl, or that with .gz.
        queries: queries.jsonl likewise.
        judged: Query id to document id to gain, of queries with a gain above 0.
    """

    corpus: Path
    queries: Path
    judged: Mapping[str, Mapping[str, int]]


def list_pictures(folder: Path) -> list[Picture]:
    """List an ImageFolder split: a subfolder per class, images anywhere below; in order of class and path.

    Raises:
        ShardNotFound: The folder is not there, or holds no class with an image.
    """
    if not folder.is_dir():
        there = sorted(path.name for path in folder.parent.glob("*/")) if folder.parent.is_dir() else []
        raise ShardNotFound(
            f"{folder} is no folder{nearest(folder.name, there)}; beside it are: {', '.join(there) or 'none'}; "
            "data.train and data.valid name the subfolders of data.images"
        )
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    found = [
        Picture(path, one.name)
        for one in classes
        for path in sorted(one.rglob("*"))
        if path.suffix.lower() in _SUFFIXES
    ]
    if not found:
        raise ShardNotFound(f"{folder} holds no images; an ImageFolder has a subfolder of images for each class")
    return found


def write_pictures(pictures: Sequence[Picture], source: Path, folder: Path) -> str:
    """Lay pictures out as Parquet shards with `id` (path within `source`), `label`, `image`; return their pattern."""
    rows = (
        {"id": one.path.relative_to(source).as_posix(), "label": one.label, "image": one.path.read_bytes()}
        for one in pictures
    )
    return _write(rows, folder / digest_of(one.path for one in pictures), _PICTURES_PER_SHARD)


def write_corrupted(
    pictures: Sequence[Picture], source: Path, folder: Path, changes: Sequence[tuple[str, int]], pixels: int
) -> str:
    """Lay out the middle square of each picture, clean and after every change, with a column `corruption`.

    Args:
        pictures: What is corrupted.
        source: Folder that ids start from.
        folder: Where the shards go.
        changes: Kinds and severities.
        pixels: Side of the square.

    Returns:
        Pattern of the shards.
    """
    rule = ImageRule(crop=(pixels, pixels), short=pixels)

    def rows() -> Iterator[dict[str, object]]:
        for seed, one in enumerate(pictures):
            try:
                square = decode(one.path.read_bytes(), rule, LimitsConfig().max_pixels)
            except BadSample:
                continue  # as unreadable when it is embedded whole, and counted there
            name = one.path.relative_to(source).as_posix()
            for kind, severity in ((CLEAN, 0), *changes):
                changed = square if kind == CLEAN else corrupt(square, kind, severity, seed)
                png = io.BytesIO()
                Image.fromarray(changed).save(png, "PNG")
                done = f"{kind}/{severity}"
                yield {"id": f"{done}/{name}", "label": one.label, "corruption": done, "image": png.getvalue()}

    key = (
        f"{digest_of(one.path for one in pictures)}-{hashlib.sha256(repr((changes, pixels)).encode()).hexdigest()[:8]}"
    )
    return _write(rows(), folder / key, _PICTURES_PER_SHARD)


def read_beir(folder: Path, split: str) -> Beir:
    """Find a BEIR test set and read its judgements.

    Raises:
        ShardNotFound: A file is missing.
        InputError: The judgements are malformed, or none is above 0.

    Source: Thakur et al. 2021 (arXiv 2104.08663); tab-separated query-id, corpus-id, score under a header.
    """
    corpus, queries = (_find(folder, f"{name}.jsonl") for name in ("corpus", "queries"))
    path = next((p for p in (folder / "qrels" / f"{split}.tsv", folder / "qrels.tsv") if p.exists()), None)
    if path is None:
        there = sorted(p.stem for p in (folder / "qrels").glob("*.tsv"))
        raise ShardNotFound(
            f"{folder} has neither qrels/{split}.tsv nor qrels.tsv{nearest(split, there)}; "
            f"its splits are: {', '.join(there) or 'none'}; set data.split"
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
                    f"{path}, line {number}: {line} is not query-id, corpus-id and a whole number, by tabs"
                ) from None
            if gain > 0:
                judged.setdefault(query, {})[document] = gain
    if not judged:
        raise InputError(f"{path} judges no document relevant; nothing can be measured")
    return Beir(corpus, queries, judged)


def write_documents(beir: Beir, folder: Path) -> str:
    """Lay the corpus out as Parquet shards with `id` and `text`, title first; return their pattern."""
    rows = ({"id": row["_id"], "text": f"{row.get('title') or ''} {row['text']}".strip()} for row in _rows(beir.corpus))
    return _write(rows, folder / digest_of([beir.corpus]), _TEXTS_PER_SHARD)


def write_queries(beir: Beir, folder: Path) -> str:
    """Lay the judged queries out likewise."""
    rows = ({"id": row["_id"], "text": row["text"]} for row in _rows(beir.queries) if row["_id"] in beir.judged)
    judged = hashlib.sha256("\0".join(sorted(beir.judged)).encode()).hexdigest()[:8]
    return _write(rows, folder / f"{digest_of([beir.queries])}-{judged}", _TEXTS_PER_SHARD)


def digest_of(paths: Iterable[Path]) -> str:
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
                        "a line is a JSON object with _id and text"
                    ) from None


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            return path
    raise ShardNotFound(
        f"{folder} has no {name}; a BEIR test set has corpus.jsonl, queries.jsonl and qrels/<split>.tsv"
    )


def _write(rows: Iterable[Mapping[str, object]], folder: Path, per_shard: int) -> str:
    """Write shards, each whole or not at all; once all are there, nothing is read again."""
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
