"""Step time of MRL and MRL-E against a fixed-feature model of full width: the same backbone, the same batch, one head.

    python -m benchmarks.train                          ResNet of 28 pixels, on this machine's device
    python -m benchmarks.train --backbone resnet50 --pixels 224 --classes 1000 --dims 8 16 … 2048

The steps of the three alternate, so that whatever else the machine does falls on all alike; the ratio is that of the
medians. Peak memory is of a process of its own for each. The paper's claim: training costs no more (ratio ≤ 1.05).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from pipelines.storage.device import pick_device
from pipelines.training.optimiser import make_optimiser, pick_dtype
from pipelines.training.tasks import ImageClassifier
from schemas.config.training import LossConfig, ModelConfig, OptimiserConfig, RunConfig

KINDS = ("FF", "MRL", "MRL-E")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet-small")
    parser.add_argument("--pixels", type=int, default=28)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--dims", type=int, nargs="+", default=[8, 16, 32, 64, 128, 256])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--memory-of", choices=KINDS, help="(used by itself) print the peak memory of one kind")
    return parser.parse_args(argv)


class Stepper:
    """A model, its optimiser and one batch of noise."""

    def __init__(self, kind: str, args: argparse.Namespace) -> None:
        """Build it on the device."""
        torch.manual_seed(0)
        run = RunConfig(precision=args.precision)
        self._device = pick_device(run.device, "run.device")
        self._dtype = pick_dtype(run, self._device)
        dims = tuple(args.dims[-1:] if kind == "FF" else args.dims)
        model = ModelConfig(image=args.backbone, pixels=args.pixels, channels=args.channels)
        self._task = ImageClassifier(model, LossConfig(dims=dims, tied=kind == "MRL-E"), args.classes).to(self._device)
        self._optimiser = make_optimiser(self._task, OptimiserConfig())
        shape = (args.batch, args.pixels, args.pixels, args.channels)
        self._pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=self._device)
        self._labels = torch.randint(0, args.classes, (args.batch,), device=self._device)

    def step(self) -> float:
        """Take one step; return its milliseconds."""
        self._wait()
        began = time.perf_counter()
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            losses = self._task(self._pixels, self._labels)
        losses.total.backward()
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self._wait()
        return (time.perf_counter() - began) * 1000

    def peak_mb(self) -> float:
        """Return the peak memory of the process, or of the GPU."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 1e6
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def measure(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return step time, ratio and memory of each kind."""
    steppers = {kind: Stepper(kind, args) for kind in KINDS}
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(args.steps + 3):
        for place in range(len(KINDS)):
            kind = KINDS[(place + number) % len(KINDS)]
            took_ms = steppers[kind].step()
            if number >= 3:
                times[kind].append(took_ms)
    medians = {kind: statistics.median(some) for kind, some in times.items()}
    return {
        kind: {"step_ms": ms, "ratio": ms / medians["FF"], "peak_mb": memory_of(kind)} for kind, ms in medians.items()
    }


def memory_of(kind: str) -> float:
    """Run a few steps of one kind in a process of its own; return its peak memory in MB."""
    command = [sys.executable, "-m", "benchmarks.train", *sys.argv[1:], "--memory-of", kind]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def main() -> None:
    """Measure and print."""
    args = parse()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        stepper = Stepper(args.memory_of, args)
        for _ in range(3):
            stepper.step()
        sys.stdout.write(json.dumps(stepper.peak_mb()))
        return
    title = f"{args.backbone}, {args.pixels} px, {args.classes} classes, batch {args.batch}, dims {args.dims}"
    grid = Table("", "step ms (median)", "÷ FF", "peak MB", title=title)
    found: dict[str, Any] = measure(args)
    for kind, row in found.items():
        grid.add_row(kind, f"{row['step_ms']:.1f}", f"{row['ratio']:.3f}", f"{row['peak_mb']:,.0f}")
    Console().print(grid)


if __name__ == "__main__":
    main()
