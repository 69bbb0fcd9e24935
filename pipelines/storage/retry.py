"""The one rule for calling a store again after it failed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_PAUSES_S = (1.0, 2.0, 4.0, 8.0)


def retry_transient(uri: str, call: Callable[[], T]) -> T:
    """Call again, with growing pauses, while a remote store fails; a local disk that refuses is not asked twice.

    For calls that may be carried out twice: whether a store that failed has done what it was asked, nobody knows. Lance
    itself repeats reads and uploads, but no conditional write, such as every commit is.

    Args:
        uri: What the call is about.
        call: What to do.

    Raises:
        OSError: The last one, when patience is at its end.
    """
    for pause_s in _PAUSES_S if "://" in uri else ():
        try:
            return call()
        except OSError:
            time.sleep(pause_s)
    return call()
