"""Does a set of generated images lie where the real ones lie? Distances between two clouds of feature vectors.

Features come from any extractor, one row per image. Numbers of different extractors, or of different n, do not compare.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from torchmetrics.image.kid import poly_mmd

from xreal.errors import InputError
from xreal.evaluation.intervals import Indices, half_sample_intervals

__all__ = [
    "FEWEST_FOR_WHOLE_KID",
    "fidelity_scores",
    "frechet_distance",
    "kid",
    "precision_recall_density_coverage",
    "whole_kid",
]

FEWEST_FOR_WHOLE_KID = 20
"""Images on each side below which the interval of ``whole_kid`` is wider than any gap that it could show."""

Floats = NDArray[np.float64]

_FEWEST_FOR_FRECHET = 10  # below that a covariance says nothing at all
_KID_SUBSET = (50, 1000)  # fewer: noise; 1,000 is the usual size, and with more the subsets become the whole set
_SHARES = ("precision", "recall", "coverage")


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """Return the squared Fréchet distance of two Gaussians fitted to the features (Heusel et al. 2017).

    |μr − μg|² + tr Σr + tr Σg − 2 tr (Σr Σg)^½. The last trace is the sum of the singular values of A Bᵀ for any roots
    Σr = AᵀA, Σg = BᵀB; the centred features are such roots. So no root of a product of covariances is taken, which is
    singular for N < d and where the usual routines fail or lose half of the digits.

    The estimate is biased upwards by a term that falls as 1 / n and grows with d (Chong and Forsyth 2020): compare only
    rows of one n, and read every row beside real against real, which shows the bias alone.

    Args:
        real: (N, d) features.
        generated: (M, d) features of the same extractor.

    Raises:
        InputError: fewer than 10 rows on one side, widths that differ, or values that are not finite.
    """
    real, generated = _checked(real, generated, _FEWEST_FOR_FRECHET, "the Fréchet distance")
    return _frechet(real, generated)


def _frechet(real: Floats, generated: Floats) -> float:
    root_real, root_generated = _covariance_root(real), _covariance_root(generated)
    overlap = np.linalg.svd(root_real @ root_generated.T, compute_uv=False).sum()
    gap = np.square(real.mean(axis=0) - generated.mean(axis=0)).sum()
    return max(0.0, float(gap + np.square(root_real).sum() + np.square(root_generated).sum() - 2 * overlap))


def _covariance_root(features: Floats) -> Floats:
    """Return A (min(N, d), d) with AᵀA = the covariance."""
    centred = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
    return centred if len(features) <= features.shape[1] else np.asarray(np.linalg.qr(centred, mode="r"))


def kid(
    real: np.ndarray, generated: np.ndarray, subset_size: int | None = None, subsets: int = 100, seed: int = 0
) -> tuple[float, float]:
    """Return the kernel distance (KID, Bińkowski et al. 2018) and its standard deviation over random subsets.

    Squared maximum mean discrepancy, unbiased, with the kernel (x·y / d + 1)³. Zero is expected for equal
    distributions, so small negative values are right. The standard deviation is that of subsets, which overlap; it is
    no standard error.

    Args:
        real: (N, d) features.
        generated: (M, d) features of the same extractor.
        subset_size: rows of each set per subset, 50 to 1,000 and below N and M; min(1000, min(N, M) // 2) if None.
        subsets: how many.
        seed: of the draws.

    Raises:
        InputError: fewer than 100 rows on one side, or a subset size out of range.
    """
    values = _kid_values(real, generated, subset_size, subsets, seed)
    return float(values.mean()), float(values.std(ddof=1))


def _kid_values(
    real: np.ndarray, generated: np.ndarray, subset_size: int | None, subsets: int = 100, seed: int = 0
) -> Floats:
    smallest, largest = _KID_SUBSET
    real, generated = _checked(real, generated, 2 * smallest, "the kernel distance (KID)")
    fewest = min(len(real), len(generated))
    size = min(largest, fewest // 2) if subset_size is None else subset_size
    if not smallest <= size <= largest or size >= fewest:
        raise InputError(
            f"subset_size {size} for the kernel distance; with {fewest} images it must lie between {smallest} and "
            f"{min(largest, fewest - 1)}"
        )
    rng, real_rows, generated_rows = np.random.default_rng(seed), torch.from_numpy(real), torch.from_numpy(generated)
    values = []
    for _ in range(subsets):
        picked = real_rows[rng.permutation(len(real))[:size]], generated_rows[rng.permutation(len(generated))[:size]]
        values.append(float(poly_mmd(*picked, degree=3, coef=1.0)))
    return np.array(values)


def whole_kid(real: np.ndarray, generated: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Return the kernel distance of whole sets, for sets too small for subsets: single findings.

    The same unbiased estimate as ``kid``, over all pairs of images at once, so that numbers of different n compare.

    Args:
        real: (N, d) features.
        generated: (M, d) features of the same extractor.
        seed: of the interval.

    Returns:
        "kid", "kid low", "kid high" (95%, ``half_sample_intervals``).

    Raises:
        InputError: fewer than 20 rows on one side, widths that differ, or values that are not finite.
    """
    real, generated = _checked(real, generated, FEWEST_FOR_WHOLE_KID, "the kernel distance (KID) of a finding")
    both = np.concatenate([real, generated])
    kernel = (both @ both.T / both.shape[1] + 1) ** 3

    def measure(rows: Indices, columns: Indices) -> dict[str, float]:
        among_real, among_generated = (
            (part.sum() - np.trace(part)) / (len(picked) * (len(picked) - 1))
            for picked in (rows, len(real) + columns)
            for part in (kernel[np.ix_(picked, picked)],)
        )
        between = kernel[np.ix_(rows, len(real) + columns)].mean()
        return {"kid": float(among_real + among_generated - 2 * between)}

    return half_sample_intervals(measure, len(real), len(generated), seed)


def precision_recall_density_coverage(real: np.ndarray, generated: np.ndarray, k: int = 5) -> dict[str, float]:
    """Count how many images of one set lie in the neighbourhoods of the other.

    A neighbourhood reaches from an image to its k-th nearest neighbour in its own set. Precision: share of generated
    images inside a real neighbourhood; recall: of real images inside a generated one (Kynkäänniemi et al. 2019).
    Density: how many real neighbourhoods hold a generated image, ÷ k, 1 for equal distributions; coverage: share of
    real neighbourhoods that hold a generated image (Naeem et al. 2020).

    Needs memory for three tables of distances, (N + M)² × 8 bytes.

    Args:
        real: (N, d) features.
        generated: (M, d) features of the same extractor.
        k: neighbours.

    Returns:
        "precision", "recall" and "coverage" in [0, 1], "density" ≥ 0.

    Raises:
        InputError: fewer than 2 k + 2 rows on one side.
    """
    real, generated = _checked(real, generated, 2 * k + 2, f"precision, recall, density and coverage (k = {k})")
    return _neighbourhoods(cdist(real, real), cdist(real, generated), cdist(generated, generated), k)


def _neighbourhoods(among_real: Floats, between: Floats, among_generated: Floats, k: int) -> dict[str, float]:
    """Take the three tables of distances: (N, N), (N, M) with real rows, (M, M)."""
    real_radii = np.partition(among_real, k, axis=1)[:, k, None]  # an image is its own nearest: the k-th other is at k
    generated_radii = np.partition(among_generated, k, axis=1)[None, :, k]
    in_real = between < real_radii
    return {
        "precision": float(in_real.any(axis=0).mean()),
        "recall": float((between < generated_radii).any(axis=1).mean()),
        "density": float(in_real.sum(axis=0).mean() / k),
        "coverage": float(in_real.any(axis=1).mean()),
    }


def fidelity_scores(real: np.ndarray, generated: np.ndarray, seed: int = 0, k: int = 5) -> dict[str, float]:
    """Return every measure of this module with a 95% interval (``half_sample_intervals``).

    The interval of KID comes from its own subsets: m of n rows drawn without replacement spread √((n − m) / m) times as
    wide as the whole set would, n being the smaller set's, so it is somewhat wide when the sets differ in size.

    Args:
        real: (N, d) features.
        generated: (M, d) features of the same extractor.
        seed: of every draw.
        k: neighbours of precision, recall, density and coverage.

    Returns:
        "frechet distance", "kid", "precision", "recall", "density", "coverage", each also with " low" and " high"
        appended, and "kid std".

    Raises:
        InputError: fewer than 100 rows on one side, widths that differ, or values that are not finite.
    """
    real, generated = _checked(real, generated, 2 * _KID_SUBSET[0], "the fidelity scores")
    among_real, between, among_generated = cdist(real, real), cdist(real, generated), cdist(generated, generated)

    def measure(rows: Indices, columns: Indices) -> dict[str, float]:
        return {"frechet distance": _frechet(real[rows], generated[columns])} | _neighbourhoods(
            among_real[np.ix_(rows, rows)],
            between[np.ix_(rows, columns)],
            among_generated[np.ix_(columns, columns)],
            k,
        )

    scores = half_sample_intervals(measure, len(real), len(generated), seed)
    for name in scores:
        bounded = any(name.startswith(share) for share in _SHARES)
        scores[name] = min(max(scores[name], 0.0), 1.0 if bounded else np.inf)

    values, fewest = _kid_values(real, generated, None, seed=seed), min(len(real), len(generated))
    size = min(_KID_SUBSET[1], fewest // 2)
    low, high = np.percentile(values - values.mean(), [2.5, 97.5]) * np.sqrt(size / (fewest - size))
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    return scores | {"kid": mean, "kid low": mean + float(low), "kid high": mean + float(high), "kid std": spread}


def _checked(real: np.ndarray, generated: np.ndarray, fewest: int, what: str) -> tuple[Floats, Floats]:
    for name, features in (("real", real), ("generated", generated)):
        if features.ndim != 2:
            raise InputError(f"{name} features have the shape {features.shape}; expected (images, features)")
        if len(features) < fewest:
            raise InputError(f"{len(features)} {name} images are too few for {what}: give at least {fewest}")
        if not np.isfinite(features).all():
            raise InputError(f"{name} features hold NaN or infinite values; check the images and the extractor")
    if real.shape[1] != generated.shape[1]:
        raise InputError(
            f"real images have {real.shape[1]} features each and generated ones {generated.shape[1]}; use one extractor"
        )
    return real.astype(np.float64), generated.astype(np.float64)
