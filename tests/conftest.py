"""Share one local Ray, one S3 server and small tables between tests; set Hypothesis up for all of them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.demo_lakes import demo_lake
from tests.support.printed import printed
from tests.support.s3 import S3Server, running_s3
from tests.support.scheduling import DEMO, FilesTogether
from tests.support.small_tables import make_table
from tests.support.without_ray import without_ray

__all__ = ["demo_lake", "make_table", "printed", "without_ray"]

# No test may depend on what the environment of a person says about clusters, stores, proxies or colours.
for _name in [name for name in os.environ if name.startswith("AWS_") or name in ("RAY_ADDRESS", "FORCE_COLOR")]:
    del os.environ[_name]
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"

# No test may fail because a machine is slow, and in CI a run must be repeatable.
settings.register_profile(
    "any-machine", deadline=None, derandomize="CI" in os.environ, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any-machine")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FilesTogether:
    """Keep the tests of a file in one process."""
    return FilesTogether(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the demo and what needs it, which take longest, so that no process waits for them at the end."""
    items.sort(key=lambda item: not item.nodeid.startswith(DEMO))


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A Ray of two CPUs on the loopback address, started once, whose workers may use the S3 server."""
    import ray

    os.environ.update(S3Server("").environment())
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=200 << 20,
        _node_ip_address="127.0.0.1",
        _system_config={"metrics_report_interval_ms": 2000},  # no test waits ten seconds for a metric
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server, started once; the environment holds its credentials from then on."""
    with running_s3(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    """A new, empty bucket."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    s3_server.client().create_bucket(Bucket=name)
    return name
