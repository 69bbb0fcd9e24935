"""Names of a vector table's columns: the vectors' own, and those that a kept column cannot have.

Owns the rule of names, and nothing else, so that configs can use it.
"""

from __future__ import annotations

VECTOR = "vector"

_RESERVED = {
    **dict.fromkeys(("id", "shard", "position", "input"), "the table has a column of its own of that name"),
    **dict.fromkeys(("score", "query", "_distance"), "a search adds a column of that name to its results"),
    **dict.fromkeys(
        ("_rowid", "_rowaddr", "_rowoffset", "_row_created_at_version", "_row_last_updated_at_version", "*"),
        "Lance reserves that name",
    ),
}

DOCUMENT = "document"
PASSAGE_COLUMNS = (DOCUMENT, "passage", "start", "stop")
"""Columns of a table of passages: the id of the document, the number of the passage, and its characters in the text."""


def column_name_problem(name: str) -> str | None:
    """Return why a kept column cannot have this name, or None if it can."""
    if name in _RESERVED:
        return _RESERVED[name]
    if name.startswith(VECTOR):
        return f"names that start with {VECTOR!r} are for vectors and their prefixes"
    if not name.strip():
        return "the name is empty"
    if "." in name or "`" in name:
        return "Lance takes no name with a dot or a backtick"
    if not name.isprintable():
        return "the name holds a character that cannot be printed"
    return None
