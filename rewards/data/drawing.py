"""Draws from a stream at random, without knowing how long it is. Imports no ML library."""

import heapq
import random
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Reservoir(Generic[Item]):
    """At most `size` of the items that are added, drawn at random without replacement.

    Each item gets an exponential random number whose rate is the item's weight, and those with the smallest numbers stay (Efraimidis and
    Spirakis, Weighted random sampling with a reservoir, 2006, algorithm A-Res; theirs are the same numbers, exponentiated). With equal
    weights, each set of `size` items is equally likely. Memory holds `size` items.
    """

    def __init__(self, size: int, seed: int):
        self._size, self._random = size, random.Random(seed)
        self._heap: list[tuple[float, int, Item]] = []
        self.added = 0

    def add(self, item: Item, weight: float = 1.0) -> bool:
        """Add the next item of the stream. Returns whether it stays for now; if not, it will not be drawn."""
        entry = (-self._random.expovariate(weight), self.added, item)
        self.added += 1
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, entry)
            return True
        return heapq.heappushpop(self._heap, entry) is not entry

    def drawn(self) -> list[Item]:
        """The items that stay, in the order in which they were added."""
        return [item for _, _, item in sorted(self._heap, key=lambda entry: entry[1])]
