"""What one PPO update loses on a machine that does other work as well. `make bench` runs this after the comparison with TRL.

The model and the updates are those of ppo_speed.py. "Busy" is one Python process that counts without end. "Twice" is two measurements of
ours at the same time. All figures are samples a second, and the measurements take turns, so that they share the machine's mood.

    python -m tests.benchmarks.shared_machine [--repeats 3] [--case NAME ...]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.ppo_speed import BATCH, CASES, median_of, result, start

UPDATES = {"upper_half": 2, "small_model": 12}
"""The cases, and how many updates are timed after one to warm up. Beside a busy process a third of them."""
THREADS = os.cpu_count() or 1
NOWHERE = Path(os.devnull)
DEFAULT_SPIN = {"GOMP_SPINCOUNT": "300000"}
"""What GNU OpenMP does where nothing is set."""


def speeds(case: str, updates: int, copies: int = 1, threads: int = THREADS, **environment: str) -> list[float]:
    """Samples a second of each of `copies` measurements that run at the same time."""
    processes = [start("ours", case, updates, NOWHERE, threads, **environment) for _ in range(copies)]
    return [BATCH / median_of(result(process), "seconds") for process in processes]


@contextmanager
def busy() -> Iterator[None]:
    """One process that uses as much of a processor as it gets."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def measure(case: str) -> dict[str, float]:
    """One turn of everything."""
    updates = UPDATES[case]
    few = max(1, updates // 3)
    found = {"idle": speeds(case, updates)[0]}
    found["idle_default_spin"] = speeds(case, updates, **DEFAULT_SPIN)[0]
    found["idle_passive"] = speeds(case, updates, GOMP_SPINCOUNT="0")[0]
    with busy():
        found["busy"] = speeds(case, updates)[0]
        found["busy_default_spin"] = speeds(case, few, **DEFAULT_SPIN)[0]
        found["busy_passive"] = speeds(case, updates, GOMP_SPINCOUNT="0")[0]
        found["busy_one_thread"] = speeds(case, updates, threads=1)[0]
    found["twice"] = min(speeds(case, updates, copies=2))
    found["twice_default_spin"] = min(speeds(case, few, copies=2, **DEFAULT_SPIN))
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--case", choices=[name for name in CASES if name in UPDATES], action="append")
    options = parser.parse_args()
    summary = {}
    for case in options.case or UPDATES:
        turns = [measure(case) for _ in range(options.repeats)]
        medians = {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
        print(f"{case:<12} " + ", ".join(f"{key} {value:.1f}" for key, value in medians.items()), flush=True)
        summary |= {f"shared_{case}_{key}": round(value, 2) for key, value in medians.items()}
        best = max(value for key, value in medians.items() if key.startswith("busy"))
        summary[f"ratio_busy_{case}"] = round(medians["busy"] / best, 3)
        summary[f"ratio_twice_{case}"] = round(medians["twice"] / medians["idle"], 3)
        summary[f"ratio_idle_{case}"] = round(medians["idle"] / medians["idle_default_spin"], 3)
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
