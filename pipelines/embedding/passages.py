"""Long texts are cut into passages, each a row of its own, so that nothing of a text is left out.

A passage is a run of neighbouring units: sentences or paragraphs, or words where a unit is longer than a passage may
be. It is what the encoder sees: its tokens, with the prompt and special tokens, are at most `chunk.tokens`. Neighbours
share units of at most `chunk.overlap` tokens.

Owns where a text is cut, and the columns that name a passage. Owns no tokeniser.

Shapes: T tokens of a text, U units of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.encoders import Preparer, TokenPlaces, token_places
from pipelines.shards.raw_blocks import BLOCK_BYTES, BLOCK_ROWS
from schemas.config import ChunkConfig, EmbedConfig
from schemas.errors import ConfigError
from schemas.records import SampleBlock
from schemas.source import passage_fields

Places = npt.NDArray[np.int64]

_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")
# A mark that ends a sentence, with closing quotes, before white space; after those of Chinese and Japanese there is
# none. A heading ends without a mark, at an empty line.
_SENTENCE = re.compile(r"""[.!?…]+["'”’»)\]]*\s+|[。！？｡]+[”’」』）]*\s*|\n[^\S\n]*\n\s*""")
_WORD = re.compile(r"\s+")
_LEVELS = {"paragraph": (_PARAGRAPH, _SENTENCE, _WORD), "sentence": (_SENTENCE, _WORD), "tokens": (_WORD,)}
_PIECE = 50_000  # characters that a tokeniser gets at once: it takes some 90 bytes for each
_SHORT = 16  # characters for each token of a passage; a longer text is cut before it is counted
_SLACK = (0, 1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Span:
    """A passage: `text[start:stop]`, in characters."""

    start: int
    stop: int


@dataclass(frozen=True)
class _Passage:
    row: int
    number: int
    span: Span
    text: str


def load_cutter(config: EmbedConfig, preparer: Preparer) -> PassageCutter | None:
    """Return what cuts the texts of a job; None where a text is one row.

    Raises:
        ConfigError: As `PassageCutter`.
    """
    if config.chunk is None:
        return None
    copies = [column for column, field in config.input.columns.items() if field == config.input.text]
    return PassageCutter(config.chunk, token_places(preparer), config.encoder.name, copies)


class PassageCutter:
    """Cuts the texts of one encoder."""

    def __init__(
        self, chunk: ChunkConfig, places: TokenPlaces | None, encoder: str, copies: Sequence[str] = ()
    ) -> None:
        """Take over the settings.

        Args:
            chunk: Of the config.
            places: Of the encoder's preparer.
            encoder: Its name, for messages.
            copies: Kept columns that hold the text itself, and get the passage in place of it.

        Raises:
            ConfigError: The encoder does not say where its tokens are, takes fewer, or the prompt leaves no room.
        """
        if places is None:
            raise ConfigError(
                f"[chunk] cannot be used with {encoder}: it does not say where the tokens of a text are; leave [chunk] "
                "out, or use a model whose tokeniser is here, as those of sentence-transformers, transformers and "
                "wordllama are"
            )
        if chunk.tokens > places.most:
            raise ConfigError(
                f"chunk.tokens={chunk.tokens}, and {encoder} takes {places.most} tokens; allowed: up to that"
            )
        self._room = chunk.tokens - int(places.count([""])[0])
        if self._room <= chunk.overlap:
            raise ConfigError(
                f"chunk.tokens={chunk.tokens} leaves {self._room} tokens beside the prompt of {encoder}, and "
                f"chunk.overlap is {chunk.overlap}; allowed: an overlap below that"
            )
        self._chunk, self._places, self._copies = chunk, places, tuple(copies)

    def cut(self, text: str) -> list[Span]:
        """Return the passages of a text, in its order; every character but white space lies in one of them."""
        starts_T = self._starts(text)
        spans: list[Span] = []
        for slack in _SLACK:  # alone, a passage may have some tokens more than as a part of its text
            spans = self._pack(text, starts_T, max(1, self._room - slack))
            counts = self._places.count([text[span.start : span.stop] for span in spans])
            if counts.max(initial=0) <= self._chunk.tokens:
                break
        return spans

    def split(self, block: SampleBlock) -> Iterator[SampleBlock]:
        """Make the rows of a block to rows of passages, with the columns of `passage_fields`, a few at a time.

        The id of a passage is that of its document, a `#`, and its number. Kept columns are the document's.
        """
        texts, others = block.rows["input"].to_pylist(), self._others(block.rows)
        passages: list[_Passage] = []
        nbytes, rejects = 0, block.rejects
        for row, (text, spans) in enumerate(zip(texts, self._cut_all(texts), strict=True)):
            row_bytes = others.slice(row, 1).nbytes if len(spans) > 1 else others.nbytes // len(others)
            for number, span in enumerate(spans):
                passages.append(_Passage(row, number, span, text[span.start : span.stop]))
                nbytes += row_bytes + len(passages[-1].text)
                if nbytes >= BLOCK_BYTES or len(passages) >= BLOCK_ROWS:
                    yield SampleBlock(self._rows(block.rows, others, passages), rejects)
                    passages, nbytes, rejects = [], 0, ()
        if passages or rejects:
            yield SampleBlock(self._rows(block.rows, others, passages), rejects)

    def _others(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Return the columns that the passages of a row share."""
        return rows.drop_columns(["input", *self._copies])

    def _cut_all(self, texts: Sequence[str]) -> Iterator[list[Span]]:
        """Cut texts; those that are short are counted together."""
        short = [len(text) <= _SHORT * self._chunk.tokens for text in texts]
        counts = iter(self._places.count([text for text, is_short in zip(texts, short, strict=True) if is_short]))
        for text, is_short in zip(texts, short, strict=True):
            whole = _trimmed(text, 0, len(text)) if is_short and next(counts) <= self._chunk.tokens else None
            yield [whole] if whole is not None else self.cut(text)

    def _rows(self, rows: pa.RecordBatch, others: pa.RecordBatch, passages: Sequence[_Passage]) -> pa.RecordBatch:
        taken = others.take(pa.array([passage.row for passage in passages], pa.int64()))
        documents = taken["id"].to_pylist()
        named = [f"{name}#{passage.number}" for name, passage in zip(documents, passages, strict=True)]
        texts = pa.array([passage.text for passage in passages], pa.string())
        made = {"id": pa.array(named, pa.string()), **dict.fromkeys(("input", *self._copies), texts)}
        arrays = [made[f.name].cast(f.type) if f.name in made else taken[f.name] for f in rows.schema]
        spans = [passage.span for passage in passages]
        arrays += [
            pa.array(documents, pa.string()),
            pa.array([passage.number for passage in passages], pa.int32()),
            pa.array([span.start for span in spans], pa.int64()),
            pa.array([span.stop for span in spans], pa.int64()),
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema([*rows.schema, *passage_fields()]))

    def _starts(self, text: str) -> Places:
        """Return where the tokens of a text begin, (T,); a long text is tokenised piece by piece."""
        found, begin = [], 0
        while begin < len(text):
            end = min(len(text), begin + _PIECE)
            if end < len(text) and (space := text.rfind(" ", begin + _PIECE // 2, end)) > 0:
                end = space
            found.append(self._places.starts(text[begin:end]) + begin)
            begin = end
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def _pack(self, text: str, starts_T: Places, room: int) -> list[Span]:
        edges = self._edges(text, starts_T, room)
        before = np.searchsorted(starts_T, edges)  # tokens before each edge, (U + 1,)
        spans: list[Span] = []
        at, last = 0, len(edges) - 1
        while at < last:
            end = max(at + 1, int(np.searchsorted(before, before[at] + room, "right")) - 1)
            span = _trimmed(text, int(edges[at]), int(edges[end]))
            if span is not None and (not spans or span.stop > spans[-1].stop):
                if spans and span.start == spans[-1].start:  # only white space was in front of it
                    spans.pop()
                spans.append(span)
            if end == last:
                break
            # The next one begins with the units that fit into the overlap, if its first new unit fits behind them.
            least = max(before[end] - self._chunk.overlap, before[end + 1] - room)
            at = min(end, max(at + 1, int(np.searchsorted(before, least))))
        return spans

    def _edges(self, text: str, starts_T: Places, room: int) -> Places:
        """Return where units begin, and the end of the text, (U + 1,); no unit has more tokens than there is room."""
        edges = np.array([0, len(text)])
        for level in (*_LEVELS[self._chunk.by], None):
            long = np.flatnonzero(np.diff(np.searchsorted(starts_T, edges)) > room)
            finer = [_unit_starts(text, int(edges[at]), int(edges[at + 1]), level, starts_T) for at in long]
            edges = np.unique(np.concatenate([edges, *finer]))
        return edges


def _unit_starts(text: str, start: int, stop: int, level: re.Pattern[str] | None, starts_T: Places) -> Places:
    if level is None:
        return starts_T[np.searchsorted(starts_T, start, "right") : np.searchsorted(starts_T, stop)]
    return np.array([found.end() for found in level.finditer(text, start, stop) if found.end() < stop], np.int64)


def _trimmed(text: str, start: int, stop: int) -> Span | None:
    """Return a span without the white space at its ends; None where nothing is left."""
    part = text[start:stop]
    inner = part.strip()
    begin = start + len(part) - len(part.lstrip())
    return Span(begin, begin + len(inner)) if inner else None
