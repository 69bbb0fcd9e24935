"""How rows are held out: the record that a head's folder and the tables made through it carry.

Owns the record and the rule by which a key is held out. Reading keys from tables is in `pipelines.tables.splits`.
"""

from __future__ import annotations

import hashlib
import re
from typing import ClassVar

from pydantic import Field

from schemas.errors import ConfigError
from schemas.stored import Format, Stored

SPLIT_KEY = b"lake:split"


class Split(Stored):
    """A share of the rows that is held out, by a hash of a column. Rows with equal keys stay together.

    Attributes:
        column: Column whose value is a row's key.
        without: Words that are removed from a key before it is hashed.
        share: Share of the keys that is held out, about.
        seed: Seed of the hash.
    """

    stored_as: ClassVar[Format] = Format("the split of a head", error=ConfigError, remedy="run `mlake train` again")

    column: str = "id"
    without: tuple[str, ...] = ()
    share: float = Field(ge=0, le=1)
    seed: int = 0

    def holds_out(self, value: object) -> bool:
        """Tell whether the rows with this value in the column are held out."""
        key = str(value)
        if self.without:
            key = " ".join(word for word in re.findall(r"[\w'’]+", key) if word not in self.without)
        digest = hashlib.sha256(f"{self.seed}/{key}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64 < self.share

    def __str__(self) -> str:
        """Format as `20% of the rows by id, seed 0`."""
        without = f" without {', '.join(self.without)}" if self.without else ""
        return f"{self.share:.0%} of the rows by {self.column}{without}, seed {self.seed}"
