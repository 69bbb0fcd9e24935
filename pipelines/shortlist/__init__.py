"""Per-dimension shortlists: prefix columns, their indexes, exact top-K tables, and how well the dims agree."""

from pipelines.tables.indexes import index_prefix
from pipelines.tables.prefixes import add_prefixes

__all__ = ["add_prefixes", "index_prefix"]
