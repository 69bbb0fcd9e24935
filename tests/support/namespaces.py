"""Machines that only have a network of their own: namespaces of the kernel, joined by a bridge."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager


class Machines:
    """Namespaces with the addresses 10.77.0.1, 10.77.0.2 and so on; the host's own network is left as it is."""

    def __init__(self, count: int, stack: ExitStack) -> None:
        """Make them; `stack` removes them."""
        self._bridge = f"lake-{secrets.token_hex(3)}"
        self.addresses = [f"10.77.0.{number}" for number in range(1, count + 1)]
        _make(self._bridge, stack)
        _ip("-n", self._bridge, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._bridge, "link", "set", "bridge", "up")
        for number, address in enumerate(self.addresses):
            name = self._name(number)
            _make(name, stack)
            port = f"port{number}"
            _ip("-n", self._bridge, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("-n", self._bridge, "link", "set", port, "master", "bridge", "up")
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")

    def _name(self, number: int) -> str:
        return f"{self._bridge}-{number}"

    def on(self, number: int, command: Sequence[str]) -> list[str]:
        """Return the command that runs another one on a machine."""
        return ["ip", "netns", "exec", self._name(number), *command]

    def cut_off(self, number: int) -> None:
        """Pull the cable of a machine; its processes go on."""
        _ip("-n", self._bridge, "link", "set", f"port{number}", "down")


@contextmanager
def machines(count: int) -> Iterator[Machines]:
    """Make machines, and remove them; their processes must have ended."""
    with ExitStack() as stack:
        yield Machines(count, stack)


def are_allowed() -> bool:
    """Tell whether this process may make namespaces."""
    if shutil.which("ip") is None:
        return False
    try:
        with machines(1):
            return True
    except subprocess.CalledProcessError:
        return False


def _make(name: str, stack: ExitStack) -> None:
    _ip("netns", "add", name)
    stack.callback(_ip, "netns", "delete", name)
    _ip("-n", name, "link", "set", "lo", "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
