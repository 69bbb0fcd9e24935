"""Every error that this project raises on purpose.

LakeError
├── ConfigError            the config file or an override is wrong; exit code 2
├── InputError             a source cannot be read
│   ├── ShardNotFound      a pattern matched nothing, or a listed shard is gone
│   ├── ShardUnreadable    a shard cannot be opened, or ends before its time
│   │   └── ShardChanged   a shard is another one than was listed
│   └── FieldNotFound      a shard has no such field, or the field has the wrong type
├── TableError             a table cannot serve the request
│   ├── TableNotFound      nothing is at that address
│   ├── TableExists        something is at that address already
│   ├── SpaceMismatch      vectors of two spaces would be mixed or compared
│   └── ColumnMismatch     rows would not fit the table's columns, or are made from other fields
│       └── ChunkMismatch  rows are other passages of the same texts
├── DimError               a vector cannot be cut there
│   ├── DimNotInLadder     the space was not trained for that dim
│   └── NotMatryoshka      the space was trained for its full width only
├── EncoderError           an encoder cannot be loaded or used
│   ├── EncoderNotFound    the registry has no such name
│   ├── EncoderNotTrusted  a table or a model asks for code or files that this user's config does not name
│   ├── EncoderRefuses     a server answers no request at all; it ends a run
│   ├── EncoderMismatch    an encoder does not make the vectors of its model's reference implementation
│   └── DependencyMissing  an optional library is not installed
└── RunError               a run did not complete
    ├── ShardsFailed       some shards failed, the others are committed; exit code 1
    ├── ShardsDamaged      some shards are damaged, their readable part is committed; exit code 1
    ├── ClusterUnreachable  no Ray cluster answers; exit code 3
    ├── ClusterLost        the head of the cluster stopped to answer in the middle of a run; exit code 5
    ├── NoRoomForActors    no node of the cluster is large enough for an actor; exit code 4
    ├── NightRunning       another night is at work on the table; exit code 1
    ├── PublicationConflict  another command moved `prod` meanwhile; exit code 1
    ├── AuditFailed        an audit refuses a publication, `prod` stays; exit code 1
    ├── RunExpired         another process declared this run dead and may have removed its files; exit code 1
    └── TooManyRejects     the share of rejects is above limits.max_reject_fraction; exit code 1

Every message says what happened, where, what is allowed, and what to do next.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable

from schemas.printable import counted
from schemas.redaction import redact

CLUSTER_LOST_CODE = 5
"""Exit code of `ClusterLost`; `jobs.failures` has the others."""


class LakeError(Exception):
    """Base of every error raised on purpose. Its text is for the person who ran the command, and holds no secret."""

    def __str__(self) -> str:
        """Return the message without secret parts of addresses."""
        return redact(super().__str__())


class ConfigError(LakeError):
    """A config file, an override or a combination of settings is wrong."""


class InputError(LakeError):
    """A source cannot be read."""


class ShardNotFound(InputError):
    """A shard pattern matched nothing, or a listed shard is gone."""


class ShardUnreadable(InputError):
    """A shard cannot be opened, or ends before its time."""


class ShardChanged(ShardUnreadable):
    """A shard has changed since it was listed, perhaps while it was read."""


class FieldNotFound(InputError):
    """A shard has no such field, or the field has a type that cannot be embedded."""


class TableError(LakeError):
    """A table cannot serve the request."""


class TableNotFound(TableError):
    """No table is at that address."""


class TableExists(TableError):
    """A table is at that address already."""


class SpaceMismatch(TableError):
    """Vectors of two spaces would be mixed or compared.

    Attributes:
        differing: Each setting that differs, with both values.
    """

    def __init__(self, message: str, differing: str = "") -> None:
        """Keep both."""
        super().__init__(message)
        self.differing = differing


class ColumnMismatch(TableError):
    """Rows would not fit the columns of a table, or are made from other fields than its rows."""


class ChunkMismatch(ColumnMismatch):
    """The rows of a table are cut from texts in another way, and are made as the config asks otherwise.

    Attributes:
        differing: Both values of `[chunk]`.
    """

    def __init__(self, message: str, differing: str) -> None:
        """Keep both."""
        super().__init__(message)
        self.differing = differing


class DimError(LakeError):
    """A vector cannot be cut at the asked dim."""


class DimNotInLadder(DimError):
    """The space was not trained for that dim."""


class NotMatryoshka(DimError):
    """The space was trained for its full width only."""


class EncoderError(LakeError):
    """An encoder cannot be loaded or used."""


class EncoderNotFound(EncoderError):
    """The registry has no encoder of that name."""


class EncoderNotTrusted(EncoderError):
    """A table or a model asks for code or files that this user's config does not name."""


