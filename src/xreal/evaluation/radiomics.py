"""Radiomics: grey level statistics and textures of whole images, and how far two sets of images lie apart in them.

Needs no network and no weights. Names and definitions follow the Image Biomarker Standardisation Initiative (IBSI,
Zwanenburg et al. 2020); the distance is the Fréchet radiomic distance (FRD, Konz et al., arXiv 2412.01496) on fewer
features (no wavelets) and without its logarithm, so its numbers do not compare with those of the paper.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from skimage.feature import graycomatrix, graycoprops

from xreal.errors import InputError
from xreal.evaluation.fidelity import frechet_distance
from xreal.evaluation.intervals import half_sample_intervals

__all__ = ["radiomics_distance", "radiomics_features", "radiomics_scores", "standardised_frechet_distance"]

Floats = NDArray[np.float64]

_LEVELS = 32  # of [0, 1], for textures, entropy and uniformity
_DISTANCES = (1, 3)  # pixels
_ANGLES = (0.0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
_COOCCURRENCE = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation", "entropy")


def radiomics_features(images: np.ndarray) -> tuple[Floats, tuple[str, ...]]:
    """Measure every image.

    Textures are taken at 32 grey levels of the fixed range [0, 1]; co-occurrence at 1 and 3 pixels; both averaged over
    four directions.

    Args:
        images: (N, H, W) float in [0, 1], H and W at least 4.

    Returns:
        (N, F) values and their F names.

    Raises:
        InputError: images of another shape or range.
    """
    if images.ndim != 3 or min(images.shape[1:]) <= max(_DISTANCES):
        raise InputError(f"images have the shape {images.shape}; expected (N, H, W) with sides of at least 4 pixels")
    if not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
        raise InputError("images hold values outside [0, 1] or NaN; scale them to [0, 1] (8 bits: divide by 255)")
    rows = [_measure(image) for image in images]
    return np.array([list(row.values()) for row in rows]), tuple(rows[0])


def _measure(image: np.ndarray) -> dict[str, float]:
    levels = np.minimum(image * _LEVELS, _LEVELS - 1).astype(np.uint8)
    return _first_order(image.astype(np.float64).ravel(), levels) | _cooccurrence(levels) | _run_lengths(levels)


def _first_order(values: Floats, levels: NDArray[np.uint8]) -> dict[str, float]:
    tenth, lower, median, upper, ninetieth = np.percentile(values, [10, 25, 50, 75, 90])
    middle = values[(values >= tenth) & (values <= ninetieth)]
    mean, variance = values.mean(), values.var()
    away = values - mean
    # A flat image has no skewness or kurtosis; rounding leaves a variance of about 1e-32 there.
    spread = variance if variance > 1e-20 else np.inf
    shares = np.bincount(levels.ravel()) / levels.size
    shares = shares[shares > 0]
    return {
        "mean": mean,
        "variance": variance,
        "skewness": (away**3).mean() / spread**1.5,
        "kurtosis": (away**4).mean() / spread**2 - 3,
        "median": median,
        "10th percentile": tenth,
        "90th percentile": ninetieth,
        "interquartile range": upper - lower,
        "range": values.max() - values.min(),
        "mean absolute deviation": np.abs(away).mean(),
        "robust mean absolute deviation": np.abs(middle - middle.mean()).mean(),
        "energy": np.square(values).sum(),
        "root mean square": np.sqrt(np.square(values).mean()),
        "entropy": -(shares * np.log2(shares)).sum(),
        "uniformity": np.square(shares).sum(),
    }


def _cooccurrence(levels: NDArray[np.uint8]) -> dict[str, float]:
    matrix = graycomatrix(levels, _DISTANCES, _ANGLES, levels=_LEVELS, symmetric=True, normed=True)
    return {
        f"co-occurrence {name}, {distance} px": value
        for name in _COOCCURRENCE
        for distance, value in zip(_DISTANCES, graycoprops(matrix, name).mean(axis=1), strict=True)
    }


def _run_lengths(levels: NDArray[np.uint8]) -> dict[str, float]:
    """Measure runs of one level along rows, columns and both diagonals; flat areas have long runs, noise short ones."""
    rows = []
    for order, is_line_start in _scan_lines(*levels.shape):
        scanned = levels.ravel()[order]
        starts = np.flatnonzero(is_line_start | (np.diff(scanned, prepend=scanned[:1]) != 0))
        lengths = np.diff(starts, append=scanned.size).astype(np.float64)
        runs = len(lengths)
        rows.append(
            {
                "short run emphasis": (1 / lengths**2).mean(),
                "long run emphasis": (lengths**2).mean(),
                "grey level non-uniformity": np.square(np.bincount(scanned[starts]) / runs).sum() * runs,
                "run length non-uniformity": np.square(np.bincount(lengths.astype(np.int64)) / runs).sum() * runs,
                "run percentage": runs / scanned.size,
            }
        )
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


@lru_cache(maxsize=4)
def _scan_lines(height: int, width: int) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Return for each direction the order in which its lines visit the pixels, and where in it a line starts."""
    y, x = (grid.ravel() for grid in np.indices((height, width)))
    scans = []
    for line, place in ((y, x), (x, y), (y - x, x), (y + x, x)):
        order = np.lexsort((place, line))
        scans.append((order, np.diff(line[order], prepend=line.min() - 1) != 0))
    return scans


