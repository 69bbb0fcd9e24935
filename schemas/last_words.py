"""What is written before a process is ended from one of its threads, while its main thread hangs and can do nothing.

`pipelines` know what is to be written, and `cluster` when the process must end; neither imports the other. Owns no code
that writes or ends anything.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from schemas.errors import LakeError

LastWord = Callable[[BaseException], None]
"""Takes the error with which the process ends."""
_words: list[LastWord] = []


@contextmanager
def last_word(say: LastWord) -> Iterator[None]:
    """While entered, `say` is called if the process must be ended."""
    _words.append(say)
    try:
        yield
    finally:
        _words.remove(say)


def say_last_words(error: BaseException, within_s: float) -> None:
    """Call everything that is to be said, the latest first; what takes longer or fails is given up."""

    def say_all() -> None:
        for say in reversed(_words):
            with suppress(OSError, LakeError):
                say(error)

    thread = threading.Thread(target=say_all, name="last-words", daemon=True)
    thread.start()
    thread.join(within_s)
