"""Cohen's and Fleiss' κ with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torchmetrics.functional.classification import multiclass_cohen_kappa

from xreal.app.study.questions import Question
from xreal.evaluation.intervals import Number, number

__all__ = ["FEWEST_FOR_INTERVAL", "cohen_kappa", "fleiss_kappa"]

_DRAWS = 500

FEWEST_FOR_INTERVAL = 5
"""Pictures below which there is no bootstrap interval: one picture drawn again and again has no spread at all."""
_TWO_OPTIONS = 2


def cohen_kappa(question: Question, one: np.ndarray, other: np.ndarray, seed: int = 0) -> Number:
    """Compare two series of answers to one question; ordered options (more than two) have quadratic weights.

    Args:
        question: what was asked.
        one: (N,) values.
        other: (N,) values of the same pictures.
        seed: of the bootstrap over pictures.

    Returns:
        κ with its 95% interval, from five pictures on; None where it is not defined: no pictures, or one same answer
        throughout.
    """
    size = len(question.options)
    weights = None if size == _TWO_OPTIONS else "quadratic"
    pairs = torch.from_numpy(np.stack([one, other]).astype(np.int64) - question.values[0])

    def kappa(rows: np.ndarray) -> float:
        first, second = pairs[:, torch.from_numpy(rows)]
        return float(multiclass_cohen_kappa(first, second, size, weights=weights, validate_args=False))

    return _with_interval(kappa, len(one), seed)


def fleiss_kappa(question: Question, answers: np.ndarray, seed: int = 0) -> Number:
    """Compare any number of readers; options count as unordered.

    Args:
        question: what was asked.
        answers: (N pictures, two or more readers) values, all given.
        seed: of the bootstrap over pictures.

    Returns:
        As ``cohen_kappa``.
    """
    readers = answers.shape[1]
    counts = (answers[:, :, None] == np.array(question.values)).sum(axis=1)

    # Own code: torchmetrics' function adds 1e-5 below the fraction, and says 0 where κ is not defined.
    def kappa(rows: np.ndarray) -> float:
        drawn = counts[rows]
        agreeing = ((drawn**2).sum(axis=1) - readers) / (readers * (readers - 1))  # Fleiss (1971), equation 2
        by_chance = ((drawn.sum(axis=0) / drawn.sum()) ** 2).sum()
        return math.nan if by_chance == 1 else float((agreeing.mean() - by_chance) / (1 - by_chance))

    return _with_interval(kappa, len(answers), seed)


def _with_interval(kappa: Callable[[np.ndarray], float], n: int, seed: int) -> Number:
    if n == 0 or not math.isfinite(value := kappa(np.arange(n))):
        return number(math.nan, n)
    if n < FEWEST_FOR_INTERVAL:
        return number(value, n)
    picks = np.random.default_rng(seed).integers(n, size=(_DRAWS, n))
    drawn = np.array([kappa(rows) for rows in picks])
    low, high = np.percentile(drawn[np.isfinite(drawn)], [2.5, 97.5])
    return number(value, n, float(low), float(high))