class EncoderRefuses(EncoderError):
    """A served encoder refuses every input, a harmless one included, so the cause is its description or its key."""


class EncoderMismatch(EncoderError):
    """An encoder does not make the vectors of the reference implementation of its model."""


class DependencyMissing(EncoderError):
    """An optional library is not installed."""


class RunError(LakeError):
    """A run did not complete."""


class ShardsFailed(RunError):
    """Some shards failed. All others are committed."""

    def __init__(self, failed: dict[str, str], total: int) -> None:
        """Name the failed shards.

        Args:
            failed: Reason of the last failure, by uri of the shard.
            total: Number of shards in the run.
        """
        self.failed = failed
        self.total = total
        uri, reason = next(iter(failed.items()))
        super().__init__(
            f"{len(failed)} of {counted(total, 'shard')} failed, all others are committed; first: {uri}: {reason}; "
            "fix the cause and run the same command again: only the failed shards are embedded again"
        )


class ShardsDamaged(RunError):
    """Some shards are truncated or partly corrupt. What could be read of them is committed."""


class RunExpired(RunError):
    """A run was taken for dead, and its uncommitted files were deleted."""


class ClusterUnreachable(RunError):
    """No Ray cluster answers at an address."""


class ClusterLost(RunError):
    """The head of the cluster stopped to answer in the middle of a run."""


class NoRoomForActors(RunError):
    """No node of the cluster is large enough for an actor of the run."""


class NightRunning(RunError):
    """Another night is at work on the table."""


class PublicationConflict(RunError):
    """Another command has moved `prod` since this one looked."""


class AuditFailed(RunError):
    """An audit refuses a publication; `prod` stays as it was."""


class TooManyRejects(RunError):
    """The share of rejected samples is above `limits.max_reject_fraction`."""

    def __init__(self, said: str, example: str) -> None:
        """Say it, with a sample that shows it.

        Args:
            said: The message without the sample.
            example: The sample, and what is wrong with it.
        """
        self.said = said
        super().__init__(said, example)

    def __str__(self) -> str:
        """Return the message with the sample."""
        return redact("; for example ".join(self.args))


def is_interrupt(error: BaseException | None) -> bool:
    """Tell whether an error is Ctrl-C or SIGTERM. A read of Lance that is interrupted raises Arrow's error about it."""
    return isinstance(error, KeyboardInterrupt) or "External error: KeyboardInterrupt" in str(error)


def stored_text(error: BaseException | None) -> str:
    """Return an error's message as records keep it: without the sample that it names, which may be erased one day."""
    cause = getattr(error, "cause", None) or error  # Ray carries over what was raised in another process
    return cause.said if isinstance(cause, TooManyRejects) else str(error or "")


def reason_of(error: BaseException) -> str:
    """Return an error's message on one line, without secrets; Lance ends its messages with the line of its source."""
    text = re.sub(r",? ?\S*\.rs:\d+:\d+\S*", "", redact(str(error)))
    return " ".join(text.split()) or type(error).__name__


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the known word closest to `word`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    if close and unicodedata.normalize("NFC", close[0]) == unicodedata.normalize("NFC", word):
        return f"; did you mean {close[0]!a}, which looks the same but is written with other characters?"
    return f"; did you mean {close[0]!r}?" if close else ""


class RowsLeftOut(UserWarning):
    """Rows whose vectors have no direction, as another tool may write them, are in no result of a search."""


class FunnelWarning(UserWarning):
    """A funnel answers more slowly, or perhaps with less recall, than its card says, or saves no time at all."""
