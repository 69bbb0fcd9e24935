"""Storage options that Lance asks for again before they expire.

Owns the one form in which Lance takes such options: those of a table that a catalogue describes. It is a module of its
own because the catalogue's client is slow to import, and few stores need it. Where the options come from is in `s3.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from lance_namespace import DescribeTableRequest, DescribeTableResponse, LanceNamespace


class RenewingOptions(LanceNamespace):
    """A catalogue of one table."""

    def __init__(self, uri: str, options_now: Callable[[], Mapping[str, str] | None], renew_s: float) -> None:
        """Keep where the options come from.

        Args:
            uri: Address of the table.
            options_now: Returns the options as of now.
            renew_s: Seconds after which Lance asks for them again.
        """
        self._uri, self._options_now, self._renew_s = uri, options_now, renew_s

    def namespace_id(self) -> str:
        """Name the catalogue, for Lance's own caches."""
        return f"mlake {self._uri} {id(self)}"

    def describe_table(self, request: DescribeTableRequest) -> DescribeTableResponse:
        """Return the table's address and options."""
        return DescribeTableResponse(location=self._uri, storage_options=self.options())

    def options(self) -> dict[str, str]:
        """Return the options as of now, with the time until which Lance keeps them."""
        until_ms = round((time.time() + self._renew_s) * 1000)
        return {**(self._options_now() or {}), "expires_at_millis": str(until_ms)}
