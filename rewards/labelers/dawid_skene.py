"""The model of raters by Dawid and Skene: who errs how often, and how likely each answer is the right one. Numbers only.

Each item has one true value, and each rater a confusion matrix: how probable each answer is, given the true value. Neither is known. The
EM algorithm starts from the shares of the votes and finds both together. Nothing is drawn, so equal votes give equal results.

Source: Dawid and Skene, Maximum likelihood estimation of observer error-rates using the EM algorithm, Applied Statistics 28 (1979), 20-28.
Letters: I items, R raters, K values.
"""

from dataclasses import dataclass

import numpy as np

SMOOTHING = 0.01
RIGHT = 10
"""SMOOTHING is added to each count, so that no rater is taken for infallible after a few votes, and RIGHT times as much where the answer is
right. So a rater of whom nothing is known is right 10 times for each time the wrong side is named. The paper adds nothing."""
MAX_STEPS = 500
TOLERANCE = 1e-7
"""EM ends once no probability moves further than this in a step."""


@dataclass(frozen=True)
class Fit:
    """truth [I, K]: the probability of each value. confusion [R, K, K]: of each answer (last axis), given the true value. prior [K]."""

    truth: np.ndarray
    confusion: np.ndarray
    prior: np.ndarray

    @property
    def accuracy(self) -> np.ndarray:
        """The probability that a rater gives the true value, [R]."""
        return np.einsum("k,rkk->r", self.prior, self.confusion)


def fit(counts: np.ndarray, smoothing: float = SMOOTHING) -> Fit:
    """Fit the model. counts [I, R, K]: how often each rater gave each value to each item; every item has at least one."""
    votes = counts.sum(1)
    truth = votes / votes.sum(1, keepdims=True)
    for _ in range(MAX_STEPS):
        prior, confusion = _maximize(counts, truth, smoothing)
        before, truth = truth, _expect(counts, prior, confusion)
        if np.abs(truth - before).max() < TOLERANCE:
            break
    prior, confusion = _maximize(counts, truth, smoothing)
    return Fit(truth, confusion, prior)


def _maximize(counts: np.ndarray, truth: np.ndarray, smoothing: float) -> tuple[np.ndarray, np.ndarray]:
    """The prior [K] and the confusion matrices [R, K, K] that make the votes most probable (equations 2.3 and 2.4)."""
    given = np.einsum("ik,irl->rkl", truth, counts) + smoothing * (1 + (RIGHT - 1) * np.eye(truth.shape[1]))
    totals = given.sum(2, keepdims=True)
    return truth.mean(0), np.divide(given, totals, out=np.zeros_like(given), where=totals > 0)


def _expect(counts: np.ndarray, prior: np.ndarray, confusion: np.ndarray) -> np.ndarray:
    """The probability of each true value [I, K] (equation 2.5), in logarithms, since many raters make small products."""
    tiny = np.finfo(float).tiny
    logs = np.log(np.maximum(prior, tiny)) + np.einsum("irl,rkl->ik", counts, np.log(np.maximum(confusion, tiny)))
    weights = np.exp(logs - logs.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)
