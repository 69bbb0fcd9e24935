"""Run chaos trials: `python -m tests.chaos --trials 200 --seed 0` prints how each ended, and a table of all."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.chaos.shared_cluster import open_shared_cluster
from tests.chaos.shares import FAULTS, SHARES
from tests.chaos.trial import TrialResult, run_trial
from tests.support.s3 import running_s3


def plan(trials: int, seed: int) -> list[tuple[int, str]]:
    """Return the seed and fault of each trial: every fault at least once and by its share, in random order."""
    total = sum(SHARES.values())
    faults = [fault for fault, share in SHARES.items() for _ in range(max(1, round(trials * share / total)))]
    while len(faults) < trials:
        faults.append("kill_driver")
    random.Random(seed).shuffle(faults)
    return [(seed * 100_000 + number, fault) for number, fault in enumerate(faults[:trials])]


def summary(results: Sequence[TrialResult], seconds: float) -> str:
    """Return a printed table of trials, runs and failures by fault."""
    by_fault: dict[str, list[TrialResult]] = defaultdict(list)
    for result in results:
        by_fault[result.fault].append(result)
    rows = [f"{'fault':<20}{'trials':>8}{'runs':>8}{'exact':>8}{'wrong':>8}   exit codes of the disturbed runs"]
    for fault in FAULTS:
        some = by_fault.get(fault, [])
        codes = Counter(result.codes[0] for result in some if result.codes)
        exits = ", ".join(f"{count} x {code}" for code, count in sorted(codes.items()))
        wrong = sum(bool(result.wrong) for result in some)
        runs = sum(len(result.codes) for result in some)
        rows.append(f"{fault:<20}{len(some):>8}{runs:>8}{len(some) - wrong:>8}{wrong:>8}   {exits}")
    failed = [result for result in results if result.wrong]
    rows.append(f"{len(results)} trials in {seconds:.0f} s, {len(failed)} wrong")
    rows += [f"  {result}" for result in failed]
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Run trials; return 0 if every table was exact, else 1."""
    parser = argparse.ArgumentParser("python -m tests.chaos", description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=2, help="trials that run at the same time")
    parser.add_argument("--only", choices=FAULTS, action="append", help="only this fault; may be given again")
    parser.add_argument("--keep", type=Path, help="folder that receives the files of failed trials")
    args = parser.parse_args(argv)
    planned = plan(args.trials, args.seed)
    if args.only:
        planned = [(seed, args.only[number % len(args.only)]) for number, (seed, _) in enumerate(planned)]
    began = time.monotonic()
    results = []
    with (
        tempfile.TemporaryDirectory(prefix="s3-", ignore_cleanup_errors=True) as s3_folder,
        running_s3(Path(s3_folder)) as server,
        open_shared_cluster(server) as shared,
        ThreadPoolExecutor(args.at_once) as pool,
    ):
        os.environ.update(server.environment())
        for result in pool.map(lambda each: run_trial(shared, *each), planned):
            results.append(result)
            print(f"{len(results):>4}  {result}", flush=True)
            folder = shared.folder / f"trial-{result.seed}"
            if result.wrong and args.keep:
                shutil.copytree(folder, args.keep / folder.name, dirs_exist_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
    print(summary(results, time.monotonic() - began))
    return int(any(result.wrong for result in results))


if __name__ == "__main__":
    sys.exit(main())
