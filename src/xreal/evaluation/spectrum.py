"""Power spectra: are generated images as sharp and as grainy as real ones, and free of grid patterns?

Blur shows as missing power at high frequencies, noise as too much, the upsampling of a decoder as peaks.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.fft import fft2
from scipy.signal.windows import hann

from xreal.errors import InputError
from xreal.evaluation.intervals import half_sample_intervals

__all__ = ["BANDS", "grid_excess", "radial_power", "spectrum_distance"]

Floats = NDArray[np.float64]

# Cycles per pixel: organs (over 20 pixels), ribs and vessels, texture and noise (under 5 pixels).
BANDS = {"low": (0.0, 0.05), "middle": (0.05, 0.2), "high": (0.2, 0.5)}

_SMALLEST = 64  # pixels; smaller images leave too few frequencies between the harmonics of the grid
_FEWEST = 10
_GRID = 8  # pixels per latent, and per block of JPEG
_ROUNDING = 1 / (12 * 255**2)  # power of rounding to 8 bits: what lies below is not seen in stored images either


def radial_power(images: np.ndarray) -> tuple[Floats, Floats]:
    """Measure the power at every frequency, averaged over directions, under a Hann window.

    Power is per pixel, so white noise of variance v has v at every frequency and every image size. The power of
    rounding to 8 bits is added, so that real images read from 8 bits and generated ones in float compare.

    Args:
        images: (N, H, W) float in [0, 1], sides of at least 64 pixels.

    Returns:
        R frequencies in cycles per pixel, up to 0.5, and (N, R) power in dB.

    Raises:
        InputError: images of another shape, smaller ones, or values that are not finite.
    """
    _check(images)
    height, width = images.shape[1:]
    size = min(height, width)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)) * size
    rings = np.minimum(np.rint(radius).astype(np.int64), size // 2 + 1).ravel()  # the last one: corners, left out
    counts = np.bincount(rings)
    power = np.stack([np.bincount(rings, spectrum.ravel()) / counts for spectrum in _spectra(images)])
    kept = slice(1, size // 2 + 1)
    return np.arange(1, size // 2 + 1) / size, _decibels(power[:, kept])


def grid_excess(images: np.ndarray) -> Floats:
    """Measure how far the power at a period of 8 pixels and its harmonics stands out from frequencies around it.

    Args:
        images: (N, H, W) float in [0, 1], sides of at least 64 pixels.

    Returns:
        (N, P) in dB, one column per pair of vertical and horizontal frequency (multiples of 1/8 cycle per pixel, half
        of the plane): power there less the mean of the frequencies 3 to 5 steps away, further than a window smears.

    Raises:
        InputError: as ``radial_power``.
    """
    _check(images)
    height, width = images.shape[1:]
    half = _GRID // 2
    plane = [(v, u) for v in range(half + 1) for u in range(1 - half, half + 1)]
    # Opposite frequencies have equal power: of each pair one is kept, and 0 is left out.
    peaks = np.array([(v, u) for v, u in plane if u > 0 or 0 < v < half or (v, u) == (half, 0)])
    rows, columns = (np.rint(peaks * (height, width) / _GRID).astype(np.int64)).T
    steps = np.arange(-5, 6)
    around = np.array([(dy, dx) for dy in steps for dx in steps if max(abs(dy), abs(dx)) >= 3])
    near_rows, near_columns = (rows[:, None] + around[:, 0]) % height, (columns[:, None] + around[:, 1]) % width
    return np.stack(
        [
            level[rows % height, columns % width] - level[near_rows, near_columns].mean(axis=1)
            for level in map(_decibels, _spectra(images))
        ]
    )


def spectrum_distance(real_images: np.ndarray, generated_images: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Compare the mean log spectra of two sets of images.

    Args:
        real_images: (N, H, W) float in [0, 1], at least 10.
        generated_images: (M, H, W) of the same size, at least 10.
        seed: of the intervals.

    Returns:
        In dB, each also with " low" and " high" appended for the ends of its 95% interval (``half_sample_intervals``):
        "spectrum distance", mean |generated − real| over all frequencies, and "spectrum distance BAND band" for each
        of ``BANDS``; "spectrum difference BAND band", mean generated − real: below 0 in the high band for blur, above
        0 for noise; "grid excess", the largest by which any of ``grid_excess`` is higher in generated images, 0 if
        none is. Being a maximum of noisy numbers, it is above 0 for real against real as well.

    Raises:
        InputError: too few images, or sizes that differ.
    """
    if real_images.shape[1:] != generated_images.shape[1:]:
        raise InputError(
            f"real images are {real_images.shape[1:]} pixels and generated ones {generated_images.shape[1:]}; "
            "bring them to one size"
        )
    for name, images in (("real", real_images), ("generated", generated_images)):
        if len(images) < _FEWEST:
            raise InputError(f"{len(images)} {name} images are too few for the spectrum: give at least {_FEWEST}")
    frequencies, real = radial_power(real_images)
    _, generated = radial_power(generated_images)
    real_grid, generated_grid = grid_excess(real_images), grid_excess(generated_images)
    bands = {name: (frequencies > low) & (frequencies <= high) for name, (low, high) in BANDS.items()}

    def measure(rows: NDArray[np.int64], columns: NDArray[np.int64]) -> dict[str, float]:
        difference = generated[columns].mean(axis=0) - real[rows].mean(axis=0)
        grid = generated_grid[columns].mean(axis=0) - real_grid[rows].mean(axis=0)
        return (
            {"spectrum distance": float(np.abs(difference).mean())}
            | {f"spectrum distance {name} band": float(np.abs(difference[band]).mean()) for name, band in bands.items()}
            | {f"spectrum difference {name} band": float(difference[band].mean()) for name, band in bands.items()}
            | {"grid excess": max(0.0, float(grid.max()))}
        )

    scores = half_sample_intervals(measure, len(real), len(generated), seed)
    return {name: value if "difference" in name else max(0.0, value) for name, value in scores.items()}


def _spectra(images: np.ndarray) -> Iterator[Floats]:
    """Yield each image's power per pixel, (H, W), frequency 0 first."""
    window = np.outer(hann(images.shape[1], sym=False), hann(images.shape[2], sym=False)).astype(np.float32)
    total, power = float(window.sum()), float(np.square(window).sum())
    for image in images.astype(np.float32, copy=False):
        centred = image - float((window * image).sum()) / total
        yield np.square(np.abs(fft2(window * centred)), dtype=np.float64) / power


def _decibels(power: Floats) -> Floats:
    return 10 * np.log10(power + _ROUNDING)


def _check(images: np.ndarray) -> None:
    if images.ndim != 3 or len(images) == 0 or min(images.shape[1:]) < _SMALLEST:
        raise InputError(
            f"images have the shape {images.shape}; a spectrum needs (N, H, W) with sides of at least {_SMALLEST}"
        )
    if not np.isfinite(images).all():
        raise InputError("images hold NaN or infinite values; a spectrum needs finite ones")
