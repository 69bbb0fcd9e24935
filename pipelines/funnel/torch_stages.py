"""Search a plan's stages on a torch device, usually a GPU: half-precision prefixes, compared by matrix products.

On a GPU, a product of half-precision prefixes is cheaper than looking up codes. So a stage of codes is held as its
prefix, and finds at least as much. Immutable once built, so any number of threads may search. `slices` does the same
with FAISS on the CPU.

Shapes: B queries, N vectors, D full width, M prefix width, K candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch

from pipelines.funnel.faiss_stages import Positions
from pipelines.vectors.arrays import Floats, Halves
from pipelines.vectors.matryoshka import cut, unit
from schemas.plans import FunnelStage, Plan

# Limit of the size of one product: numbers, not bytes.
_NUMBERS = 1 << 28


class TorchStages:
    """The prefixes of a plan's stages on one device; implements `StageIndex`."""

    def __init__(self, plan: Plan, blocks: Iterable[Halves], rows: int, device: torch.device) -> None:
        """Move vectors to the device.

        Args:
            plan: The plan.
            blocks: float16 unit rows (B, D).
            rows: Their total number.
            device: Where they are held and compared.
        """
        self._device = device
        width = plan.stages[-1].dims
        held = {stage.dims for stage in plan.stages[:-1]} | ({width} if plan.home == "memory" else set())
        self._prefixes = {
            dims: torch.empty(rows, dims, dtype=torch.float16, device=self._device) for dims in sorted(held)
        }
        self._vectors = self._prefixes[width] if plan.home == "memory" else None
        filled = 0
        for block_BD in blocks:
            here = slice(filled, filled + len(block_BD))
            rows_BD = torch.tensor(block_BD, device=self._device)
            for dims, prefix_NM in self._prefixes.items():
                prefix_NM[here] = rows_BD if dims == width else cut(rows_BD, dims)
            filled += len(block_BD)
        self._rows = rows

    def __len__(self) -> int:
        """Return the number of vectors."""
        return self._rows

    @property
    def holds_vectors(self) -> bool:
        """Whether the full vectors are on the device."""
        return self._vectors is not None

    @property
    def bytes_per_vector(self) -> int:
        """Bytes that a vector takes over all stages."""
        return sum(2 * dims for dims in self._prefixes)

    def search(self, plan: Plan, query_BD: Floats, k: int) -> tuple[Floats, Positions]:
        """Return true cosines and positions (B, ≤ k), best first."""
        assert self._vectors is not None
        scores, positions = [], []
        for part_BD in self._parts(plan.stages, query_BD):
            _, at_BK = self._narrow(plan.stages[:-1], part_BD)
            x_BKD = unit(self._vectors[at_BK].float())
            best = torch.bmm(x_BKD, part_BD[:, :, None]).squeeze(2).topk(min(k, at_BK.shape[1]))
            scores.append(best.values.cpu().numpy())
            positions.append(at_BK.gather(1, best.indices).cpu().numpy())
        return np.concatenate(scores), np.concatenate(positions)

    def candidates(self, plan: Plan, query_BD: Floats, stages: int | None = None) -> tuple[Floats, Positions]:
        """Return the scores and positions (B, ≤ keep) that the first stages find; see `StageIndex`."""
        coarse = plan.stages[: stages or -1]
        found = [self._narrow(coarse, part) for part in self._parts(coarse, query_BD)]
        scores_BK = np.concatenate([scores.float().cpu().numpy() for scores, _ in found])
        return scores_BK, np.concatenate([at.cpu().numpy() for _, at in found])

    def ranked(self, plan: Plan, k: int) -> int:
        """Return how many full vectors `search` compares for one query; see `StageIndex`."""
        return min(plan.candidates, self._rows)

    def vectors(self, positions_K: Positions) -> Halves:
        """Gather full vectors (K, D)."""
        assert self._vectors is not None
        gathered: Halves = self._vectors[torch.from_numpy(positions_K).to(self._device)].cpu().numpy()
        return gathered

    def _parts(self, stages: Sequence[FunnelStage], query_BD: Floats) -> Iterator[torch.Tensor]:
        """Yield groups of queries whose products stay within `_NUMBERS`."""
        gathered = [before.keep * stage.dims for before, stage in pairwise(stages)]
        count = max(1, _NUMBERS // max([self._rows, 1, *gathered]))
        for start in range(0, len(query_BD), count):
            yield torch.from_numpy(query_BD[start : start + count]).to(self._device)

    def _narrow(self, coarse: Sequence[FunnelStage], query_BD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the scores and positions (B, K) that stages find, one after the other."""
        first, *later = coarse
        scores_BN = cut(query_BD, first.dims).half() @ self._prefixes[first.dims].T
        scores_BK, at_BK = scores_BN.topk(min(first.keep, self._rows))
        for stage in later:
            x_BKM = self._prefixes[stage.dims][at_BK]
            scores_BK = torch.bmm(x_BKM, cut(query_BD, stage.dims).half()[:, :, None]).squeeze(2)
            scores_BK, places = scores_BK.topk(min(stage.keep, at_BK.shape[1]))
            at_BK = at_BK.gather(1, places)
        return scores_BK, at_BK
