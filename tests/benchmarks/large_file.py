"""How much memory and time a large file of preference pairs takes.

    python -m tests.benchmarks.large_file [--megabytes 300] [--kind jsonl] [--only parse data]

Writes a file of random pairs, and has child processes read it, so that each has its own peak of memory. A child notes its memory after its
imports, and does one of these:

    parse       one pass over the file that only parses the rows
    pass        one careful pass: parse, normalize and hash each row
    data        what the stage `data` does
    filter N    what the stage `filter` then does with limits of N tokens, and a small tokenizer
    max_pairs   what both do with `data.max_pairs=10000`, and limits of 64 tokens
"""

import argparse
import itertools
import json
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from loop.executors.executor import QUIET_LIBRARIES

SYLLABLES = {
    "Latin": [
        "ban",
        "dor",
        "kel",
        "tur",
        "sim",
        "ra",
        "po",
        "ne",
        "li",
        "go",
        "the",
        "wa",
        "ing",
        "er",
        "s",
        "est",
        "um",
        "lo",
        "ki",
        "fa",
    ],
    "Thai": ["มะ", "ม่วง", "สวัส", "ดี", "ครับ", "กา", "ไป", "บ้าน", "น้ำ", "เรือ", "ทาง", "ใจ", "ผู้", "คน", "วัน", "เมือง", "ใหม่", "ห้า", "นี้", "ที่"],
}
THAI_ROWS = 0.25
NUM_WORDS = 20_000
"""Of each script. The n-th word is drawn n times less often than the first one, as in real text (Zipf's law)."""
TEXT_WORDS = (5, 90)
"""The fewest and the most words of a prompt or an answer."""
VOCABULARY = 4000
"""The size of the tokenizer's vocabulary."""


def main() -> None:
    works = {"parse": parse, "pass": one_pass, "data": load_all}
    works |= {f"filter {limit}": partial(filter_all, limit) for limit in (64, 512)} | {"max_pairs": load_some}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--kind", choices=("jsonl", "parquet"), default="jsonl")
    parser.add_argument("--only", nargs="+", choices=works, default=list(works), help="what is measured; filter needs data before it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"pairs.{options.kind}"
        rows = write(path, options.megabytes * 1_000_000)
        print(f"{path.stat().st_size / 1e6:.0f} MB, {rows} pairs, {options.kind}")
        print(f"{'':24} {'seconds':>8} {'of CPU':>8} {'MB beyond imports':>18}  rows")
        for name in options.only:
            seconds, busy, megabytes, kept = in_a_child(works[name], path)
            print(f"{name:24} {seconds:8.1f} {busy:8.1f} {megabytes:18.0f}  {kept}", flush=True)


def write(path: Path, size: int) -> int:
    """A file of about `size` bytes of JSON, with a tokenizer beside it; returns the number of its rows. The prompts are all different."""
    rng = random.Random(0)
    texts = {script: _texts(rng, parts) for script, parts in SYLLABLES.items()}
    lines = path.with_suffix(".jsonl")
    rows = written = 0
    with lines.open("w", encoding="utf-8") as file:
        while written < size:
            some = texts["Thai" if rng.random() < THAI_ROWS else "Latin"]
            row = {"prompt": f"{rows} {next(some)}", "chosen": next(some), "rejected": next(some)}
            line = json.dumps(row, ensure_ascii=False) + "\n"
            written += len(line.encode())
            rows += 1
            file.write(line)
    _train_tokenizer([next(some) for some in texts.values() for _ in range(1000)]).save_pretrained(path.parent)
    if path.suffix == ".parquet":
        import datasets

        datasets.disable_progress_bars()
        datasets.load_dataset("json", data_files=str(lines), split="train", cache_dir=str(path.parent)).to_parquet(path)
    return rows


def _texts(rng: random.Random, syllables: list[str]) -> Iterator[str]:
    """Texts of made words, of random lengths, without an end."""
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(NUM_WORDS)]
    chances = 1 / np.arange(1, NUM_WORDS + 1)
    drawing = np.random.default_rng(rng.randrange(2**32))
    while True:
        lengths = drawing.integers(*TEXT_WORDS, size=10_000)
        drawn = iter(drawing.choice(NUM_WORDS, size=lengths.sum(), p=chances / chances.sum()).tolist())
        yield from (" ".join(words[number] for number in itertools.islice(drawn, length)) for length in lengths.tolist())


def _train_tokenizer(texts: list[str]) -> Any:
    from policies.tiny_base import train_tokenizer

    return train_tokenizer(texts, VOCABULARY)


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
    import transformers

    import policies.tiny_base
    import rewards.data.lengths
    import rewards.data.preference_data

    assert datasets and pyarrow and policies.tiny_base and rewards.data.lengths and rewards.data.preference_data
    assert transformers.AutoTokenizer  # a lazy import


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


def one_pass(path: Path) -> int:
    """What takes each row as it should be, once: parse, check and normalize it, and hash its prompt and answers."""
    from configs.data import DataConfig
    from rewards.comparisons import Comparison
    from rewards.curation.sketches import Sketches
    from rewards.data.reading import ReadRow, read_source
    from rewards.data.sources import find_sources
    from rewards.data.splits import Split

    sketches, split = Sketches(compares_prompts=False), Split(0, 0.22)
    (source,) = find_sources(DataConfig(source=str(path)))
    for row in read_source(source, is_normalized=True):
        assert isinstance(row, ReadRow)
        for pair in row.records:
            assert isinstance(pair, Comparison)
            sketches.add(pair, split.side(pair.prompt))
    return len(sketches)


def load_all(path: Path) -> int:
    return _load(path, "all")


def load_some(path: Path) -> int:
    _load(path, "some", max_pairs=10_000)
    return _filter(path, "some", 64)


def filter_all(limit: int, path: Path) -> int:
    return _filter(path, "all", limit)


def _load(path: Path, name: str, **settings: Any) -> int:
    """What the stage `data` does with a file."""
    from configs.data import DataConfig
    from rewards.data.preference_data import load_preference_data
    from rewards.data.sources import hash_source

    loaded = load_preference_data(DataConfig(source=str(path), **settings), 0, folder=path.parent)
    parts = {"pairs": loaded.pairs, "heldout_pairs": loaded.heldout, "prompts": loaded.prompts, "heldout_prompts": loaded.heldout_prompts}
    for part, rows in parts.items():
        rows.write(path.parent / f"{name}-{part}.jsonl")  # type: ignore[union-attr]
    assert all(hash_source(counts.source) for counts in loaded.counts)
    return sum(map(len, parts.values()))


def _filter(path: Path, name: str, limit: int) -> int:
    """What the stage `filter` does with what `_load` has written."""
    from transformers import AutoTokenizer

    from rewards.comparisons import Comparison, PromptRecord
    from rewards.data.lengths import TokenLimits
    from rewards.data.row_files import RowFile, StoredRows

    limits, kept = TokenLimits(AutoTokenizer.from_pretrained(path.parent), limit, limit), 0
    for part in ("pairs", "heldout_pairs", "prompts", "heldout_prompts"):
        kind: type[Any] = PromptRecord if part.endswith("prompts") else Comparison
        rows: RowFile[Any] = RowFile(kind, path.parent)
        limits.keep_into(rows, StoredRows.of(path.parent / f"{name}-{part}.jsonl", kind), lambda row, reason: None)
        rows.write(path.parent / f"{name}-{part}.filtered")
        kept += len(rows)
    return kept


if __name__ == "__main__":
    main()
