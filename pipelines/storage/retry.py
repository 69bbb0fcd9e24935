"""The one rule for calling a remote store again after it failed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_PAUSES_S = (1.0, 2.0, 4.0, 8.0)


def retry_transient(uri: str, call: Callable[[], T], final: tuple[type[OSError], ...] = ()) -> T:
    """Call a remote store, and call it again with growing pauses while it fails. A local disk is called once.

    Only for calls that may happen twice, because nobody knows whether a call that failed was carried out. Lance itself
    retries reads and uploads, but no conditional write, and every commit is one.

    Args:
        uri: Address that the call is about; it decides between remote and local.
        call: The call; it must build its input itself each time.
        final: Errors that another try cannot change, such as a commit conflict; they are raised at once.

    Raises:
        OSError: The error of the last try.
    """
    for pause_s in _PAUSES_S if "://" in uri else ():
        try:
            return call()
        except final:
            raise
        except OSError:
            time.sleep(pause_s)
    return call()
