"""What a verb's failure means to the person who ran it: one sentence and an exit code.

Owns the translation of every exception: this project's errors, those that libraries are known to raise, and those that
nobody foresaw, which are faults of this program. Imports no library: it knows their errors by name.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import traceback
from dataclasses import dataclass

from schemas.errors import (
    CLUSTER_LOST_CODE,
    ClusterLost,
    ClusterUnreachable,
    LakeError,
    NoRoomForActors,
    RunError,
    reason_of,
)
from schemas.redaction import redact

INCOMPLETE, REFUSED = 1, 2
# The first that an error is an instance of.
_CODES = {ClusterUnreachable: 3, NoRoomForActors: 4, ClusterLost: CLUSTER_LOST_CODE, RunError: INCOMPLETE}
_RESUMES = "fix the cause and run the same command again: it resumes"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """What is printed, and the exit code."""

    text: str
    code: int


@dataclass(frozen=True)
class _Known:
    """An error of a library.

    Attributes:
        type: `module.Name` of the exception or of one of its parents, without the modules between the first and it.
        message: Found in its message.
        text: Printed, with `{reason}`.
        code: Exit code.
    """

    type: str
    message: str
    text: str
    code: int


_KNOWN = (
    _Known("builtins.ValueError", r"Query Execution error", "the SQL cannot be evaluated: {reason}", REFUSED),
    _Known("builtins.ValueError", r"^(LanceError\(\w+\): )?Invalid user input", "{reason}", REFUSED),
    _Known("builtins.UnicodeEncodeError", "surrogates", "a word of the command is not UTF-8: {reason}", REFUSED),
    _Known("builtins.ValueError", r"^LanceError\(IO\)", "{reason}; " + _RESUMES, INCOMPLETE),
    _Known("botocore.NoCredentialsError", "", "{reason}; set them as boto3 reads them, or storage.profile", REFUSED),
    _Known("botocore.PartialCredentialsError", "", "{reason}", REFUSED),
    _Known("botocore.ClientError", "", "the store refuses: {reason}; " + _RESUMES, INCOMPLETE),
    _Known("botocore.BotoCoreError", "", "the store cannot be used: {reason}; " + _RESUMES, INCOMPLETE),
    _Known("torch.OutOfMemoryError", "", "the GPU's memory is full; lower encoder.batch, or run.batch", INCOMPLETE),
    _Known("builtins.MemoryError", "", "memory is full: {reason}; lower limits.buffer_bytes or the batch", INCOMPLETE),
    _Known("ray.RayError", "", "the cluster failed: {reason}; " + _RESUMES, INCOMPLETE),
    # Ray raises it where its own start takes too long, and where an address means nothing to it.
    _Known("builtins.RuntimeError", r"(?i)\bray\b", "Ray cannot be used: {reason}; " + _RESUMES, INCOMPLETE),
    # A disk, a store or a cluster that refuses.
    _Known("builtins.OSError", "", "{reason}; " + _RESUMES, INCOMPLETE),
)


def explain(error: BaseException) -> Failure:
    """Return what to print for an error, and the exit code.

    An error that nobody foresaw is called internal; its traceback goes to a file that the text names.
    """
    # What Ray carries over from another process holds the error that was raised there.
    cause = getattr(error, "cause", None)
    if isinstance(cause, LakeError):
        error = cause
    if isinstance(error, LakeError):
        return Failure(str(error), next((code for kind, code in _CODES.items() if isinstance(error, kind)), REFUSED))
    parents = {f"{parent.__module__.split('.')[0]}.{parent.__qualname__}" for parent in type(error).__mro__}
    for known in _KNOWN:
        if known.type in parents and re.search(known.message, str(error)):
            _LOG.debug("the error as it was raised", exc_info=error)
            return Failure(known.text.format(reason=reason_of(error)), known.code)
    path = _write_traceback(error)
    text = (
        f"internal: {type(error).__name__}: {reason_of(error)}; this is a fault of mlake, not of your command; please "
        f"report it with {path}"
    )
    return Failure(text, INCOMPLETE)


def _write_traceback(error: BaseException) -> str:
    """Write the traceback into a new file that only this user can read; return its path."""
    lines = redact("".join(traceback.format_exception(error)))
    _LOG.debug("%s", lines)
    try:
        number, path = tempfile.mkstemp(prefix="mlake-internal-", suffix=".log")
    except OSError:
        return "the traceback that is logged at level DEBUG (no temporary file can be written)"
    with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(lines)
    return path
