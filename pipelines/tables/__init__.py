"""Vector tables: opening and searching them, and everything that changes them.

Readers need `table` and `rows`. Writers use `ledger` (rows, exactly once), `prefixes`, `indexes`, `rotations`, `runs`
and `maintenance`. All of them commit through `commits`, the only module that calls a Lance commit.
"""
