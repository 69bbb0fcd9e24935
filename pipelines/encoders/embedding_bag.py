"""The mean of static token vectors: one look-up a token, and no padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from pipelines.encoders.protocol import Prepared
from pipelines.encoders.token_lists import flatten
from pipelines.storage.device import pick_device
from pipelines.vectors.matryoshka import unit
from schemas.config import EncoderConfig


class BagEncoder:
    """One EmbeddingBag: ragged input, no padding."""

    def __init__(self, weights_VD: torch.Tensor, config: EncoderConfig) -> None:
        """Put the vectors of V tokens, (V, D), onto the device."""
        self._device = pick_device(config.device, "encoder.device")
        self._bag = torch.nn.EmbeddingBag.from_pretrained(weights_VD.float(), mode="mean").to(self._device).eval()

    @torch.inference_mode()
    def encode(self, prepared: Sequence[Prepared]) -> npt.NDArray[np.float32]:
        """Encode B token lists to (B, D) float32 unit rows."""
        ids_T, lengths_B = flatten(prepared)
        starts = torch.from_numpy(np.cumsum(lengths_B, dtype=np.int32) - lengths_B.astype(np.int32))
        pooled = self._bag(torch.from_numpy(ids_T).to(self._device), starts.to(self._device))
        return cast(npt.NDArray[np.float32], unit(pooled).cpu().numpy())
