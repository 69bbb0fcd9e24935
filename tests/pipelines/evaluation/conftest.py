"""Labelled points around five centres, as database and queries."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pipelines.evaluation.metrics import Labels
from pipelines.evaluation.results import Results
from pipelines.vectors.matryoshka import unit
from tests.support.labelled_tables import evaluate_systems

CLASSES, WIDTH = 5, 16


@pytest.fixture(scope="package")
def sides() -> tuple[np.ndarray, np.ndarray]:
    """Unit rows of a database and of queries, whose first dims carry the least."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLASSES, WIDTH)) * np.linspace(0.2, 1.5, WIDTH)
    return tuple(  # type: ignore[return-value]
        unit((centres[np.arange(n) % CLASSES] + 0.5 * rng.standard_normal((n, WIDTH))).astype(np.float32))
        for n in (400, 100)
    )


@pytest.fixture(scope="package")
def truth() -> Labels:
    """Classes of both sides."""
    return Labels(np.arange(400) % CLASSES, np.arange(100) % CLASSES, k=10, recall_ks=(5,))


@pytest.fixture(scope="package")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Everything that `mlake evaluate` measures of two systems with labels."""
    return evaluate_systems(tmp_path_factory.mktemp("lake"))


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Fit hundreds of tiny probes on one thread: on a busy machine, threads that wait for each other are slow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