def standardised_frechet_distance(real_features: np.ndarray, generated_features: np.ndarray) -> float:
    """Return the squared Fréchet distance after each feature is put on the scale of the real set: mean 0, variance 1.

    A feature that nearly all real images share (the range of images stretched to [0, 1]) gets a great weight by that;
    one that all of them share exactly is left on its own scale.

    Args:
        real_features: (N, F).
        generated_features: (M, F).

    Raises:
        InputError: fewer than 10 rows on one side.
    """
    mean, spread = real_features.mean(axis=0), real_features.std(axis=0)
    spread = np.where(spread > 1e-9 * np.maximum(1, np.abs(mean)), spread, 1.0)
    return frechet_distance((real_features - mean) / spread, (generated_features - mean) / spread)


def radiomics_distance(real_images: np.ndarray, generated_images: np.ndarray) -> float:
    """Return how far two sets of images lie apart in radiomics: ``standardised_frechet_distance`` of their features.

    Args:
        real_images: (N, H, W) float in [0, 1], at least 10.
        generated_images: (M, H, W) of the same size: energy and the non-uniformities grow with the number of pixels.

    Raises:
        InputError: too few images, sizes that differ, or values outside [0, 1].
    """
    if real_images.shape[1:] != generated_images.shape[1:]:
        raise InputError(
            f"real images are {real_images.shape[1:]} pixels and generated ones {generated_images.shape[1:]}; "
            "bring them to one size"
        )
    return standardised_frechet_distance(radiomics_features(real_images)[0], radiomics_features(generated_images)[0])


def radiomics_scores(real_features: np.ndarray, generated_features: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Return "radiomics distance" with " low" and " high" (95%), from features that are computed once per set.

    Args:
        real_features: (N, F) of ``radiomics_features``, N at least 20, since halves are measured too.
        generated_features: (M, F), M at least 20.
        seed: of the intervals.

    Raises:
        InputError: fewer than 20 rows on one side.
    """
    for name, features in (("real", real_features), ("generated", generated_features)):
        if len(features) < 20:
            raise InputError(f"{len(features)} {name} images are too few for the radiomics distance: give at least 20")

    scores = half_sample_intervals(
        lambda rows, columns: {
            "radiomics distance": standardised_frechet_distance(real_features[rows], generated_features[columns])
        },
        len(real_features),
        len(generated_features),
        seed,
    )
    return {name: max(0.0, value) for name, value in scores.items()}
