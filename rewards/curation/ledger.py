"""The ledger of the data: what happened to the rows of each source, and why. Plain data; imports no ML library.

A row that makes several pairs, as one with four rated answers, counts once for each of them. Each row has exactly one end:

    keep      it is a training pair, or an answer that SFT is trained on
    remove    nothing uses it; the reason is counted
    move      another part of the run uses it, and the part is counted: HELD_OUT only judges, LABELER only trains the labeler, and of
              PROMPTS only the prompt is used, which the policy answers anew ("move & generate new" in the practitioner's notes)

Beside them stands what was generated: by round, the completions of the policy that the selector has kept. They are new rows, so they are
in no sum with the original ones. The invariant: original = kept + removed + moved, for each source.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

HELD_OUT, LABELER, PROMPTS = "held out", "the labeler", "prompts only"
"""Where a row is moved to."""


class End(NamedTuple):
    """What happened to a row. `why`: the reason for a removal, or the part that the row is moved to."""

    step: str
    why: str = ""


KEEP = End("keep")


def remove(reason: str) -> End:
    """The end of a row that nothing uses."""
    return End("remove", reason)


def move(part: str) -> End:
    """The end of a row that another part of the run uses."""
    return End("move", part)


class DoesNotAddUp(AssertionError):
    """A row has no end, or two."""


@dataclass
class Entry:
    """The account of one source."""

    original: int = 0
    kept: int = 0
    removed: Counter[str] = field(default_factory=Counter)
    moved: Counter[str] = field(default_factory=Counter)
    generated: dict[str, int] = field(default_factory=dict)

    def add(self, end: End, count: int = 1) -> None:
        """Enter rows that came to this end."""
        self.original += count
        self._end(end, count)

    def change(self, old: End, new: End, count: int) -> None:
        """A later step gives rows another end."""
        self._end(old, -count)
        self._end(new, count)

    def _end(self, end: End, count: int) -> None:
        if end.step == "keep":
            self.kept += count
        else:
            (self.removed if end.step == "remove" else self.moved)[end.why] += count

    def adds_up(self) -> bool:
        """Whether each row has one end."""
        ends = [self.kept, *self.removed.values(), *self.moved.values()]
        return self.original == sum(ends) and min(ends) >= 0

    def as_json(self) -> dict[str, Any]:
        """The entry as JSON values."""
        parts = {"removed": dict(+self.removed), "moved": dict(+self.moved), "generated": dict(self.generated)}
        return {"original": self.original, "kept": self.kept} | parts


@dataclass
class Ledger:
    """An entry for each source, in the order in which the sources appear."""

    entries: dict[str, Entry] = field(default_factory=dict)

    def entry(self, source: str) -> Entry:
        """The account of a source, opened if it is new."""
        return self.entries.setdefault(source, Entry())

    def add(self, source: str, end: End, count: int = 1) -> None:
        """Enter rows of a source that came to this end."""
        self.entry(source).add(end, count)

    def change(self, source: str, old: End, new: End, count: int = 1) -> None:
        """A later step gives rows of a source another end."""
        self.entry(source).change(old, new, count)

    def generate(self, round_name: str, by_source: Mapping[str, int]) -> None:
        """Enter what the selector of a round has kept."""
        for source, count in by_source.items():
            self.entry(source).generated[round_name] = count

    def check(self) -> None:
        """Raises DoesNotAddUp if original = kept + removed + moved does not hold for a source."""
        for source, entry in self.entries.items():
            if not entry.adds_up():
                raise DoesNotAddUp(f"the ledger of {source!r} does not add up: {entry.as_json()}")

    def total(self) -> Entry:
        """All sources together."""
        found = Entry()
        for entry in self.entries.values():
            found.original += entry.original
            found.kept += entry.kept
            found.removed += entry.removed
            found.moved += entry.moved
            for name, count in entry.generated.items():
                found.generated[name] = found.generated.get(name, 0) + count
        return found

    def as_json(self) -> dict[str, Any]:
        """The ledger as JSON values, by source."""
        return {source: entry.as_json() for source, entry in self.entries.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Mapping[str, Any]]) -> "Ledger":
        """What `as_json` has written."""
        read = {
            source: Entry(row["original"], row["kept"], Counter(row["removed"]), Counter(row["moved"]), dict(row["generated"]))
            for source, row in values.items()
        }
        return cls(read)


Rows = list[list[str]]


def table(ledger: Ledger, rounds: Sequence[str] = ()) -> tuple[list[str], Rows]:
    """Headers and rows: one row for each source, and their total if there are several. rounds: those that have a column of their own."""
    headers = ["source", "original", "removed", "moved", "kept", *(rounds or ["generated"])]
    entries = list(ledger.entries.items())
    entries += [("total", ledger.total())] if len(entries) > 1 else []
    rows = []
    for source, entry in entries:
        numbers = [entry.original, entry.removed.total(), entry.moved.total(), entry.kept]
        numbers += [entry.generated.get(name, 0) for name in rounds] or [sum(entry.generated.values())]
        rows.append([source, *map(str, numbers)])
    return headers, rows


def reasons(ledger: Ledger) -> tuple[list[str], Rows]:
    """Headers and rows: how many rows of each source were removed or moved, by reason. The most frequent ones come first."""
    rows = []
    for source, entry in ledger.entries.items():
        for step, found in (("remove", entry.removed), ("move", entry.moved)):
            rows += [[f"{source}: {step}, {why}", str(count)] for why, count in found.most_common() if count]
    return ["step and reason", "rows"], rows


def line(ledger: Ledger) -> str:
    """All sources in one line of text."""
    total = ledger.total()
    generated = ", ".join(f"{name} {count}" for name, count in total.generated.items()) or "nothing"
    sums = f"original {total.original} = kept {total.kept} + removed {total.removed.total()} + moved {total.moved.total()}"
    return f"ledger: {sums}; generated: {generated}"
