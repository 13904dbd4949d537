"""Can a classifier tell generated images from real ones? The classifier two-sample test (Lopez-Paz and Oquab 2017).

A distance has no scale of its own; the accuracy of a classifier on images that it has not seen has one: 0.5 where the
two sets cannot be told apart, 1 where every image gives itself away. What it can notice depends on its features. Those
here see anatomy and disease (the judging encoder), grey levels and texture (radiomics), blur and noise (spectrum) and
the patterns of upsampling (grid).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xreal.errors import InputError
from xreal.evaluation.intervals import share_interval
from xreal.evaluation.spectrum import grid_excess, radial_power

__all__ = ["FEWEST_TO_TELL", "detection_features", "detection_scores", "discriminant"]

Floats = NDArray[np.float64]

FEWEST_TO_TELL = 50
"""Images of each set below which a classifier learns too little for its failure to mean anything."""

_BANDS = 16  # of the spectrum, each wider than the one below by one factor
_FOLDS, _SEEDS = 5, 5
_RIDGE = 30.0  # chosen on two halves of 296 radiographs of NIH ChestX-ray14, one of them spoilt in eight ways
_LIMIT = 5.0  # standard deviations; single freaks must not steer the classifier


def detection_features(images: np.ndarray, *features: np.ndarray) -> Floats:
    """Join features that are there already with those of the spectrum.

    Args:
        images: (N, H, W) float in [0, 1], sides of at least 64 pixels. Real ones are stored in 8 bits: round generated
            ones to these as well, or that is what will be noticed.
        features: (N, d) each, of any extractor.

    Returns:
        (N, D), D = the sum of the d, 16 bands of the spectrum and the frequencies of ``grid_excess``.

    Raises:
        InputError: images of another shape, smaller ones, or values that are not finite.
    """
    frequencies, power = radial_power(images)
    edges = np.geomspace(frequencies[0], frequencies[-1] * (1 + 1e-9), _BANDS + 1)
    band = np.searchsorted(edges, frequencies, side="right")
    bands = [power[:, band == i].mean(axis=1) for i in np.unique(band)]
    return np.concatenate([*features, np.stack(bands, axis=1), grid_excess(images)], axis=1)


def detection_scores(real: np.ndarray, generated: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Train a linear classifier to tell two sets apart and return its accuracy on images that it has not seen.

    Fisher's discriminant with a ridge, five folds, five ways to fold. An image that stands in one set several times is
    in training and test at once, so a set that repeats itself is told by heart: accuracy 1. An image that stands in
    both sets is learnt with the wrong label: accuracy far below 0.5 means that pictures were copied.

    Args:
        real: (N, D) features.
        generated: (M, D); of sets of unequal size, the larger one's first rows are taken.
        seed: of the folds.

    Returns:
        "accuracy", and " low" and " high" of its 95% interval (Wilson, which on simulated sets is as wide as accuracies
        scatter from data to data).

    Raises:
        InputError: fewer than 50 rows on one side, widths that differ, or values that are not finite.
    """
    for name, features in (("real", real), ("generated", generated)):
        if len(features) < FEWEST_TO_TELL:
            raise InputError(
                f"{len(features)} {name} images are too few to train a classifier that tells real from generated: "
                f"give at least {FEWEST_TO_TELL}"
            )
        if features.ndim != 2 or not np.isfinite(features).all():
            raise InputError(f"{name} features have the shape {features.shape}; expected finite (images, features)")
    if real.shape[1] != generated.shape[1]:
        raise InputError(
            f"real images have {real.shape[1]} features, generated ones {generated.shape[1]}; use the same"
        )
    count = min(len(real), len(generated))
    both = np.concatenate([real[:count], generated[:count]]).astype(np.float64)
    truth = np.repeat([-1.0, 1.0], count)
    rng, right = np.random.default_rng(seed), []
    for _ in range(_SEEDS):
        fold = np.concatenate([rng.permutation(count) % _FOLDS for _ in range(2)])  # as many of each in every fold
        for i in range(_FOLDS):
            said = discriminant(both[fold != i], truth[fold != i], both[fold == i])
            right.append(said * truth[fold == i] > 0)
    accuracy = float(np.concatenate(right).mean())
    low, high = share_interval(accuracy, 2 * count)
    return {"accuracy": accuracy, "accuracy low": min(accuracy, low), "accuracy high": max(accuracy, high)}


def discriminant(train: Floats, truth: Floats, test: Floats) -> Floats:
    """Fit Fisher's discriminant with a ridge to two kinds of features, and ask it about others.

    Args:
        train: (N, D).
        truth: (N,), −1 or 1 of each.
        test: (M, D).

    Returns:
        (M,), larger for label 1; with as many of each label, above 0 for it.
    """
    mean, spread = train.mean(axis=0), train.std(axis=0)
    spread = np.where(spread > 1e-9 * np.maximum(1, np.abs(mean)), spread, np.inf)  # constant features say nothing
    train, test = (np.clip((features - mean) / spread, -_LIMIT, _LIMIT) for features in (train, test))
    centre = train.mean(axis=0)
    train, test = train - centre, test - centre
    weights = np.linalg.solve(train.T @ train + _RIDGE * np.eye(train.shape[1]), train.T @ truth)
    said: Floats = test @ weights
    return said
