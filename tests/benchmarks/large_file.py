"""How much memory and time a large file of preference pairs takes.

    python -m tests.benchmarks.large_file [--megabytes 300] [--kind jsonl] [--only parse data]

Writes a file of random pairs, and has child processes read it, so that each has its own peak of memory. A child notes its memory after its
imports, loads the data as the stage `data` does, and writes the parts; another one measures these rows as the stage `filter` does, with a
small tokenizer of its own, and a last one loads with `data.max_pairs=10000`. Beside them stands one pass over the file that only parses the
rows.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loop.executors.executor import QUIET_LIBRARIES

WORDS = [f"{syllable}{ending}" for syllable in ("ban", "dor", "kel", "มะม่วง", "สวัสดี", "tur") for ending in ("", "a", "ing", "ครับ", "s")]
"""A third of the words has Thai letters, which take three bytes each."""
ROW_BYTES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--kind", choices=("jsonl", "parquet"), default="jsonl")
    works = {"parse": parse, "data": load_all, "filter": filter_all, "max_pairs": load_some}
    parser.add_argument("--only", nargs="+", choices=works, default=list(works), help="what is measured; filter needs data before it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"pairs.{options.kind}"
        rows = write(path, options.megabytes * 1_000_000)
        print(f"{path.stat().st_size / 1e6:.0f} MB, {rows} pairs, {options.kind}")
        print(f"{'':24} {'seconds':>8} {'of CPU':>8} {'MB beyond imports':>18}  rows in the parts")
        for name in options.only:
            seconds, busy, megabytes, kept = in_a_child(works[name], path)
            print(f"{name:24} {seconds:8.1f} {busy:8.1f} {megabytes:18.0f}  {kept}", flush=True)


def write(path: Path, size: int) -> int:
    """A file of about `size` bytes of JSON; returns the number of its rows. The prompts are all different."""
    rng = random.Random(0)
    lines = path.with_suffix(".jsonl")
    rows = written = 0
    with lines.open("w", encoding="utf-8") as file:
        while written < size:
            texts = [" ".join(rng.choices(WORDS, k=ROW_BYTES // 27)) for _ in range(3)]
            line = json.dumps({"prompt": f"{rows} {texts[0]}", "chosen": texts[1], "rejected": texts[2]}, ensure_ascii=False) + "\n"
            written += len(line.encode())
            rows += 1
            file.write(line)
    if path.suffix == ".parquet":
        import datasets

        datasets.disable_progress_bars()
        datasets.load_dataset("json", data_files=str(lines), split="train", cache_dir=str(path.parent)).to_parquet(path)
    return rows


def in_a_child(work: Callable[[Path], int], path: Path) -> tuple[float, float, float, int]:
    """Seconds, seconds of CPU, and the peak of memory beyond the imports of a function in a process of its own, and what it returned."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_measured, (work, path))


def _measured(work: Callable[[Path], int], path: Path) -> tuple[float, float, float, int]:
    os.environ.update(QUIET_LIBRARIES)  # as in the run's workers: a tokenizer has one thread there
    import_all()
    before, start, start_busy = peak(), time.perf_counter(), time.process_time()
    kept = work(path)
    return time.perf_counter() - start, time.process_time() - start_busy, (peak() - before) / 1e6, kept


def import_all() -> None:
    """What the work imports, so that it does not count as the file's."""
    import datasets
    import pyarrow.parquet

    import policies.tiny_base
    import rewards.data.lengths
    import rewards.data.preference_data

    assert datasets and pyarrow and policies.tiny_base and rewards.data.lengths and rewards.data.preference_data


def peak() -> int:
    """The largest memory that this process has had, in bytes.

    On Linux it is read from /proc, because getrusage also counts what the parent had when it started this process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def parse(path: Path) -> int:
    """Read each row, and forget it."""
    from rewards.data.reading import READERS

    return sum(1 for _ in READERS[path.suffix.removeprefix(".")](path))


def load_all(path: Path) -> int:
    return _load(path)


def load_some(path: Path) -> int:
    return _load(path, max_pairs=10_000)


def filter_all(path: Path) -> int:
    """What the stage `filter` does with what `load_all` has written. No row is too long."""
    from policies.tiny_base import train_tokenizer
    from rewards.comparisons import Comparison, PromptRecord
    from rewards.data.lengths import TokenLimits
    from rewards.data.row_files import RowFile, StoredRows

    limits = TokenLimits(train_tokenizer(WORDS, 1000), 10_000, 10_000)
    kinds: dict[str, type[Any]] = {"pairs": Comparison, "heldout": Comparison, "prompts": PromptRecord, "heldout_prompts": PromptRecord}
    counts = []
    for name, kind in kinds.items():
        kept: RowFile[Any] = RowFile(kind, path.parent)
        limits.keep_into(kept, StoredRows.of(path.parent / f"{name}.rows", kind), lambda row, reason: None)
        kept.write(path.parent / f"{name}.filtered")
        counts.append(len(kept))
    return sum(counts)


def _load(path: Path, **settings: Any) -> int:
    """What the stage `data` does with a file."""
    from configs.data import DataConfig
    from rewards.data.preference_data import load_preference_data

    loaded = load_preference_data(DataConfig(source=str(path), **settings), 0, folder=path.parent)
    parts = {"pairs": loaded.pairs, "heldout": loaded.heldout, "prompts": loaded.prompts, "heldout_prompts": loaded.heldout_prompts}
    for name, rows in parts.items():
        rows.write(path.parent / f"{name}.rows")  # type: ignore[union-attr]
    return sum(map(len, parts.values()))


if __name__ == "__main__":
    main()
