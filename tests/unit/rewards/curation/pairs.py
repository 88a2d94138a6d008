"""Rows for the tests of curation."""

from configs.seeds import derive_seed
from rewards.comparisons import Comparison
from rewards.curation.sketches import Sketches
from rewards.data.splits import content_id


def pair(prompt="q", chosen="a", rejected="b", **more):
    return Comparison(content_id(prompt), prompt, chosen, rejected, **more)


def sketch(pairs, side="training"):
    """The sketches of pairs, all on one side, or each given with its own."""
    found = Sketches(compares_prompts=True)
    for row in pairs:
        found.add(*(row if isinstance(row, tuple) else (row, side)))
    return found


def number(*names, below):
    """A random number that depends on the names only."""
    return derive_seed(*names) % below
