"""Samples of shards, as `mlake embed` reads them, or of a folder with a subfolder of images per class.

Owns the order of the samples, which is a function of seed, epoch and worker. Samples are still bytes or text here.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

from pipelines.shards import list_shards, read_blocks
from pipelines.training.data import mix, own_share
from pipelines.training.process_group import worker_rank, world_size
from pipelines.training.tokenizer import read_tokenizer, train_tokenizer
from schemas.config import InputConfig
from schemas.config.training import DataConfig, TrainConfig
from schemas.errors import ConfigError, InputError
from schemas.records import IMAGE_SUFFIXES, Shard

_TOKENISER_TEXTS = 200_000


class Sample(NamedTuple):
    """One sample as it was read.

    Attributes:
        input: Bytes of an image, path of its file, or a text.
        extra: Class or caption, where there is one.
    """

    input: bytes | str | Path
    extra: str = ""


@dataclass(frozen=True)
class Survey:
    """Facts about the data that training needs; found once and given to every worker.

    Attributes:
        samples: Number of training samples.
        classes: Names of the classes, in the order of their numbers.
        tokenizer: JSON of the tokeniser, where there are texts.
    """

    samples: int
    classes: tuple[str, ...] = ()
    tokenizer: str = ""


def survey(config: TrainConfig) -> Survey:
    """Count samples, collect classes and train the tokeniser, as far as the config does not give them.

    Raises:
        InputError: The data cannot be read, or a field is missing.
        ConfigError: The given tokeniser cannot be used.
    """
    if config.data.input is None:
        files = list_folder(config.data.train)
        return Survey(len(files), tuple(sorted({sample.extra for sample in files})))
    tokenizer = "" if config.kind == "classify" else _tokenizer(config)
    if config.data.samples and (config.kind != "classify" or config.data.classes):
        return Survey(config.data.samples, tuple(map(str, range(config.data.classes or 0))), tokenizer)
    samples, classes = 0, set[str]()
    for sample in _read_all(config, config.data.train):
        samples += 1
        if config.kind == "classify":
            classes.add(sample.extra)
    return Survey(config.data.samples or samples, tuple(sorted(classes, key=_by_number)), tokenizer)


def list_folder(patterns: Sequence[str]) -> list[Sample]:
    """List the images of a folder whose subfolders are the classes.

    Raises:
        InputError: There is no such folder, or it has no images.
    """
    if len(patterns) != 1 or not Path(patterns[0]).is_dir():
        raise InputError(
            f"{', '.join(patterns)} is not one folder with a subfolder of images per class; "
            "to train on shards, name their fields: data.input and data.label"
        )
    root = Path(patterns[0])
    found = sorted(path for path in root.glob("*/**/*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise InputError(f"{root} has no image in any subfolder; its subfolders are the classes")
    return [Sample(path, path.relative_to(root).parts[0]) for path in found]


class FolderOrder:
    """Order of the images of a folder: a new one each epoch; workers share each step."""

    def __init__(self, files: Sequence[Sample], seed: int, *, shuffle: bool) -> None:
        """Keep the list of files."""
        self._files, self._seed, self._shuffle = files, seed, shuffle
        self.samples = len(files)

    def draw(self, epoch: int, first_step: int, batch: int) -> Iterator[list[Sample]]:
        """Yield this worker's samples of each step, to the end of the data."""
        order = list(self._files)
        if self._shuffle:
            random.Random(mix(self._seed, epoch)).shuffle(order)
        for start in range(first_step * batch, len(order), batch):
            rows = order[start : start + batch]
            yield rows[own_share(len(rows), evenly=self._shuffle)]


