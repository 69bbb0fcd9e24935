"""The folder of finished pieces of a shortlist table: `<lists>.parts.lance`.

A piece appears whole or not at all, under the name of its task: the names are the ledger, and writing a piece twice
changes nothing. Beside them lies what the run set out to do, so that another run can go on with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from lance.file import LanceFileSession

from pipelines.storage.addresses import sibling
from pipelines.storage.s3 import lance_options
from schemas.config import StorageConfig
from schemas.shortlists import PIECE, PIECES_PLAN, ShortlistSpec, check_pieces

_BEGUN = "begun.lance"


class Pieces:
    """Reads and writes the folder; columns of a piece: place of the query in its table, dim, id, score."""

    def __init__(self, lists_uri: str, storage: StorageConfig) -> None:
        """Name the folder; nothing is made until something is written."""
        self._uri = sibling(lists_uri, "parts")
        self._folder = LanceFileSession(self._uri, storage_options=lance_options(storage))

    def there(self) -> set[str]:
        """Return the names of all finished pieces."""
        return set(self._folder.list()) - {_BEGUN}

    def write(self, name: str, batches: Sequence[pa.RecordBatch]) -> None:
        """Write a piece, in place of an equal one."""
        self._write(name, batches, PIECE)

    def read(self, name: str) -> pa.Table:
        """Read a piece."""
        return self._folder.open_reader(name).read_all(batch_size=1 << 16).to_table()

    def begin(self, spec: ShortlistSpec, memory_bytes: int) -> None:
        """Note what a run sets out to do: what the lists hold, and the budget that decides how the work is cut."""
        row = {"spec": spec.to_json(), "memory_bytes": memory_bytes}
        self._write(_BEGUN, [pa.RecordBatch.from_pylist([row], PIECES_PLAN)], PIECES_PLAN)

    def begun(self) -> tuple[ShortlistSpec, int] | None:
        """Return what an unfinished run set out to do, if there is one."""
        if not self._folder.contains(_BEGUN):
            return None
        plan = self.read(_BEGUN)
        check_pieces(plan, self._uri)
        (row,) = plan.to_pylist()
        return ShortlistSpec.from_json(row["spec"], self._uri), row["memory_bytes"]

    def clear(self) -> None:
        """Remove everything, the note last: without it the pieces mean nothing."""
        for name in sorted(self._folder.list(), key=lambda name: name == _BEGUN):
            self._folder.delete_file(name)

    def _write(self, name: str, batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> None:
        with self._folder.open_writer(name, schema=schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
