"""The fenced blocks of the documentation: what each holds, and why one is not run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+?) -->\n)?"
    r'^```(?P<language>[a-z]*)(?: title="(?P<title>[^"\n]+)")?\n(?P<text>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: What stands behind its fence; "" where nothing does.
        title: The file that it is, relative to where commands run; None for no file.
        reason: Why it is not run; None if it is.
        line: Number of the line of its fence, from 1.
    """

    page: Path
    line: int
    language: str
    title: str | None
    reason: str | None
    text: str


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page in order.

    Raises:
        AssertionError: A fence is not understood, such as one that is indented.
    """
    written = page.read_text()
    found = [
        Block(page, written.count("\n", 0, m.start("language")) + 1, m["language"], m["title"], m["reason"], m["text"])
        for m in _FENCE.finditer(written)
    ]
    assert 2 * len(found) == written.count("```"), f"{page}: a fence stands where the tests do not see it"
    return found


def commands_of(block: Block) -> Iterator[tuple[list[str], str | None]]:
    """Yield the words of each command of a block, and the file that is its standard input, if one is."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        stdin = None
        if "<" in words:
            at = words.index("<")
            stdin = words[at + 1]
            del words[at : at + 2]
        if words:
            yield words, stdin
