"""Text that comes from data, made safe to print: characters that command a terminal become visible signs."""

from __future__ import annotations

_KEPT = "\n\t"
_SIGNS = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in _KEPT},
    0x7F: "\u2421",
    **dict.fromkeys(range(0x80, 0xA0), "\ufffd"),
    **dict.fromkeys([0x061C, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd"),
    **dict.fromkeys(range(0xD800, 0xE000), "\ufffd"),
}


def printable(text: str) -> str:
    r"""Replace the characters that command a terminal by signs of one column; line ends and tabs stay.

    Example:
        >>> printable("\x1b[31mred\r")
        '␛[31mred␍'
    """
    return text.translate(_SIGNS)


def counted(count: int, what: str) -> str:
    """Return a number with its noun, which is one of those that take an s: `1 shard`, `2,000 shards`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
