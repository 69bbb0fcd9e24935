"""What many tests share: one local Ray for the whole session."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A Ray of two CPUs on the loopback address, started once."""
    import ray

    assert "RAY_ADDRESS" not in os.environ, "tests start a Ray of their own; unset RAY_ADDRESS"
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=200 << 20,
        _node_ip_address="127.0.0.1",
    )
    yield
    ray.shutdown()
