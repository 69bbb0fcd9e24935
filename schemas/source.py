"""What the rows of a vector table are made from, as the table's schema remembers it, and the columns of passages."""

from __future__ import annotations

from typing import ClassVar

import pyarrow as pa
from pydantic import Field

from schemas.column_names import PASSAGE_COLUMNS
from schemas.records import IdPrefix, Modality, Side
from schemas.stored import Format, Stored

SOURCE_KEY = b"lake:source"


class TableSource(Stored):
    """What the rows of a table are made from. The kept columns name their fields themselves (`FIELD_KEY`).

    Attributes:
        id: Field that names a sample; None where samples are named by their shard and position.
        id_prefix: What is put before the ids of the shards.
        modality: Kind of the input.
        field: Field that was embedded; `;` separates alternatives.
        side: The side of the encoder: `document` or `query`.
        chunk: How texts are cut into passages, in words; None where a sample is one row.
    """

    stored_as: ClassVar[Format] = Format("the source in the table's schema")

    id: str | None
    id_prefix: IdPrefix = "none"
    modality: Modality
    field: str
    side: Side
    chunk: str | None = Field(default=None, exclude_if=lambda chunk: chunk is None)

    @property
    def named_by(self) -> str:
        """How samples get their ids, as a config says it; the same sample has the same id only where this is equal."""
        named = f'input.id = "{self.id}"' if self.id is not None else "no input.id"
        return f'{named} and input.id_prefix = "{self.id_prefix}"'


def source_of(schema: pa.Schema, where: str) -> TableSource | None:
    """Read what the rows of a table are made from; None where the table does not say it, as in the first release.

    Raises:
        TableError: The record is of a newer format, or malformed.
    """
    written = (schema.metadata or {}).get(SOURCE_KEY)
    return None if written is None else TableSource.from_json(written, where)


def passage_fields() -> list[pa.Field]:
    """Return the columns that name a passage: its document, its number in it, and its characters `text[start:stop]`."""
    return [*map(pa.field, PASSAGE_COLUMNS, (pa.string(), pa.int32(), pa.int64(), pa.int64()))]
