"""Simple ways to choose, beside which a reward model is judged, and the warning where it is not better than they are.

A bag of words knows which words occur in the chosen completions, and nothing of their order, of the prompt or of the language. A reward
model that such a model beats is not one to run PPO against.

    p(chosen is better) = sigmoid(w . (x(chosen) - x(rejected)))        x: counts of hashed terms, scaled to length 1 (Bradley-Terry)

Terms are words and pairs of neighboring words. In scripts without spaces between words, they are sequences of 1 to 4 characters.
As a baseline of a reward model, it must never be fitted on held-out pairs.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import pairwise

from scipy.sparse import vstack
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression

from rewards.comparisons import Answer, Comparison
from rewards.measurements import Summary
from rewards.reward_model import Chooser, outcomes

NUM_TERMS = 2**18
"""Terms are hashed to so many numbers. Two terms may share one."""
MAX_CHARACTERS = 4
WITHOUT_SPACES = "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
"""Thai, Lao, Tibetan, Burmese, Khmer, Japanese and Chinese characters. Thai vowel signs are no `\\w` for Python, but they are here."""
_PIECE = re.compile(rf"([{WITHOUT_SPACES}]+)|[^\W{WITHOUT_SPACES}]+")

SHORTER, BAG_OF_WORDS = "shorter_wins", "bag_of_words"
NAMES = {SHORTER: '"the shorter completion wins"', BAG_OF_WORDS: "a bag of words"}


def shortest(answers: Sequence[Answer]) -> list[float]:
    """Score completions by length in characters: the shorter, the higher."""
    return [-float(len(answer.completion)) for answer in answers]


def terms(text: str) -> list[str]:
    """The terms of a text, in lower case. A term that occurs twice is there twice."""
    pieces = list(_PIECE.finditer(unicodedata.normalize("NFC", text).lower()))
    words = [None if piece[1] else piece[0] for piece in pieces]  # None keeps words apart between which there is another script
    found = [word for word in words if word]
    found += [f"{first} {second}" for first, second in pairwise(words) if first and second]
    for piece in pieces:
        run = piece[1] or ""
        found += [run[start : start + size] for size in range(1, MAX_CHARACTERS + 1) for start in range(len(run) - size + 1)]
    return found


def fit_bag_of_words(pairs: Sequence[Comparison]) -> Chooser:
    """Fit a bag of words on the pairs that are no ties, and return its scores. There must be one such pair."""
    vectorizer = HashingVectorizer(analyzer=terms, n_features=NUM_TERMS)
    decided = [pair for pair in pairs if not pair.tie]
    differences = vectorizer.transform([pair.chosen for pair in decided]) - vectorizer.transform([pair.rejected for pair in decided])
    model = LogisticRegression(fit_intercept=False, max_iter=1000)
    model.fit(vstack([differences, -differences]), [1] * len(decided) + [0] * len(decided))

    def score(answers: Sequence[Answer]) -> list[float]:
        return model.decision_function(vectorizer.transform([answer.completion for answer in answers])).tolist()

    return score


def judge_beside(chooser: Chooser, baselines: Mapping[str, Chooser], pairs: Sequence[Comparison]) -> dict[str, Summary]:
    """Compare a reward model with each baseline on held-out pairs: all accuracies, and the paired differences from the baselines."""
    right = outcomes(chooser, pairs)
    found = {"accuracy_heldout": right.accuracy()}
    for name, baseline in baselines.items():
        simple = outcomes(baseline, pairs)
        found |= {name: simple.accuracy(), f"accuracy_over_{name}": (right - simple).mean()}
    return found


def find_unbeaten(found: Mapping[str, Summary], baselines: Mapping[str, Chooser]) -> list[str]:
    """The baselines that a reward model does not beat by more than one standard error, by what `judge_beside` has found.

    Where there is no standard error, because there are fewer than two prompts, nothing is said.
    """
    differences = {name: found[f"accuracy_over_{name}"] for name in baselines}
    return [
        name
        for name, difference in differences.items()
        if difference["mean"] is not None
        and difference["standard_error"] is not None
        and difference["mean"] <= difference["standard_error"]
    ]


def describe_unbeaten(model: str, found: Mapping[str, Summary], unbeaten: Sequence[str]) -> str:
    """One clause that says which baselines a reward model does not beat, with the figures. `model`: what it is called."""
    right = found["accuracy_heldout"]
    others = " and ".join(f"{NAMES[name]} ({_figure(found[name])})" for name in unbeaten)
    return f"{model} (accuracy {_figure(right)} on {right['pairs']} held-out pairs) is not clearly better than {others}"


def _figure(accuracy: Summary) -> str:
    return f"{accuracy['accuracy']:.3f} ± {accuracy['standard_error']:.3f}"
