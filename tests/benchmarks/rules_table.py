"""What the rules find: planted defects, clean text, real footers. Writes the tables of docs/rules.md.

    LOOP_SHARED_DATA=FOLDER python -m tests.benchmarks.rules_table

Everything is measured on the half of the documents that no threshold and no pattern was chosen on (tests/planted.py).
"""

import hashlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rewards.rules import RULES
from rewards.rules.form import footer
from rewards.rules.reply import Reply
from tests import planted
from tests.conftest import SHARED_DATA

PAGE = Path(__file__).parents[2] / "docs" / "rules.md"
COUNT = 400
"""How many documents are drawn for each rule and language, with a defect and without. Some rules find fewer documents that suit."""
BEGIN, END = "<!-- tables: begin, written by tests/benchmarks/rules_table.py -->", "<!-- tables: end -->"


@dataclass(frozen=True)
class Row:
    """One rule in one language. speed: replies in a second of CPU time, by one thread."""

    rule: str
    language: str
    planted: int
    found: int
    clean: int
    false: int
    speed: float

    @property
    def recall(self) -> float:
        return self.found / self.planted

    @property
    def false_positives(self) -> float:
        return self.false / self.clean

    def __str__(self) -> str:
        recall = f"{self.planted} | {self.recall:.3f}" if self.planted else "- | -"
        return f"| `{self.rule}` | {self.language} | {recall} | {self.clean} | {self.false_positives:.3f} | {self.speed:,.0f} |"


def measure(folder: Path, half: str, count: int) -> Iterator[Row]:
    """Each rule in both languages."""
    for rule in planted.PLANTS:
        for language in planted.LANGUAGES:
            bad, clean = planted.draw(folder, rule, language, half, count)
            start = time.process_time()
            found = [bool(RULES[rule](reply)) for reply in [*bad, *clean]]
            seconds = time.process_time() - start
            yield Row(rule, language, len(bad), sum(found[: len(bad)]), len(clean), sum(found[len(bad) :]), len(found) / seconds)


def source_lines(folder: Path) -> tuple[int, int]:
    """In how many of the Thai press texts, each of which ends in a source line, a footer is found, and how many there are."""
    rows = planted.read(folder / "thaigov_th" / "thaigov_900.jsonl.gz")
    return sum(bool(footer(Reply("", row["text"]))) for row in rows), len(rows)


def boilerplate(folder: Path) -> dict[str, tuple[int, int]]:
    """In how many phrases of web pages a footer is found, and how many there are: those that people marked as boilerplate, and as text."""
    rows = planted.read(folder / "web_noise" / "trafilatura_keep_drop.jsonl.gz")
    report = [row for row in rows if hashlib.sha256(row["file"].encode()).digest()[0] % 2 == 1]
    found = {}
    for name, key in (("boilerplate", "without"), ("text", "with")):
        phrases = [phrase for row in report for phrase in row[key] if phrase]
        found[name] = sum(bool(footer(Reply("", phrase))) for phrase in phrases), len(phrases)
    return found


def main() -> None:
    """Measure everything, and write the tables into the page."""
    if not SHARED_DATA.is_dir():
        raise SystemExit(f"the real data is not here: {SHARED_DATA} (set LOOP_SHARED_DATA)")
    rows = list(measure(SHARED_DATA, "report", COUNT))
    lines = [
        "| rule | language | planted | recall | clean | false positives | replies per second |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += map(str, rows)
    found, number = source_lines(SHARED_DATA)
    lines += ["", f"`footer` finds the source line (`ที่มา : URL`) at the end of {found} of {number} Thai press texts."]
    marked = boilerplate(SHARED_DATA)
    lines += ["", "| phrases of web pages, marked by people as | phrases | `footer` fires |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {total:,} | {hits / total:.4f} |" for name, (hits, total) in marked.items()]
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{after}", encoding="utf-8")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
