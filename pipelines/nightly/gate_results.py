"""Results of gates: compared with a bound of the config, with examples only where they fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from schemas.config.nightly import AuditConfig
from schemas.publications import GateResult

EXAMPLES = 5
Examples = Callable[[], tuple[str, ...]]


def nothing(gate: str, said: str) -> GateResult:
    """Return the result of a gate that has nothing to compare with: it passes, and says why."""
    return GateResult(gate=gate, passed=True, said=said)


@dataclass(frozen=True)
class Bounds:
    """The bounds of a config.

    Attributes:
        config: The config.
    """

    config: AuditConfig

    def at_most(
        self, gate: str, measured: float, setting: str, said: str, examples: Examples = tuple, rows: Examples = tuple
    ) -> GateResult:
        """Compare what must not be above a bound.

        Args:
            gate: Name of the gate.
            measured: What was measured; NaN does not pass.
            setting: Name of the bound in `[audit]`.
            said: A sentence about it.
            examples: Finds shards, or queries, that show why; asked only where the gate fails.
            rows: The same, of ids of rows.
        """
        return self._result(gate, measured, setting, said, examples, rows, passed=measured <= self._bound(setting))

    def at_least(
        self, gate: str, measured: float, setting: str, said: str, examples: Examples = tuple, rows: Examples = tuple
    ) -> GateResult:
        """Compare what must not be below a bound; see `at_most`."""
        return self._result(gate, measured, setting, said, examples, rows, passed=measured >= self._bound(setting))

    def _bound(self, setting: str) -> float:
        bound: float = getattr(self.config, setting)
        return bound

    def _result(
        self, gate: str, measured: float, setting: str, said: str, examples: Examples, rows: Examples, *, passed: bool
    ) -> GateResult:
        return GateResult(
            gate=gate,
            passed=passed,
            measured=measured,
            bound=self._bound(setting),
            setting=f"audit.{setting}",
            said=said,
            examples=() if passed else examples()[:EXAMPLES],
            rows=() if passed else rows()[:EXAMPLES],
        )
