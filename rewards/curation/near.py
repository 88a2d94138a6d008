"""Which texts are nearly equal, by MinHash: two texts are if they share most of their sequences of five characters (Jaccard similarity).

Characters and not words, because Thai has no spaces between words. A text's signature is 112 minima of hashes (by the library rensa), in
14 bands of 8. Only texts that agree in a whole band are compared: two texts with a similarity of 0.8 do with a probability of 92 %, with
0.9 of 99.9 %. These numbers are those of FineWeb (arXiv 2406.17557). A comparison counts how many minima agree, by the last byte of
each (b-bit minwise hashing, arXiv 0910.3349).

A text takes 168 bytes here, however long it is: no text is kept. Must never be asked for meaning: two paraphrases are not near.
"""

import unicodedata

import numpy as np
from rensa import RMinHash

BANDS, ROWS = 14, 8
HASHES = BANDS * ROWS
SHINGLE = 5
"""The length of the sequences, in characters."""
SEED = 1
CHANCE = 1 / 256
"""How often the last bytes of two different minima agree."""
BATCH = 512
"""How many texts are hashed at once."""
_OF_LETTERS, _OF_MINIMA = np.random.default_rng(SEED).integers(1, 2**63, (2, 8), dtype=np.uint64) | np.uint64(1)


class NearDuplicates:
    """Takes in texts one by one, and then tells which are nearly equal."""

    def __init__(self) -> None:
        self._minima, self._bands = bytearray(), bytearray()
        self._waiting: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._minima) // HASHES + len(self._waiting)

    def add(self, text: str) -> None:
        """Take in the next text."""
        self._waiting.append(shingles(text))
        if len(self._waiting) == BATCH:
            self._hash_waiting()

    def groups(self, threshold: float) -> np.ndarray:
        """For each text, the number of the first text of its group; its own number if it is the first, or alone.

        Each text of a group is near to some other one of it, but perhaps not to all of them.
        """
        self._hash_waiting()
        minima = np.frombuffer(self._minima, np.uint8).reshape(-1, HASHES)
        bands = np.frombuffer(self._bands, np.uint32).reshape(-1, BANDS)
        first = np.arange(len(self))
        for band in range(BANDS):
            for members in equal_values(bands[:, band]):
                _join(members, minima, threshold, first)
        while (first[first] != first).any():
            first = first[first]
        return first

    def _hash_waiting(self) -> None:
        """Reduce the sequences of the texts that wait to what is kept of them."""
        if not self._waiting:
            return
        offsets = np.cumsum([0, *map(len, self._waiting)], dtype=np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(self._waiting), offsets, HASHES, SEED)
        minima = np.array(matrix.to_rows(), dtype=np.uint64)
        self._minima += minima.astype(np.uint8).tobytes()
        mixed = (minima.reshape(-1, BANDS, ROWS) * _OF_MINIMA).sum(axis=2)
        self._bands += (mixed >> np.uint64(32)).astype(np.uint32).tobytes()
        self._waiting = []


def shingles(text: str) -> np.ndarray:
    """A hash of each sequence of characters; of the whole text, if it is shorter. Case, white space and the two forms of composed letters
    make no difference."""
    plain = " ".join(unicodedata.normalize("NFC", text).lower().split())
    letters = np.frombuffer(plain.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
    if len(letters) < SHINGLE:
        letters = np.concatenate((letters, np.zeros(SHINGLE - len(letters), np.uint64)))
    length = len(letters) - SHINGLE + 1
    mixed = sum((letters[i : i + length] * _OF_LETTERS[i] for i in range(1, SHINGLE)), letters[:length] * _OF_LETTERS[0])
    mixed ^= mixed >> np.uint64(32)  # the sum alone is linear, and neighbouring sequences are alike
    return mixed * _OF_LETTERS[SHINGLE]


def equal_values(values: np.ndarray) -> list[np.ndarray]:
    """The places of each value that is there more than once, in order."""
    order = np.argsort(values, kind="stable")
    in_order = values[order]
    starts = np.flatnonzero(np.concatenate(([True], in_order[1:] != in_order[:-1]))) if len(values) else np.zeros(0, int)
    ends = np.append(starts[1:], len(values))
    again = ends - starts > 1
    return [order[start:end] for start, end in zip(starts[again].tolist(), ends[again].tolist(), strict=True)]


def _join(members: np.ndarray, minima: np.ndarray, threshold: float, first: np.ndarray) -> None:
    """Compare texts that agree in a band, and join those that are near: each with the first one that is near to it."""
    while len(members) > 1:
        agree = (minima[members[1:]] == minima[members[0]]).mean(axis=1)
        near = (agree - CHANCE) / (1 - CHANCE) >= threshold
        for text in members[1:][near]:
            a, b = _root(first, members[0]), _root(first, text)
            first[max(a, b)] = min(a, b)
        members = members[1:][~near]


def _root(first: np.ndarray, text: int) -> int:
    while first[text] != text:
        text = first[text]
    return int(text)
