"""`python -m tests.chaos --trials 200 --seed 0`: run trials, say how each ended, and count."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.chaos.faults import FAULTS, SHARES
from tests.chaos.stage import open_stage
from tests.chaos.trial import Verdict, run_trial


def plan(trials: int, seed: int) -> list[tuple[int, str]]:
    """Return seeds and faults: every fault by its share, every fault at least once, in random order."""
    total = sum(SHARES.values())
    faults = [fault for fault, share in SHARES.items() for _ in range(max(1, round(trials * share / total)))]
    while len(faults) < trials:
        faults.append("kill_driver")
    random.Random(seed).shuffle(faults)
    return [(seed * 100_000 + number, fault) for number, fault in enumerate(faults[:trials])]


def summary(verdicts: Sequence[Verdict], seconds: float) -> str:
    """Return a table: trials, runs and failures by fault."""
    by_fault: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        by_fault[verdict.fault].append(verdict)
    rows = [f"{'fault':<20}{'trials':>8}{'runs':>8}{'exact':>8}{'wrong':>8}   exit codes of the disturbed runs"]
    for fault in FAULTS:
        some = by_fault.get(fault, [])
        codes = Counter(verdict.codes[0] for verdict in some if verdict.codes)
        said = ", ".join(f"{count} x {code}" for code, count in sorted(codes.items()))
        wrong = sum(bool(verdict.wrong) for verdict in some)
        runs = sum(len(verdict.codes) for verdict in some)
        rows.append(f"{fault:<20}{len(some):>8}{runs:>8}{len(some) - wrong:>8}{wrong:>8}   {said}")
    failed = [verdict for verdict in verdicts if verdict.wrong]
    rows.append(f"{len(verdicts)} trials in {seconds:.0f} s, {len(failed)} wrong")
    rows += [f"  {verdict}" for verdict in failed]
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Run trials; 0 if every table was exact."""
    parser = argparse.ArgumentParser("python -m tests.chaos", description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=2, help="trials that run at the same time")
    parser.add_argument("--only", choices=FAULTS, action="append", help="only this fault; may be given again")
    parser.add_argument("--keep", type=Path, help="folder that takes what failed trials left")
    args = parser.parse_args(argv)
    planned = plan(args.trials, args.seed)
    if args.only:
        planned = [(seed, args.only[number % len(args.only)]) for number, (seed, _) in enumerate(planned)]
    began = time.monotonic()
    verdicts = []
    with open_stage() as stage, ThreadPoolExecutor(args.at_once) as pool:
        os.environ.update(stage.server.environment())
        for verdict in pool.map(lambda each: run_trial(stage, *each), planned):
            verdicts.append(verdict)
            print(f"{len(verdicts):>4}  {verdict}", flush=True)
            folder = stage.folder / f"trial-{verdict.seed}"
            if verdict.wrong and args.keep:
                shutil.copytree(folder, args.keep / folder.name, dirs_exist_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
    print(summary(verdicts, time.monotonic() - began))
    return int(any(verdict.wrong for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
