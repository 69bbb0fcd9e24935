"""Which faults there are, how their runs may end, and how often each is met."""

from __future__ import annotations

import signal
from collections.abc import Callable

from tests.chaos.faults import (
    Run,
    impatient_cleaner,
    kill_actors,
    kill_clean,
    kill_cleaner,
    kill_driver,
    kill_funnel,
    kill_local_cluster,
    kill_node,
    kill_rotate,
    lose_companion,
    rewrite_shards,
    stop_driver,
    suspended_driver,
    two_drivers,
    undisturbed,
)
from tests.chaos.nights import nights

# Exit codes that a run may end with. Where the store fails, it may give up for the time being.
_COMPLETE, _STOPPED, _NOT_COMPLETE, _KILLED = 0, 130, 1, -signal.SIGKILL
FAULTS: dict[str, Callable[[Run], list[int]]] = {
    "undisturbed": undisturbed,
    "kill_driver": kill_driver,
    "kill_actors": kill_actors,
    "kill_node": kill_node,
    "two_drivers": two_drivers,
    "stop_driver": stop_driver,
    "kill_local_cluster": kill_local_cluster,
    "bad_network": undisturbed,  # the network is what disturbs it
    "impatient_cleaner": impatient_cleaner,
    "suspended_driver": suspended_driver,
    "kill_cleaner": kill_cleaner,
    "kill_clean": kill_clean,
    "lose_companion": lose_companion,
    "rewrite_shards": rewrite_shards,
    "kill_rotate": kill_rotate,
    "kill_funnel": kill_funnel,
    "nights": nights,
}
OWN_LAKE = {"nights"}
"""Faults that make a lake of their own, and compare it themselves."""
ALLOWED: dict[str, tuple[int, ...]] = {
    "undisturbed": (_COMPLETE,),
    "kill_driver": (_COMPLETE, _KILLED),
    "kill_actors": (_COMPLETE,),
    "kill_node": (_COMPLETE,),
    "two_drivers": (_COMPLETE, _KILLED),
    "stop_driver": (_COMPLETE, _STOPPED),
    "kill_local_cluster": (_COMPLETE, _KILLED, _NOT_COMPLETE),
    "bad_network": (_COMPLETE, _NOT_COMPLETE),
    "impatient_cleaner": (_COMPLETE, _NOT_COMPLETE),
    "suspended_driver": (_COMPLETE, _NOT_COMPLETE),
    "kill_cleaner": (_COMPLETE,),
    "kill_clean": (_COMPLETE, _KILLED),
    "lose_companion": (_COMPLETE, _KILLED),
    "rewrite_shards": (_COMPLETE, _NOT_COMPLETE),
    "kill_rotate": (_COMPLETE, _KILLED),
    "kill_funnel": (_COMPLETE, _KILLED),
    "nights": (_COMPLETE, _KILLED, _NOT_COMPLETE),
}
# Of a hundred trials, how many meet each fault.
SHARES = {
    "undisturbed": 2,
    "kill_driver": 13,
    "kill_actors": 13,
    "kill_node": 7,
    "two_drivers": 11,
    "stop_driver": 5,
    "kill_local_cluster": 4,
    "bad_network": 13,
    "impatient_cleaner": 8,
    "suspended_driver": 8,
    "kill_cleaner": 5,
    "kill_clean": 4,
    "lose_companion": 5,
    "rewrite_shards": 4,
    "kill_rotate": 4,
    "kill_funnel": 4,
    "nights": 3,
}
