"""A config names a device; what torch cannot use here is refused with the remedy."""

from __future__ import annotations

import pytest
import torch

from pipelines.storage.device import pick_device, to_device
from schemas.errors import ConfigError


def test_auto_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert pick_device("auto") == torch.device("cuda")
    assert pick_device("cuda", index=6) == torch.device("cuda", 2)
    assert pick_device("cpu") == torch.device("cpu")


def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device() == torch.device("cpu")
    with pytest.raises(
        ConfigError, match=r"encoder.device=cuda, but torch sees no GPU here; use --set encoder.device="
    ):
        pick_device("cuda", "encoder.device")


def test_a_name_that_torch_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"run.device=abacus: .* allowed: auto, cpu, cuda"):
        pick_device("abacus", "run.device")


def test_a_batch_for_the_cpu_stays_where_it_is() -> None:
    batch = torch.ones(2, 3)
    assert to_device(batch, torch.device("cpu")) is batch
