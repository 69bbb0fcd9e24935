"""Where samples come from: shards as `jobs embed` reads them, or a folder with a subfolder of images per class.

Owns which sample comes when; a sample is still bytes and words here. The order is a function of seed, epoch and worker.
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
from pipelines.training.ranks import rank, world_size
from pipelines.training.words import read_tokenizer, train_tokenizer
from schemas.config import InputConfig
from schemas.config.training import DataConfig, TrainConfig
from schemas.errors import ConfigError, InputError
from schemas.records import Shard

_IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
_TOKENISER_TEXTS = 200_000


class Sample(NamedTuple):
    """One sample as read.

    Attributes:
        input: An image's bytes, the path of its file, or a text.
        extra: Its class or its caption, where it has one.
    """

    input: bytes | str | Path
    extra: str = ""


@dataclass(frozen=True)
class Survey:
    """What must be known of the data before training; made once and handed to every worker.

    Attributes:
        samples: Of the training data.
        classes: Names of the classes, in the order of their numbers.
        tokenizer: The JSON of the tokeniser, where texts are learnt from.
    """

    samples: int
    classes: tuple[str, ...] = ()
    tokenizer: str = ""


def survey(config: TrainConfig) -> Survey:
    """Count samples, collect classes, train the tokeniser: what the config does not say is read from the data once.

    Raises:
        InputError: The data cannot be read, or a field is not there.
        ConfigError: The tokeniser that was given cannot serve.
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
    """List the images of a folder, whose subfolders are the classes.

    Raises:
        InputError: There is no such folder, or no image in it.
    """
    if len(patterns) != 1 or not Path(patterns[0]).is_dir():
        raise InputError(
            f"{', '.join(patterns)} is not one folder with a subfolder of images per class; "
            "to train on shards, say what their fields are: data.input and data.label"
        )
    root = Path(patterns[0])
    found = sorted(path for path in root.glob("*/**/*") if path.suffix.lower() in _IMAGES)
    if not found:
        raise InputError(f"{root} has no image in any subfolder; its subfolders are the classes")
    return [Sample(path, path.relative_to(root).parts[0]) for path in found]


class FolderOrder:
    """The images of a folder, in a new order each epoch; workers share each step."""

    def __init__(self, files: Sequence[Sample], seed: int, *, shuffle: bool) -> None:
        """Keep the list."""
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
    """The samples of shards: shards in a new order each epoch, dealt out to the workers, mixed in a buffer.

    A worker whose shards are fewer starts over within the epoch, so that all take as many steps. With fewer shards than
    workers each reads all of them and takes its share of the samples.
    """

    def __init__(self, config: TrainConfig, patterns: Sequence[str], samples: int, *, shuffle: bool) -> None:
        """List the shards.

        Raises:
            ShardNotFound: A pattern matches nothing.
        """
        self._config, self._shuffle, self.samples = config, shuffle, samples
        self._shards = _list(config, patterns)

    def draw(self, epoch: int, first_step: int, batch: int) -> Iterator[list[Sample]]:
        """Yield this worker's samples of each step; those of earlier steps are read and passed over.

        Without an end where they are shuffled; else to the end of the data.
        """
        own = batch // world_size()
        stream = self._mixed(epoch) if self._shuffle else self._read(self._dealt(self._shards))
        for _ in islice(stream, first_step * own):
            pass
        while part := list(islice(stream, own)):
            yield part

    def _mixed(self, epoch: int) -> Iterator[Sample]:
        for lap in count():
            dice = random.Random(mix(self._config.run.seed, epoch, lap))
            shards = self._dealt(dice.sample(self._shards, len(self._shards)))
            dice.seed(mix(self._config.run.seed, epoch, lap, rank()))
            is_empty = True
            for sample in mixed(self._read(shards), self._config.data.shuffle_rows, dice):
                is_empty = False
                yield sample
            if is_empty:
                raise InputError(f"{shards[0].uri} and {len(shards) - 1} other shards hold no sample to train on")

    def _dealt(self, shards: Sequence[Shard]) -> Sequence[Shard]:
        return shards[rank() :: world_size()] if len(shards) >= world_size() else shards

    def _read(self, shards: Sequence[Shard]) -> Iterator[Sample]:
        stream = _read(self._config, shards)
        return islice(stream, rank(), None, world_size()) if len(self._shards) < world_size() else stream


def mixed(stream: Iterable[Sample], buffer_rows: int, dice: random.Random) -> Iterator[Sample]:
    """Yield the samples of a stream, each drawn from among `buffer_rows` neighbours."""
    buffer: list[Sample] = []
    for sample in stream:
        if len(buffer) < buffer_rows:
            buffer.append(sample)
            continue
        place = dice.randrange(buffer_rows)
        buffer[place], drawn = sample, buffer[place]
        yield drawn
    dice.shuffle(buffer)
    yield from buffer


def fields_of(data: DataConfig) -> InputConfig:
    """Return the input block with the field of the class or the caption among those kept."""
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
            extras = block.rows[fields.keep[0]].to_pylist() if fields.keep else [""] * len(inputs)
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
        ConfigError: Training never saw it.
    """
    if name not in classes:
        raise ConfigError(f"class {name!r} is not among the {len(classes)} of the training data")
    return classes[name]
