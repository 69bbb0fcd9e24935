"""Stored formats: how each is numbered, and the one way to read it.

Everything the project writes down stays readable by every later release. One rule holds for JSON and for tables:

- A format has a number. Number 1 is the first release's: a record without a number is of format 1. It is not written
  where the first release wrote none, because that release refuses a key it does not know. A higher number stands in
  the record as `format`, with the `release` that introduced it; in a table both stand in the schema's metadata.
- A record of an older format is upgraded step by step. A setting that a record lacks takes its default.
- A record of a newer format is refused, with the release that reads it.
- A malformed record is refused with a `LakeError` that says what is wrong and what to do, never with a traceback.

Owns the rule. The formats are in the modules that own what they describe.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas import __version__
from schemas.errors import LakeError, TableError

_NUMBER, _RELEASE = "format", "release"
_TABLE_NUMBER, _TABLE_RELEASE = b"lake:format", b"lake:release"
_SHOWN_PROBLEMS = 3

Fingerprint = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
"""Hash of what a name stands for. It becomes a part of addresses, so nothing else is accepted in its place."""


@dataclass(frozen=True)
class Format:
    """The name and number of a stored format.

    Attributes:
        what: The format's name in messages.
        releases: The release that introduced each number, from number 1 on.
        error: The error for what cannot be read.
        remedy: The advice that ends a message about malformed content.
        is_numbered_from_first: Whether number 1 is written as well, as the first release did in some files.
    """

    what: str
    releases: tuple[str, ...] = ("0.1",)
    error: type[LakeError] = TableError
    remedy: str = "restore an earlier version of the table, or write it again"
    is_numbered_from_first: bool = False

    @property
    def number(self) -> int:
        """The number that this release writes, and the highest that it reads."""
        return len(self.releases)

    def malformed(self, where: str, problem: str) -> LakeError:
        """Return the error for malformed content at an address."""
        return self.error(f"{where}: {self.what} {problem}; {self.remedy}")

    def check_number(self, number: object, release: object, where: str) -> int:
        """Return a number that this release reads.

        Args:
            number: The number as it was read.
            release: The release that introduced it, if the record names one.
            where: Address, for the message.

        Raises:
            LakeError: The format is newer than this release, or the number is malformed.
        """
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise self.malformed(where, f"has the malformed format number {number!r}")
        if number > self.number:
            needed = f"matryoshka-lake {release} or newer" if release else "a newer matryoshka-lake"
            raise self.error(
                f"{where}: {self.what} has format {number} and needs {needed}; this is matryoshka-lake "
                f"{__version__}, which reads formats up to {self.number}; run: pip install -U matryoshka-lake"
            )
        return number

    def read_object(self, text: str | bytes, where: str) -> tuple[dict[str, Any], int]:
        """Parse JSON that holds an object; return it without its format number, and that number.

        Raises:
            LakeError: It is not JSON, not an object, or of a newer format.
        """
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self.malformed(where, f"is not valid JSON: {error}") from None
        if not isinstance(record, dict):
            raise self.malformed(where, f"must be a JSON object, not {type(record).__name__}")
        return record, self.check_number(record.pop(_NUMBER, 1), record.pop(_RELEASE, None), where)

    def check_columns(self, found: pa.Schema, columns: pa.Schema, where: str) -> None:
        """Refuse a table that this release cannot read. Columns that are not asked for may be there as well.

        Args:
            found: Schema of the table.
            columns: The columns that it must have, with their types.
            where: Address of the table.

        Raises:
            LakeError: The table is of a newer format, lacks a column, or has one of another type.
        """
        metadata = found.metadata or {}
        number, release = (metadata.get(key, b"").decode(errors="replace") for key in (_TABLE_NUMBER, _TABLE_RELEASE))
        self.check_number(int(number) if number.isdecimal() else number or 1, release, where)
        for column in columns:
            if column.name not in found.names:
                raise self.malformed(where, f"has no column {column.name!r}")
            if (actual := found.field(column.name).type) != column.type:
                raise self.malformed(where, f"has a column {column.name!r} of type {actual}, not {column.type}")


class Stored(BaseModel):
    """A JSON record that is written down: unknown keys are refused, nothing changes after reading.

    Attributes:
        stored_as: Name and number of its format.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stored_as: ClassVar[Format]

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Self:
        """Read a record of this format or of an older one.

        Args:
            text: What `to_json` wrote, in this release or an earlier one.
            where: Address of the table or file, for the message.

        Raises:
            LakeError: The record is of a newer format, or malformed. The class is the one that `stored_as` names.
        """
        record, number = cls.stored_as.read_object(text, where)
        for older in range(number, cls.stored_as.number):
            record = cls.upgrade(record, older)
        try:
            return cls.model_validate_json(json.dumps(record))
        except ValidationError as error:
            raise cls.stored_as.malformed(where, f"is malformed: {_problems(error)}") from None

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read the record that a file holds.

        Raises:
            LakeError: The file cannot be read, or holds no such record.
        """
        try:
            text = path.read_bytes()
        except OSError as error:
            raise cls.stored_as.malformed(str(path), f"cannot be read: {error.strerror or error}") from None
        return cls.from_json(text, str(path))

    @classmethod
    def upgrade(cls, record: dict[str, Any], number: int) -> dict[str, Any]:
        """Convert a record of format `number` to the next format. Where only settings were added, nothing changes."""
        return record

    def to_json(self, indent: int | None = None) -> str:
        """Return the record as JSON, with the number of its format where that is written."""
        text, stored_as = self.model_dump_json(indent=indent), self.stored_as
        numbered: dict[str, int | str] = {}
        if stored_as.number > 1:
            numbered = {_NUMBER: stored_as.number, _RELEASE: stored_as.releases[-1]}
        elif stored_as.is_numbered_from_first:
            numbered = {_NUMBER: 1}
        start = "" if indent is None else "\n" + " " * indent
        space = "" if indent is None else " "
        return "{" + "".join(f"{start}{json.dumps(k)}:{space}{json.dumps(v)}," for k, v in numbered.items()) + text[1:]


def _problems(error: ValidationError) -> str:
    problems = error.errors()
    said = []
    for problem in problems[:_SHOWN_PROBLEMS]:
        key = ".".join(map(str, problem["loc"])) or "the record"
        is_unknown = problem["type"] == "extra_forbidden"
        said.append(f"{key}: {'unknown key' if is_unknown else problem['msg'].removeprefix('Value error, ')}")
    more = len(problems) - len(said)
    return "; ".join(said) + (f"; and {more} more" if more else "")
