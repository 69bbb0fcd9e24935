"""The one choice of the torch device that arithmetic runs on."""

from __future__ import annotations

import torch

from schemas.config import check_given
from schemas.errors import ConfigError


def pick_device(device: str = "auto", setting: str = "device", index: int | None = None) -> torch.device:
    """Return the torch device that a config names.

    Args:
        device: `auto` (a GPU if there is one, else the CPU), `cpu`, `cuda`, or another name that torch knows.
        setting: Full name of the setting, for the message of an error.
        index: Number of this worker; on a machine with several GPUs each worker takes the next one.

    Raises:
        ConfigError: torch cannot use the device here.
    """
    check_given(str, **{setting: device})
    has_gpu = torch.cuda.is_available()
    if device == "auto":
        device = "cuda" if has_gpu else "cpu"
    if device.startswith("cuda") and not has_gpu:
        raise ConfigError(f"{setting}={device}, but torch sees no GPU here; use --set {setting}=auto")
    if device == "cuda":
        return torch.device("cuda") if index is None else torch.device("cuda", index % torch.cuda.device_count())
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, UnicodeError) as error:
        raise ConfigError(
            f"{setting}={device}: {str(error).splitlines()[0]}; allowed: auto, cpu, cuda, or another device of torch"
        ) from None


def to_device(batch: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a batch to the device; to a GPU from pinned memory, without waiting for the copy."""
    if device.type != "cuda":
        return batch
    return batch.pin_memory().to(device, non_blocking=True)
