"""Which work is late: it has run for much longer than the work that is done would have taken.

Owns that judgement only; `actors.py` gives late work to a second actor. A frozen process, a machine that is slow and a
disk that hangs look the same from outside, and Ray reports none of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from cluster.slots import Task

_REMEMBERED = 1000


@dataclass
class Stragglers:
    """Learns from the work that is done how long other work should take.

    Attributes:
        weigh: Returns the size of an item in any unit; twice the size may take twice the time.
        after_s: Work is never late before that, in seconds.
        factor: Work is late after this many times the time that was usual for its size.
    """

    weigh: Callable[[Any], float]
    after_s: float = 30.0
    factor: float = 3.0
    _paces: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    def note(self, task: Task, now_s: float) -> None:
        """Learn from a task that is done."""
        self._paces.append((now_s - task.began_s) / self._size(task))

    def late(self, tasks: Iterable[Task], now_s: float) -> list[Task]:
        """Return the tasks that are late and run once, those that began first in front."""
        if not self._paces:
            return []
        usual = median(self._paces)
        late = {
            id(task): task
            for task in tasks
            if task.calls == 1 and now_s - task.began_s > max(self.after_s, self.factor * usual * self._size(task))
        }
        return sorted(late.values(), key=lambda task: task.began_s)

    def _size(self, task: Task) -> float:
        return max(1.0, self.weigh(task.item))
