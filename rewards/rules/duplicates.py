"""The rule `near_duplicate`, and the texts that it compares a completion with."""

from collections.abc import Iterable, Sequence

from rewards.comparisons import Prompt
from rewards.rules.reply import Reply
from rewards.rules.texts import units, units_per_word
from rewards.rules.verdict import Verdict

SHINGLE = 5
"""How many words are compared at once, as in arXiv 2107.06499."""
NEAR = 0.8
"""The Jaccard index above which two texts are near duplicates."""

Shingles = frozenset[tuple[str, ...]]


class Texts:
    """Completions of which the most similar one is found. Exact, and fast, because only those that may be near are compared.

    Two sets can only have a Jaccard index above `NEAR` if they share one of the first |A| - NEAR |A| + 1 shingles of A in a fixed order
    (prefix filtering, Bayardo et al. 2007, "Scaling up all pairs similarity search"). Each text is therefore entered under these only.
    """

    def __init__(self, completions: Iterable[tuple[Prompt, str]] = ()):
        self._entered: list[tuple[Prompt, Shingles]] = []
        self._by_shingle: dict[tuple[str, ...], list[int]] = {}
        for prompt, text in completions:
            self.add(prompt, text)

    def add(self, prompt: Prompt, text: str) -> None:
        """Enter a completion of a prompt."""
        found, number = shingles(text), len(self._entered)
        self._entered.append((prompt, found))
        for shingle in _prefix(found):
            self._by_shingle.setdefault(shingle, []).append(number)

    def nearest(self, prompt: Prompt, text: str) -> float:
        """The highest Jaccard index of a text and a completion of another prompt. It is only exact where it is above `NEAR`."""
        found = shingles(text)
        numbers = {number for shingle in _prefix(found) for number in self._by_shingle.get(shingle, ())}
        others = (entered for number in numbers if (entered := self._entered[number])[0] != prompt)
        return max((jaccard(found, shingles_of) for _, shingles_of in others), default=0.0)


def texts_to_compare(rules: Iterable[str], completions: Iterable[tuple[Prompt, str]] = ()) -> Texts | None:
    """The completions, if one of the rules compares with them; otherwise None, so that nothing is entered for nothing."""
    return Texts(completions) if near_duplicate.__name__ in rules else None


def near_duplicate(reply: Reply) -> Verdict:
    """The completion is nearly the same as one of another prompt. Measured: the Jaccard index of their 5-grams.

    Source: Lee et al., arXiv 2107.06499, section 4.2, who look for near duplicates by 5-grams and take a similarity of 0.8.
    Completions of up to five words are never compared. It never fires where there is nothing to compare with (`Reply.others`).
    """
    value = 0.0 if reply.others is None else reply.others.nearest(reply.prompt, reply.text)
    return Verdict("near_duplicate", value, NEAR)


def shingles(text: str) -> Shingles:
    """All runs of `SHINGLE` words of a text, in Thai of as many clusters. So few words have none: "yes, I do" answers many questions."""
    found, size = units(text), SHINGLE * units_per_word(text)
    if len(found) <= size:
        return frozenset()
    return frozenset(zip(*(found[i:] for i in range(size)), strict=False))


def jaccard(a: Shingles, b: Shingles) -> float:
    """The size of the intersection divided by that of the union. Neither set may be empty."""
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


def _prefix(found: Shingles) -> Sequence[tuple[str, ...]]:
    """The shingles of which a near duplicate must have at least one."""
    keep = len(found) - int(NEAR * len(found)) + 1
    return sorted(found)[:keep]
