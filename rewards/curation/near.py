"""Which texts are nearly equal, by MinHash: two texts are if they share most of their sequences of five characters (Jaccard similarity).

Characters and not words, because Thai has no spaces between words. A text's signature is 112 minima of hashes (by the library rensa), in
14 bands of 8. Only texts that agree in a whole band are compared: two texts with a similarity of 0.8 do with a probability of 92 %, with
0.9 of 99.9 %. These numbers are those of FineWeb (arXiv 2406.17557). A comparison counts how many minima agree, by the last byte of
each (b-bit minwise hashing, arXiv 0910.3349).

A text takes 168 bytes here, however long it is: no text is kept. Must never be asked for meaning: two paraphrases are not near.
"""

import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
from rensa import RMinHash

BANDS, ROWS = 14, 8
HASHES = BANDS * ROWS
SHINGLE = 5
"""The length of the sequences, in characters."""
SEED = 1
CHANCE = 1 / 256
"""How often the last bytes of two different minima agree."""
BATCH = 16_000
"""How many characters are hashed at once. Eight bytes for each of them fit into a processor's second cache."""
COMPARED = 1 << 15
"""How many pairs of texts are compared at once."""
FIRSTS = 256
"""With how many texts that agree in a band a text is compared at most. More of them agree only where a band tells little, because many
texts share most of what it looks at. Near-duplicates in such a crowd agree in other bands as well."""
_OF_LETTERS, _OF_MINIMA = np.random.default_rng(SEED).integers(1, 2**63, (2, 8), dtype=np.uint64) | np.uint64(1)


class NearDuplicates:
    """Takes in texts one by one, and then tells which are nearly equal."""

    def __init__(self) -> None:
        self._minima, self._bands = bytearray(), bytearray()
        self._waiting: list[str] = []
        self._num_waiting = 0  # characters

    def __len__(self) -> int:
        return len(self._minima) // HASHES + len(self._waiting)

    def add(self, text: str) -> None:
        """Take in the next text."""
        self._waiting.append(_plain(text))
        self._num_waiting += len(self._waiting[-1])
        if self._num_waiting >= BATCH:
            self._hash_waiting()

    def groups(self, threshold: float, among: np.ndarray | None = None) -> np.ndarray:
        """For each text, the number of the first text of its group; its own number if it is the first, or alone.

        Each text of a group is near to some other one of it, but perhaps not to all of them. among: the numbers of the texts that are
        looked at, each once; they are numbered anew, in this order. None looks at all.
        """
        self._hash_waiting()
        rows = slice(None) if among is None else among
        minima = np.frombuffer(self._minima, np.uint8).reshape(-1, HASHES)[rows]
        bands = np.frombuffer(self._bands, np.uint32).reshape(-1, BANDS)[rows]
        first = np.arange(len(minima))
        for band in range(BANDS):
            for one, other in _near_pairs(minima, bands[:, band], threshold):
                a, b = _root(first, one), _root(first, other)
                first[max(a, b)] = min(a, b)
        while (first[first] != first).any():
            first = first[first]
        return first

    def _hash_waiting(self) -> None:
        """Reduce the sequences of the texts that wait to what is kept of them."""
        if not self._waiting:
            return
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(*_shingles(self._waiting), HASHES, SEED)
        minima = np.array(matrix.to_rows(), dtype=np.uint64)
        self._minima += minima.astype(np.uint8).tobytes()
        mixed = (minima.reshape(-1, BANDS, ROWS) * _OF_MINIMA).sum(axis=2)
        self._bands += (mixed >> np.uint64(32)).astype(np.uint32).tobytes()
        self._waiting, self._num_waiting = [], 0


def _plain(text: str) -> str:
    """The text in lower case with single spaces and composed letters, and at least as long as a sequence."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split()).ljust(SHINGLE, "\0")


def _shingles(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """A hash of each sequence of characters, one text after the other, and where each text begins, with the end of the last one."""
    letters = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
    length = len(letters) - SHINGLE + 1
    mixed = sum((letters[i : i + length] * _OF_LETTERS[i] for i in range(1, SHINGLE)), letters[:length] * _OF_LETTERS[0])
    mixed ^= mixed >> np.uint64(32)  # the sum alone is linear, and neighboring sequences are alike
    mixed *= _OF_LETTERS[SHINGLE]
    lengths = np.array([len(text) for text in texts])
    is_inside = np.ones(length, bool)  # of one text
    for last in range(1, SHINGLE):
        is_inside[np.cumsum(lengths[:-1]) - last] = False
    return mixed[is_inside], np.cumsum([0, *(lengths - SHINGLE + 1)], dtype=np.uint64)


def equal_values(values: np.ndarray) -> list[np.ndarray]:
    """The places of each value that is there more than once, in order."""
    order = np.argsort(values, kind="stable")
    in_order = values[order]
    starts = np.flatnonzero(np.concatenate(([True], in_order[1:] != in_order[:-1]))) if len(values) else np.zeros(0, int)
    ends = np.append(starts[1:], len(values))
    again = ends - starts > 1
    return [order[start:end] for start, end in zip(starts[again].tolist(), ends[again].tolist(), strict=True)]


def _near_pairs(minima: np.ndarray, values: np.ndarray, threshold: float) -> Iterator[tuple[int, int]]:
    """Pairs of texts that agree in a band, with these values, and are near: each text with the first one that is near to it.

    The texts of all values are compared at once: the first of each value with the others, then the first of those that are
    left with the others, and so on, FIRSTS times.
    """
    least = np.searchsorted((np.arange(HASHES + 1) / HASHES - CHANCE) / (1 - CHANCE), threshold)  # minima that agree
    texts = np.argsort(values, kind="stable")
    values = values[texts]
    for _ in range(FIRSTS):
        if not len(texts):
            return
        is_first = np.append(True, values[1:] != values[:-1])
        firsts = texts[is_first][np.cumsum(is_first) - 1][~is_first]
        texts, values = texts[~is_first], values[~is_first]
        near = np.zeros(len(texts), bool)
        for start in range(0, len(texts), COMPARED):
            part = slice(start, start + COMPARED)
            near[part] = _agreeing(minima, firsts[part], texts[part]) >= least
        yield from zip(firsts[near].tolist(), texts[near].tolist(), strict=True)
        texts, values = texts[~near], values[~near]


def _agreeing(minima: np.ndarray, some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """In how many minima each of some texts agrees with its counterpart. A byte holds the number, so nothing is widened."""
    agree = minima.take(some, axis=0) == minima.take(others, axis=0)
    return agree.view(np.uint8).sum(axis=1, dtype=np.uint8)


def _root(first: np.ndarray, text: int) -> int:
    while first[text] != text:
        text = first[text]
    return int(text)
