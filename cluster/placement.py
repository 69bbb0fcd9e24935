"""How large a pool of actors is, by what the cluster has free, and what this machine can never hold.

Owns all that is asked of Ray's list of resources.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isclose

import ray
from ray.autoscaler.v2.sdk import get_cluster_status

from schemas.config import ClusterConfig
from schemas.errors import ConfigError
from schemas.printable import counted

_MAX_ACTORS_PER_CPU = 16
_NODES_LISTED = 4
# Of a CPU; a little less than one, since `largest_share` leaves a sliver.
_LEAST_SHARE = 0.98


@dataclass(frozen=True)
class PoolSize:
    """How many actors a pool has, and what each holds.

    Attributes:
        actors: How many.
        cpus: CPUs that each holds; may be a fraction.
        gpus: GPUs that each holds.
        threads: Threads that each should use for arithmetic and decoding.
        in_flight: Items that each works on at once.
        feeders: Actors of one CPU each that prepare for the others.
        wait_s: Seconds to wait for a node that can hold an actor, where the cluster has none.
        grows: The pool takes nodes that join the cluster while it works.
        modules: Local Python packages and files of which each gets a copy.
    """

    actors: int
    cpus: float
    gpus: float
    threads: int
    in_flight: int
    feeders: int = 0
    wait_s: float = 600.0
    grows: bool = False
    modules: tuple[str, ...] = ()


def plan_pool(config: ClusterConfig) -> PoolSize:
    """Turn the cluster block of a config into numbers, by what the cluster has free.

    One actor per GPU; without GPUs one per machine, with all of its CPUs. Feeders: where there are GPUs, one for each
    CPU of the machines that have none.

    Raises:
        ConfigError: The local cluster can never hold the pool, which would wait for ever. Another cluster may grow.
    """
    gpus, machines = int(_resources().get("GPU", 0)), _machines()
    is_auto = config.actors == "auto"
    actors = (gpus or len(machines)) if config.actors == "auto" else config.actors
    feeders = config.feeders
    if feeders == "auto":
        feeders = int(sum(machine.get("CPU", 0) for machine in machines if not machine.get("GPU"))) if gpus else 0
    gpus_each = (1.0 if gpus else 0.0) if config.gpus_per_actor == "auto" else config.gpus_per_actor
    cpus_each = _share(actors, gpus_each, feeders) if config.cpus_per_actor == "auto" else config.cpus_per_actor
    threads = max(1, round(cpus_each)) if config.decode_threads == "auto" else config.decode_threads
    wait_s = config.wait_for_node_s
    size = PoolSize(actors, cpus_each, gpus_each, threads, config.leases_per_actor, feeders, wait_s, grows=is_auto)
    if not os.environ.get("RAY_ADDRESS"):
        _check_fits(size, _resources())
    return size


def room_for_more(size: PoolSize) -> int:
    """Return how many more actors of a pool the cluster has free room for, by the rule of `plan_pool` for `auto`.

    Args:
        size: Of the pool as it is; one that does not grow has room for none.
    """
    if not size.grows:
        return 0
    rule = int(_resources().get("GPU", 0) / size.gpus) if size.gpus else len(_machines())
    needs = {"CPU": size.cpus, "GPU": size.gpus}
    free = ray._private.state.available_resources_per_node().values()  # type: ignore[no-untyped-call]
    fit = sum(int(min(node.get(kind, 0.0) / count for kind, count in needs.items() if count)) for node in free)
    return max(0, min(rule - size.actors, fit))


def _machines() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _free_by_node() -> list[dict[str, float]]:
    """Return what each machine has free. Ray reports what an actor held for a moment after it has ended."""
    for waited_s in (0.0, 0.5, 1.0):
        time.sleep(waited_s)
        free: list[dict[str, float]] = [*ray._private.state.available_resources_per_node().values()]  # type: ignore[no-untyped-call]
        if sum(node.get("CPU", 0.0) for node in free) >= _resources().get("CPU", 0.0):
            break
    return free


def _share(actors: int, gpus_each: float, feeders: int) -> float:
    """Return the CPUs of each actor: what is free, or where that is less than one, what the machines have.

    Where other jobs hold nearly all, an actor that took the sliver that is left would keep it for hours after they
    ended. It waits for them instead, which the pool says.
    """

    def share(nodes: list[dict[str, float]]) -> float:
        fitting = [node for node in nodes if not gpus_each or node.get("GPU")]
        cpus = [node.get("CPU", 0.0) for node in (fitting or nodes)]
        return largest_share(cpus if gpus_each else _without_feeders(cpus, feeders), actors)

    free = share(_free_by_node())
    return free if free >= _LEAST_SHARE else max(free, share(_machines()))


def largest_share(free: Sequence[float], actors: int) -> float:
    """Return the most CPUs that each of some actors can hold, if every one has to find room on one machine.

    A sliver of a CPU is left for others, since an actor that does not fit waits without an error.

    Args:
        free: Free CPUs of each machine.
        actors: How many there are.
    """
    shares = {cpus / number for cpus in free for number in range(1, actors + 1)}
    fitting = [share for share in shares if share and sum(int(cpus / share + 1e-9) for cpus in free) >= actors]
    return max(0.01, max(fitting, default=0.0) - 0.01)


def _without_feeders(free: Sequence[float], feeders: int) -> list[float]:
    """Take a CPU for each feeder from the machines that have most."""
    left = list(free)
    for _ in range(feeders if left else 0):
        left[left.index(max(left))] -= 1
    return [max(0.0, cpus) for cpus in left]


def _check_fits(size: PoolSize, has: dict[str, float]) -> None:
    """Refuse a pool that this machine cannot hold."""
    cpus, gpus = has.get("CPU", 0.0), has.get("GPU", 0.0)
    remedy = "lower it, or set RAY_ADDRESS to a cluster that has more"
    if size.cpus > cpus:
        raise ConfigError(f"cluster.cpus_per_actor={size.cpus:g}, and this machine has {cpus:g} CPUs; {remedy}")
    if size.gpus > gpus:
        raise ConfigError(f"cluster.gpus_per_actor={size.gpus:g}, and this machine has {gpus:g} GPUs; {remedy}")
    if size.actors > _MAX_ACTORS_PER_CPU * max(1.0, cpus):
        most = int(_MAX_ACTORS_PER_CPU * max(1.0, cpus))
        raise ConfigError(
            f"cluster.actors={size.actors}, and this machine has {cpus:g} CPUs, for up to {counted(most, 'actor')}; "
            f"{remedy}"
        )
    if size.feeders and size.feeders + size.actors * size.cpus > cpus:
        raise ConfigError(
            f"cluster.feeders={size.feeders} take a CPU each beside {counted(size.actors, 'actor')} of {size.cpus:g} "
            f"CPUs, and this machine has {cpus:g} CPUs; {remedy}"
        )


def check_workers(workers: int) -> None:
    """Refuse more training workers than this machine can hold; each holds a GPU where there is one.

    Raises:
        ConfigError: There are too many. Another cluster may grow.
    """
    has = _resources()
    kind = "GPU" if has.get("GPU") else "CPU"
    most = int(has.get("GPU", 0)) or int(_MAX_ACTORS_PER_CPU * max(1.0, has.get("CPU", 0.0)))
    if workers > most and not os.environ.get("RAY_ADDRESS"):
        raise ConfigError(
            f"run.workers={workers}, and this machine has {has.get(kind, 0.0):g} {kind}s, for up to {most} workers; "
            "lower it, or set RAY_ADDRESS to a cluster that has more"
        )


@dataclass(frozen=True)
class NoRoom:
    """Why actors of a pool are not placed.

    Attributes:
        text: What each needs, what the nodes have, and what to do.
        is_for_ever: No node of the cluster is large enough, even when it is idle.
        is_over: They have their room, or a node has room by now: they are being started.
    """

    text: str
    is_for_ever: bool
    is_over: bool = False


def explain_no_room(size: PoolSize, unplaced: int) -> NoRoom:
    """Say what actors that are not placed wait for.

    Args:
        size: Of their pool.
        unplaced: How many of its actors are not placed.
    """
    free = ray._private.state.available_resources_per_node()  # type: ignore[no-untyped-call]
    nodes = [
        _Node(node["NodeManagerAddress"], node["Resources"], free.get(node["NodeID"], {}))
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]
    nodes.sort(key=lambda node: (node.has.get("GPU", 0.0), node.has.get("CPU", 0.0)), reverse=True)
    needs = {kind: count for kind, count in (("GPU", size.gpus), ("CPU", size.cpus)) if count}
    large = [node for node in nodes if _holds(node.has, needs)]
    asked = " and ".join(f"{count:g} {kind}s" for kind, count in needs.items())
    waiting = min(unplaced, _queued(needs)) if large else unplaced
    if not waiting or any(_holds(node.free, needs) for node in large):
        being_started = f"being started: {unplaced} of {counted(size.actors, 'actor')}"
        text = f"{being_started}; each needs {asked} on one node, and there is room"
        return NoRoom(text, is_for_ever=False, is_over=True)
    listed = "; ".join(node.describe(needs) for node in nodes[:_NODES_LISTED])
    rest = f"; and {len(nodes) - _NODES_LISTED} more" if len(nodes) > _NODES_LISTED else ""
    if large:
        remedy = "nodes that are large enough are in use: actors start when there is room, or"
        most = max((node.free for node in large), key=lambda has: [has.get(kind, 0.0) for kind in needs])
    else:
        remedy = f"no node is that large: add one with {asked}, or"
        most = nodes[0].has if nodes else {}
    settings = [
        f"set cluster.{kind.lower()}s_per_actor to {most[kind]:g} or less"
        for kind, count in needs.items()
        if 0 < most.get(kind, 0.0) < count
    ]
    text = (
        f"waiting for room: {waiting} of {counted(size.actors, 'actor')}; each needs {asked} on one node; the cluster "
        f"has {listed or 'no node'}{rest}; {remedy} {' and '.join(settings) or 'stop another job'}"
    )
    return NoRoom(text, not large)


def _queued(needs: Mapping[str, float]) -> int:
    """Return how many actors and tasks with these needs wait for room in the cluster.

    One that was given its room, and whose process is still starting, does not count; only Ray's autoscaler knows that.
    """
    demands = get_cluster_status(ray.get_runtime_context().gcs_address).resource_demands.ray_task_actor_demand
    return sum(
        each.count
        for demand in demands
        for each in demand.bundles_by_count
        if each.bundle.keys() == needs.keys() and all(isclose(each.bundle[k], needs[k], abs_tol=1e-4) for k in needs)
    )


def _holds(has: Mapping[str, float], needs: Mapping[str, float]) -> bool:
    return all(has.get(kind, 0.0) >= count for kind, count in needs.items())


@dataclass(frozen=True)
class _Node:
    address: str
    has: dict[str, float]
    free: dict[str, float]

    def describe(self, kinds: Iterable[str]) -> str:
        parts = [f"{self.has.get(kind, 0.0):g} {kind}s ({self.free.get(kind, 0.0):g} free)" for kind in kinds]
        return f"node {self.address} with {' and '.join(parts)}"


def is_node_alive(node: str) -> bool:
    """Tell whether Ray has not declared a node of the cluster dead; `node` is its id."""
    return any(each["NodeID"] == node and each["Alive"] for each in ray.nodes())  # type: ignore[no-untyped-call]


def address_of(node: str) -> str:
    """Return the address of a node of the cluster, by its id; nothing where Ray does not know it."""
    known: dict[str, str] = {each["NodeID"]: each["NodeManagerAddress"] for each in ray.nodes()}  # type: ignore[no-untyped-call]
    return known.get(node, "")


def describe_loss(node: str) -> str:
    """Say what is lost with an actor that died; `node` is the id of the node on which it was."""
    address = address_of(node)
    if not address:
        return "an actor died"
    return f"an actor on node {address} died" if is_node_alive(node) else f"node {address} is lost"


def has_gpu() -> bool:
    """Tell whether the cluster has any GPU."""
    return bool(_resources().get("GPU", 0) > 0)


def _resources() -> dict[str, float]:
    return dict(ray.cluster_resources())  # type: ignore[no-untyped-call]
