"""The lock that keeps nights of one table from overlapping, and the log of nights: `<table>/_nights/<number>.json`.

A night begins by making the file of the next number, which only one process can do. The file is its record. It is
written again once a minute, so its time, which is the store's own, says that the night is alive. A night that was not
seen for 15 minutes is taken for dead. The next one then fences it off: should it wake up, it can publish no more.

Owns the lock and the records.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import uuid
from typing import Self

from pipelines.storage.addresses import absolute
from pipelines.storage.small_files import create_file, list_files, read_file, remove_file, replace_file
from pipelines.tables.fencing import store_now
from pipelines.tables.generations import fence_off
from pipelines.tables.publication_log import nights_folder
from pipelines.tables.runs import ALIVE_FOR, BEAT_S
from schemas.config import StorageConfig
from schemas.errors import NightRunning, RunExpired, is_interrupt, stored_text
from schemas.last_words import last_word
from schemas.nights import Night
from schemas.publications import GateResult

_NAME = re.compile(r"(\d{8,12})\.json")
_KEPT_NIGHTS = 1000


class NightLock:
    """The lock of one night. In a `with` block a thread keeps it alive; the end of the block ends the night.

    Attributes:
        night: The record; `update` changes it.
        took_over: The night that was taken for dead, if any.
    """

    def __init__(self, base: str, storage: StorageConfig) -> None:
        """Take the lock.

        Args:
            base: Address of the table (of its first generation), which need not exist yet.
            storage: Where S3 is.

        Raises:
            NightRunning: Another night holds it.
            ConfigError: The store has no conditional writes.
        """
        self._base, self._storage = absolute(base), storage
        self._lock, self._over = threading.Lock(), threading.Event()
        self._entered = contextlib.ExitStack()
        self.night, self.took_over = self._take()
        if self.took_over is not None:
            note = f"night {self.night.number} took over from night {self.took_over.number}, which was not seen"
            fence_off(self._base, storage, self.night.run, note)

    def __enter__(self) -> Self:
        """Start to keep the lock alive."""
        self._thread = threading.Thread(target=self._beat_until_over, name="night", daemon=True)
        self._thread.start()
        self._entered.enter_context(last_word(self._end))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """End the night, if `finish` has not."""
        self._entered.close()
        self._over.set()
        self._thread.join()
        self._end(error)
        with contextlib.suppress(OSError):
            self._forget_old()

    def _end(self, error: BaseException | None) -> None:
        if self.night.state == "running":
            self.update(state="stopped" if is_interrupt(error) else "failed", error=stored_text(error))
        with contextlib.suppress(OSError):
            self.update(ended_at=store_now(self._base, self._storage))
            self._write()

    def update(self, **changes: object) -> None:
        """Change the record; it is stored with the next beat, and at the end."""
        with self._lock:
            self.night = self.night.model_copy(update=changes)

    def check(self) -> None:
        """Refuse to go on where another night has taken the lock.

        Raises:
            RunExpired: It has: this process was not seen for too long.
        """
        numbers = _numbers(self._base, self._storage)
        if numbers and numbers[-1] != self.night.number:
            raise RunExpired(
                f"night {self.night.number} of {self._base} was not seen for {ALIVE_FOR.total_seconds() / 60:.0f} "
                f"minutes, and night {numbers[-1]} has taken over; nothing more is written; see: mlake history "
                f"{self._base}"
            )

    def _take(self) -> tuple[Night, Night | None]:
        while True:
            previous, is_alive = last_night(self._base, self._storage)
            if previous is not None and is_alive:
                raise NightRunning(
                    f"{at_work(previous, self._base)}; nights do not overlap: run the command again when it has ended"
                )
            night = Night(
                number=1 if previous is None else previous.number + 1,
                run=f"{uuid.uuid4().hex}-{os.getpid()}",
                host=socket.gethostname(),
                state="running",
                started_at=store_now(self._base, self._storage),
            )
            data = night.to_json().encode()
            uri = _address(self._base, night.number)
            if create_file(uri, data, self._storage) or read_file(uri, self._storage) == data:
                return night, previous if previous is not None and previous.state == "running" else None

    def _beat_until_over(self) -> None:
        while not self._over.wait(BEAT_S):
            with contextlib.suppress(OSError):
                self._write()

    def _write(self) -> None:
        with self._lock:
            replace_file(_address(self._base, self.night.number), self.night.to_json().encode(), self._storage)

    def _forget_old(self) -> None:
        for number in _numbers(self._base, self._storage)[:-_KEPT_NIGHTS]:
            remove_file(_address(self._base, number), self._storage)


def read_nights(base: str, storage: StorageConfig, last: int | None = None) -> list[Night]:
    """Return the nights of a table, the oldest first, or the last few.

    Raises:
        TableError: A record is of a newer format, or malformed.
    """
    base = absolute(base)
    nights = []
    for number in _numbers(base, storage)[-last if last else 0 :]:
        uri = _address(base, number)
        if (data := read_file(uri, storage)) is not None:
            nights.append(Night.from_json(data, uri))
    return nights


def last_night(base: str, storage: StorageConfig) -> tuple[Night | None, bool]:
    """Return the last night, if there was any, and whether it is at work still, as far as its record says."""
    last = read_nights(base := absolute(base), storage, 1)
    if not last or last[0].state != "running":
        return (last[0] if last else None), False
    now, name = store_now(base, storage), f"{last[0].number:08d}.json"
    written = (file.written_at for file in list_files(nights_folder(base), storage) if file.name == name)
    return last[0], next(written, last[0].started_at) + ALIVE_FOR > now


def at_work(night: Night, base: str) -> str:
    """Say that a night is at work, since when and where."""
    return f"night {night.number} of {base} is at work since {night.started_at:%Y-%m-%d %H:%M} UTC on {night.host}"


def refused_audit(base: str, generation: int, version: int, storage: StorageConfig) -> tuple[GateResult, ...]:
    """Return the audit with which the last nights refused a version; empty if they did not."""
    for night in reversed(read_nights(base, storage, 10)):
        if (night.generation, night.version) == (generation, version):
            return night.audit if night.state == "refused" else ()
    return ()


def _numbers(base: str, storage: StorageConfig) -> list[int]:
    if "://" in base and not base.startswith("s3://"):
        return []
    names = (_NAME.fullmatch(file.name) for file in list_files(nights_folder(base), storage))
    return sorted(int(name[1]) for name in names if name)


def _address(base: str, number: int) -> str:
    return f"{nights_folder(base)}/{number:08d}.json"
