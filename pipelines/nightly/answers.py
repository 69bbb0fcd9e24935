"""Ask two publications a fixed set of queries, and say what changed in their answers.

The queries are words, or rows of the table: of shards that both versions hold, always the same ones while these stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from pipelines.shards.shard_table import are_among
from pipelines.tables.ledger import held_shards
from pipelines.tables.pictures import LOOKED_AT, Pictures
from pipelines.tables.publication_log import generation_uri
from pipelines.tables.rows import sql_texts
from pipelines.tables.table import VectorTable
from schemas.config import StorageConfig, TrustConfig
from schemas.errors import TableNotFound
from schemas.publications import Publication

_TEXT = 160
_K = 6


@dataclass(frozen=True)
class Answer:
    """One row of an answer.

    Attributes:
        id: Its id.
        words: What it says, from the first kept text; empty where it keeps none.
        score: Cosine to the query.
        png: Its thumbnail, where it has a picture.
        change: What changed beside the other version: `new`, `gone`, `was 4.`, `now 2.`; empty where nothing did.
    """

    id: str
    words: str
    score: float
    png: bytes | None = None
    change: str = ""


@dataclass(frozen=True)
class AskedTwice:
    """A query and its answers.

    Attributes:
        question: The words, or those of the row that asks.
        row: Id of the row that asks; empty where words do.
        png: Its thumbnail.
        before: Answers of the earlier publication, best first.
        now: Answers of the later one.
    """

    question: str
    row: str
    png: bytes | None
    before: Sequence[Answer]
    now: Sequence[Answer]

    @property
    def kept(self) -> int:
        """Rows that are in both answers."""
        return len({row.id for row in self.before} & {row.id for row in self.now})

    @property
    def is_changed(self) -> bool:
        """Whether the rows are others, or in another order."""
        return [row.id for row in self.before] != [row.id for row in self.now]


@dataclass(frozen=True)
class Comparison:
    """The answers of two publications to the same queries.

    Attributes:
        before: The earlier publication; None where there is none to ask.
        now: The later one.
        asked: The queries with their answers.
        why_not: Why nothing was asked, in a sentence.
    """

    before: Publication | None = None
    now: Publication | None = None
    asked: tuple[AskedTwice, ...] = ()
    why_not: str = ""


class Asker:
    """Asks two publications of a table.

    Attributes:
        before: The earlier publication.
        now: The later one.
    """

    def __init__(
        self,
        base: str,
        before: Publication,
        now: Publication,
        *,
        pictures: Pictures,
        storage: StorageConfig,
        trust: TrustConfig = TrustConfig(),
    ) -> None:
        """Open both versions.

        Raises:
            TableNotFound: One of them is not there any more.
        """
        self.before, self.now, self._pictures = before, now, pictures
        self._was, self._is = (_open(base, each, storage, trust) for each in (before, now))
        self._picture = pictures.column_of(self._is.head(LOOKED_AT, self._is.result_columns).to_arrow())

    def rows_to_ask(self, count: int) -> list[str]:
        """Return ids of rows that both versions hold: the first by id of the shards with the smallest numbers."""
        shards = held_shards(self._is.dataset)
        found = list[str]()
        both = shards.filter(are_among(shards, held_shards(self._was.dataset))) if count else shards[:0]
        for shard in both.to_pylist():
            ids = set.intersection(*(_ids(table, f"shard = {shard}") for table in (self._was, self._is)))
            found += islice(filter(self._is_one, sorted(ids)), 1)
            if len(found) >= count:
                break
        return found

    def ask(self, question: str, k: int, *, is_row: bool) -> AskedTwice:
        """Ask both in words, or by the id of a row.

        Raises:
            EncoderNotTrusted: The encoder needs files or code that nobody allows.
            SpaceMismatch: Words cannot be asked of the table.
        """
        before, now = (self._answers(table, question, k, is_row=is_row) for table in (self._was, self._is))
        words, png = self._row(question) if is_row else (question, None)
        was, is_now = _compared(before, now, "gone", "now"), _compared(now, before, "new", "was")
        return AskedTwice(words, question if is_row else "", png, was, is_now)

    def _is_one(self, name: str) -> bool:
        """Tell whether an id names one row in both versions."""
        return all(table.dataset.count_rows(f"id = {sql_texts([name])}") == 1 for table in (self._was, self._is))

    def _answers(self, table: VectorTable, question: str, k: int, *, is_row: bool) -> list[Answer]:
        hits = table.search(like=question, k=k) if is_row else table.search(question, k=k)
        return [
            Answer(row["id"], _words(row), row["score"], self._pictures.thumbnail(row.get(self._picture or "")))
            for row in hits.to_pylist()
        ]

    def _row(self, name: str) -> tuple[str, bytes | None]:
        """Return the words of a row, or its id, and its thumbnail."""
        (row,) = self._is.dataset.to_table(
            columns=self._is.result_columns, filter=f"id = {sql_texts([name])}"
        ).to_pylist()
        return _words(row) or name, self._pictures.thumbnail(row.get(self._picture or ""))


def ask_twice(
    base: str,
    log: Sequence[Publication],
    questions: Sequence[str] | int,
    pictures: Pictures,
    storage: StorageConfig,
    trust: TrustConfig = TrustConfig(),
) -> Comparison:
    """Ask what is published now, and what was published before it with another content.

    Args:
        base: Address of the table.
        log: All publications, the oldest first.
        questions: Words; or how many rows of the table ask.
        pictures: Finds the pictures of rows.
        storage: Where S3 is.
        trust: What a question in words may load.
    """
    shown = [(record, record.state) for record in log if record.state is not None]
    if not shown or log[-1].state is None:
        return Comparison(why_not="Nothing is published.")
    now, state = shown[-1]
    before = [record for record, other in shown if not state.is_same_content(other)]
    if not before:
        return Comparison(why_not="Nothing else was published before.")
    try:
        asker = Asker(base, before[-1], now, pictures=pictures, storage=storage, trust=trust)
    except TableNotFound as error:
        return Comparison(why_not=f"What was published before can be asked no more: {error}.")
    asked = asker.rows_to_ask(questions) if isinstance(questions, int) else questions
    answers = tuple(asker.ask(question, _K, is_row=isinstance(questions, int)) for question in asked)
    return Comparison(before[-1], now, answers, "" if answers else "No row is in both versions.")


def _open(base: str, publication: Publication, storage: StorageConfig, trust: TrustConfig) -> VectorTable:
    assert publication.state is not None
    uri = generation_uri(base, publication.state.generation)
    return VectorTable.open(uri, publication.state.version, storage, trust=trust)


def _ids(table: VectorTable, where: str) -> set[str]:
    return set(table.dataset.to_table(columns=["id"], filter=where)["id"].to_pylist())


def _words(row: Mapping[str, object]) -> str:
    texts = (value for name, value in row.items() if name != "id" and isinstance(value, str) and value.strip())
    text = " ".join(next(texts, "").split())
    return text if len(text) <= _TEXT else f"{text[: _TEXT - 1]}…"


def _compared(answers: Sequence[Answer], others: Sequence[Answer], lacking: str, otherwise: str) -> list[Answer]:
    """Say of each answer what became of it on the other side."""
    places, compared = {other.id: place for place, other in enumerate(others, 1)}, list[Answer]()
    for place, answer in enumerate(answers, 1):
        there = places.get(answer.id)
        change = lacking if there is None else f"{otherwise} {there}." if there != place else ""
        compared.append(replace(answer, change=change))
    return compared
