"""Errors are one tree, and their messages say what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from schemas import errors
from schemas.errors import LakeError, ShardsFailed, is_interrupt, nearest


def test_every_error_is_of_the_tree_and_drawn_in_it() -> None:
    drawn = errors.__doc__ or ""
    raised = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, LakeError)]
    assert len(raised) > 10
    for each in raised:
        assert each.__name__ in drawn


def test_failed_shards_are_counted_and_the_first_is_named() -> None:
    error = ShardsFailed({"a.tar": "broken", "b.tar": "gone"}, 7)
    assert "2 of 7 shards failed, all others are committed; first: a.tar: broken" in str(error)
    assert (error.failed["b.tar"], error.total) == ("gone", 7)


def test_the_nearest_word_is_offered_where_there_is_one() -> None:
    assert nearest("bacth", ["batch", "name"]) == "; did you mean 'batch'?"
    assert nearest("qqqq", ["batch", "name"]) == ""
    assert nearest("café", ["cafe\N{COMBINING ACUTE ACCENT}"]).startswith(
        r"; did you mean 'cafe\u0301', which looks the same"
    )


INTERRUPTED = """
import collections, os, random, signal, sys, threading, time
import lance, pyarrow as pa
from schemas.errors import is_interrupt

uri = sys.argv[1]
signal.signal(signal.SIGTERM, signal.default_int_handler)
lance.write_dataset(pa.table({"n": range(2000)}), uri)
reading, seen = threading.Event(), collections.Counter()

def strike():
    while reading.wait():
        reading.clear()
        time.sleep(random.uniform(0, 0.03))
        os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=strike, daemon=True).start()
while seen["KeyboardInterrupt"] < 20 or (seen["ArrowInvalid"] < 20 and seen.total() < 1000):
    try:
        reading.set()
        while True:
            lance.dataset(uri).to_table(filter="n > 5")
    except BaseException as error:
        assert is_interrupt(error), repr(error)
        seen[type(error).__name__] += 1
print(dict(seen))
"""


def test_an_interrupt_is_known_whatever_lance_and_arrow_make_of_it(tmp_path: Path) -> None:
    words = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "t.lance")]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stderr
    assert not is_interrupt(None)
    assert not is_interrupt(ValueError("KeyboardInterrupt is a word of this row"))
