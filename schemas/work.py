"""Work that actors do: how an item ended, when a failed one is tried again, and what a pool of actors offers.

`pipelines` decide what is done and `cluster` decides where; neither imports the other, and both import this. Owns no
code that runs anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")
I_contra = TypeVar("I_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


class Worker(Protocol[I_contra, R_co]):
    """An object that lives in an actor and works on items."""

    def run(self, item: I_contra) -> R_co:
        """Do one item; several may run at once, in threads. With feeders it is called as `run(item, parts)`."""
        ...

    def progress(self) -> dict[str, int]:
        """Return counters since the start; called while `run` works."""
        ...


class Lightening(Protocol):
    """What a worker, and its feeder, offer where a pool may make them lighter when memory runs out."""

    def lighten(self, halvings: int) -> None:
        """Halve batches and buffers so many times, compared with their first size; called before an item is run."""
        ...


class FeedingWorker(Protocol[I_contra]):
    """An object that lives in a feeder actor and prepares items for the workers of other actors."""

    def feed(self, item: I_contra) -> Iterator[Any]:
        """Yield the parts of an item; a few at a time travel to the worker that runs the item."""
        ...


@dataclass(frozen=True)
class Outcome(Generic[I, R]):
    """How one item ended: done, or given up.

    Attributes:
        item: As it was given, or a part of it where `RetryPolicy.split` cut it.
        result: What `run` returned; None where the item was given up.
        error: The last error of an item that was given up, else None.
        died: The last error is the death of the actor, or of its node; nothing is known of the cause.
    """

    item: I
    result: R | None = None
    error: BaseException | None = None
    died: bool = False


def _no_split(item: Any) -> Sequence[Any]:
    return ()


def _never_final(error: BaseException) -> bool:
    return False


def _ignore(error: BaseException) -> None:
    pass


@dataclass(frozen=True)
class RetryPolicy(Generic[I]):
    """When an item that failed is tried again.

    When an actor dies with several items in flight, none of them is blamed: each runs again alone, in an actor with
    nothing else in flight, and only a death during that counts as a failure of the item.

    Attributes:
        max_tries: Failures after which an item is given up.
        split: Cuts a failed item into parts, which take its place with no failures counted; empty leaves it whole.
        is_final: Whether an error that a worker raised gives up the item at once. The death of an actor is never final.
        on_failure: Called with every error, before anything else is decided. What it raises ends the whole run.
    """

    max_tries: int = 3
    split: Callable[[I], Sequence[I]] = _no_split
    is_final: Callable[[BaseException], bool] = _never_final
    on_failure: Callable[[BaseException], None] = _ignore


@dataclass(frozen=True)
class PoolQueue:
    """What a pool has before it.

    Attributes:
        open_items: Items that wait or are worked on.
        pending_actors: Actors that are not up: no room for them, starting, or loading.
        oldest: Some of the items that are worked on, with the seconds since they began; the longest first.
    """

    open_items: int = 0
    pending_actors: int = 0
    oldest: tuple[tuple[Any, float], ...] = ()


class WorkPool(Protocol[I, R]):
    """Actors that work through items. `cluster.actors.ActorPool` is the one on Ray."""

    @property
    def actors(self) -> int:
        """How many actors work."""
        ...

    def run(
        self, items: Iterable[I], retry: RetryPolicy[I] | None = None, tick_s: float = 0.25
    ) -> Iterator[Outcome[I, R] | None]:
        """Yield every item once, when it is done or given up; None at least every `tick_s` while nothing ends."""
        ...

    def drop_waiting(self) -> int:
        """Drop the items that no actor has started; return how many."""
        ...

    def progress(self) -> dict[str, int]:
        """Return the sum of all workers' counters; never waits."""
        ...

    def queue(self) -> PoolQueue:
        """Return what is open; never waits."""
        ...

    def up_at(self) -> float | None:
        """Return when the first worker was ready, in seconds since the epoch, or None while none is."""
        ...
