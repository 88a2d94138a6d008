"""The rule `repetition`: the shares of a text that say again what it has said before.

The measures and their thresholds are those of Gopher (arXiv 2112.11446, table A1), in the form of datatrove's `GopherRepetitionFilter`
(github.com/huggingface/datatrove): lines, paragraphs, the most frequent n-gram, and n-grams that occur again. Three things differ, because
answers are shorter than web pages. An n-gram must occur three times before it is "the most frequent one". Sentences are measured as lines
are, because an answer is often one line. Shares are shares of the letters, and no letter is counted twice.
"""

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rewards.rules import texts
from rewards.rules.reply import Reply
from rewards.rules.verdict import Verdict

DUPLICATE_PARTS, DUPLICATE_LETTERS = 0.30, 0.20
"""The most of the lines, paragraphs or sentences that may have occurred before, and of the letters in them. Gopher, table A1."""
TOP_N_GRAMS = {2: 0.20, 3: 0.18, 4: 0.16}
"""n -> the most of the letters that the most frequent n-gram may have. Gopher, table A1."""
REPEATED_N_GRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
"""n -> the most of the letters that n-grams may have which occurred before. Gopher, table A1."""
TOP_N_GRAM_COUNT = 3
"""An n-gram that occurs less often is not "frequent". In an answer of ten words, any two of them have more than 20 % of the letters."""
WIDTH = array("I").itemsize
LOOP_COPIES, LOOP_COPIES_OF_ONE = 3, 4
"""How often something is said without anything between, so that it is a loop; and if it is a single word. "No, no, no" is emphasis."""
LOOPED_LETTERS = 0.05
"""The most of the letters that may be in loops: half of Gopher's smallest bound, because nobody writes loops."""
TOP_FACTOR = {False: 1.0, True: 1.4}
"""What the thresholds of the most frequent n-grams are multiplied by; True for Thai."""
REPEATED_FACTOR = {False: 2.0, True: 3.5}
"""The same for repeated n-grams. Gopher's are made for long English web pages. Thai press text
repeats long names of offices. FineWeb2 (arXiv 2506.20920) also sets such thresholds by language. Chosen on the half `tune`."""
SENTENCES_FACTOR = {False: 1.0, True: 2.0}
"""The same for sentences, because a space between Thai phrases is no end of a sentence."""


class Share(NamedTuple):
    """One measure of repetition: its name, the share of the text, and the most that is accepted."""

    measure: str
    value: float
    threshold: float


def repetition(reply: Reply) -> Verdict:
    """The text says the same lines, sentences, phrases or words again. Measured: the share that is furthest above its threshold.

    Source: Gopher, arXiv 2112.11446, table A1, and datatrove's filter of it; see the top of this file.
    """
    worst = max(shares(reply.text.strip()), key=lambda share: share.value / share.threshold)
    return Verdict("repetition", worst.value, worst.threshold, worst.measure)


def shares(text: str) -> Iterator[Share]:
    """All measures of a text."""
    paragraphs = [part for part in text.split("\n\n") if part.strip()]
    thai = texts.is_thai(text)
    yield from _duplicates("lines", text.splitlines())
    yield from _duplicates("paragraphs", paragraphs)
    yield from _duplicates("sentences", texts.phrases(text), SENTENCES_FACTOR[thai])
    found = texts.units(text)
    per_word = texts.CLUSTERS_PER_WORD if thai else 1
    total = sum(map(len, found))
    if not total:
        return
    packed, lengths = _packed(found), list(map(len, found))
    yield Share("letters in loops", _looped(found) / total, LOOPED_LETTERS)
    for n, threshold in TOP_N_GRAMS.items():
        yield Share(f"the most frequent {n}-gram", _top(packed, lengths, n * per_word) / total, threshold * TOP_FACTOR[thai])
    for n, threshold in REPEATED_N_GRAMS.items():
        yield Share(f"repeated {n}-grams", _repeated(packed, lengths, n * per_word) / total, threshold * REPEATED_FACTOR[thai])


def _looped(found: Sequence[str]) -> int:
    """The letters in loops: the same units three times or more without anything between, a single one four times. One pass over the text.

    In a loop of p units, each pair of neighbors was last seen p places ago. A single letter that is drawn out ("soooo", in Thai one
    cluster after the other) is no loop.
    """
    last: dict[tuple[str, ...], int] = {}
    letters = period = length = 0
    for at in range(len(found)):
        pair = tuple(found[at : at + 2])
        distance = at - last[pair] if len(pair) == 2 and pair in last else 0
        last[pair] = at
        if distance != period:
            letters += _letters_of_loop(found, at, length, period)
            period, length = distance, 0
        length += 1
    return letters + _letters_of_loop(found, len(found), length, period)


def _letters_of_loop(found: Sequence[str], end: int, length: int, period: int) -> int:
    """The letters of a run of `length` pairs before `end`, each of which was last seen `period` places ago; 0 if it is no loop."""
    copies = LOOP_COPIES_OF_ONE if period == 1 else LOOP_COPIES
    if not period or length + 1 < (copies - 1) * period:
        return 0
    units = found[max(0, end - length - period) : end + 1]
    is_drawn_out = len(set(units)) == 1 and len(units[0]) == 1
    return 0 if is_drawn_out else sum(map(len, units))


def _duplicates(name: str, found: Sequence[str], factor: float = 1.0) -> Iterator[Share]:
    """The share of the parts of a text that have occurred before, and of their letters."""
    parts = [part.strip() for part in found if part.strip()]
    again = sum(count - 1 for count in Counter(parts).values())
    letters = sum((count - 1) * len(part) for part, count in Counter(parts).items())
    yield Share(f"repeated {name}", again / max(1, len(parts)), DUPLICATE_PARTS * factor)
    yield Share(f"letters in repeated {name}", letters / max(1, sum(map(len, parts))), DUPLICATE_LETTERS * factor)


def _top(packed: bytes, lengths: Sequence[int], n: int) -> int:
    """The letters in the places of the most frequent n-gram, if it occurs often enough."""
    grams = [packed[WIDTH * i : WIDTH * (i + n)] for i in range(len(lengths) - n + 1)]
    top, count = Counter(grams).most_common(1)[0] if grams else (b"", 0)
    if count < TOP_N_GRAM_COUNT:
        return 0
    covered = {place for i, gram in enumerate(grams) if gram == top for place in range(i, i + n)}
    return sum(lengths[place] for place in covered)


def _repeated(packed: bytes, lengths: Sequence[int], n: int) -> int:
    """The letters in n-grams that have occurred before. After such an n-gram, the next one starts behind it, as in datatrove."""
    seen: set[bytes] = set()
    letters = at = 0
    while at + n <= len(lengths):
        gram = packed[WIDTH * at : WIDTH * (at + n)]
        if gram in seen:
            letters += sum(lengths[at : at + n])
            at += n
        else:
            seen.add(gram)
            at += 1
    return letters


def _packed(found: Sequence[str]) -> bytes:
    """The units as numbers in one string of bytes, whose parts are compared faster than tuples of texts."""
    numbers: dict[str, int] = {}
    return array("I", [numbers.setdefault(unit, len(numbers)) for unit in found]).tobytes()