class ShardOrder:
    """Order of the samples of shards: shards shuffled each epoch and dealt to workers, samples shuffled in a buffer.

    A worker with fewer samples starts over within the epoch, so that all workers take as many steps. With fewer shards
    than workers, each worker reads all shards and keeps its share of the samples.
    """

    def __init__(self, config: TrainConfig, patterns: Sequence[str], samples: int, *, shuffle: bool) -> None:
        """List the shards.

        Raises:
            ShardNotFound: A pattern matches nothing.
        """
        self._config, self._shuffle, self.samples = config, shuffle, samples
        self._shards = _list(config, patterns)

    def draw(self, epoch: int, first_step: int, batch: int) -> Iterator[list[Sample]]:
        """Yield this worker's samples of each step; samples of earlier steps are read and skipped.

        Shuffled samples have no end; others end with the data.
        """
        own = batch // world_size()
        stream = self._shuffled(epoch) if self._shuffle else self._read(self._own_shards(self._shards))
        for _ in islice(stream, first_step * own):
            pass
        while part := list(islice(stream, own)):
            yield part

    def _shuffled(self, epoch: int) -> Iterator[Sample]:
        for lap in count():
            rng = random.Random(mix(self._config.run.seed, epoch, lap))
            shards = self._own_shards(rng.sample(self._shards, len(self._shards)))
            rng.seed(mix(self._config.run.seed, epoch, lap, worker_rank()))
            is_empty = True
            for sample in shuffle_buffered(self._read(shards), self._config.data.shuffle_rows, rng):
                is_empty = False
                yield sample
            if is_empty:
                raise InputError(f"{shards[0].uri} and {len(shards) - 1} other shards hold no sample to train on")

    def _own_shards(self, shards: Sequence[Shard]) -> Sequence[Shard]:
        return shards[worker_rank() :: world_size()] if len(shards) >= world_size() else shards

    def _read(self, shards: Sequence[Shard]) -> Iterator[Sample]:
        stream = _read(self._config, shards)
        return islice(stream, worker_rank(), None, world_size()) if len(self._shards) < world_size() else stream


def shuffle_buffered(stream: Iterable[Sample], buffer_rows: int, rng: random.Random) -> Iterator[Sample]:
    """Yield the samples of a stream in random order, drawn from a buffer of `buffer_rows`."""
    buffer: list[Sample] = []
    for sample in stream:
        if len(buffer) < buffer_rows:
            buffer.append(sample)
            continue
        place = rng.randrange(buffer_rows)
        buffer[place], drawn = sample, buffer[place]
        yield drawn
    rng.shuffle(buffer)
    yield from buffer


def fields_of(data: DataConfig) -> InputConfig:
    """Return the input block, with the field of the class or of the caption kept."""
    given = data.input or InputConfig(image="jpg")
    extra = data.label or data.caption
    return given.model_copy(update={"keep": (extra,) if extra else ()})


def _read_all(config: TrainConfig, patterns: Sequence[str]) -> Iterator[Sample]:
    return _read(config, _list(config, patterns))


def _list(config: TrainConfig, patterns: Sequence[str]) -> list[Shard]:
    return list_shards(patterns, fields_of(config.data).format, config.storage)


def _read(config: TrainConfig, shards: Sequence[Shard]) -> Iterator[Sample]:
    fields = fields_of(config.data)
    for shard in shards:
        for block in read_blocks(shard, fields, config.limits, config.storage):
            inputs = block.rows["input"].to_pylist()
            extras = block.rows[next(iter(fields.columns))].to_pylist() if fields.keep else [""] * len(inputs)
            for value, extra in zip(inputs, extras, strict=True):
                if extra is not None:
                    yield Sample(value, extra.decode() if isinstance(extra, bytes) else str(extra))


def _tokenizer(config: TrainConfig) -> str:
    if config.model.tokenizer:
        return str(read_tokenizer(config.model.tokenizer).to_str())
    is_captioned = config.data.caption is not None
    texts = (s.extra if is_captioned else str(s.input) for s in _read_all(config, config.data.train))
    tokenizer = train_tokenizer(islice(texts, _TOKENISER_TEXTS), config.model.vocabulary)
    return str(tokenizer.to_str())


def _by_number(name: str) -> tuple[int, str]:
    return (int(name), name) if name.isdecimal() else (-1, name)


def number_of(name: str, classes: dict[str, int]) -> int:
    """Return the number of a class.

    Raises:
        ConfigError: The training data has no such class.
    """
    if name not in classes:
        raise ConfigError(f"class {name!r} is not among the {len(classes)} of the training data")
    return classes[name]
