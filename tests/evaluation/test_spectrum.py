"""Spectra: waves and noise show at their frequency with their power; blur, noise and grids are noticed as such."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from xreal.errors import InputError
from xreal.evaluation.spectrum import BANDS, grid_excess, radial_power, spectrum_distance

ROUNDING = 1 / (12 * 255**2)


@pytest.fixture(scope="module")
def chests(textures: Callable[[int, int], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return textures(100, 0), textures(100, 1)


@pytest.mark.parametrize("size", [64, 96])
def test_white_noise_has_its_variance_at_every_frequency(size: int) -> None:
    noise = 0.5 + np.random.default_rng(0).normal(0, 0.1, (40, size, size))
    frequencies, power = radial_power(noise)
    assert power.shape == (40, size // 2)
    np.testing.assert_allclose(frequencies, np.arange(1, size // 2 + 1) / size)
    levels = 10 * np.log10((10 ** (power / 10)).mean(axis=0))
    np.testing.assert_allclose(levels[2:], -20, atol=1)


def test_a_wave_shows_at_its_frequency_only() -> None:
    wave = 0.5 + 0.2 * np.sin(2 * np.pi * 0.25 * np.arange(64)) * np.ones((64, 1))
    frequencies, power = radial_power(wave[None])
    assert frequencies[power[0].argmax()] == 0.25
    far = np.abs(frequencies - 0.25) > 0.06
    np.testing.assert_allclose(power[0][far], 10 * np.log10(ROUNDING), atol=0.1)


def test_a_flat_image_has_the_power_of_rounding() -> None:
    _, power = radial_power(np.full((1, 64, 64), 0.3))
    np.testing.assert_allclose(power, 10 * np.log10(ROUNDING), atol=1e-3)


def test_real_against_real_is_near_zero(chests: tuple[np.ndarray, np.ndarray]) -> None:
    scores = spectrum_distance(*chests)
    assert scores["spectrum distance"] < 0.5
    assert scores["grid excess"] < 3
    for band in BANDS:
        assert abs(scores[f"spectrum difference {band} band"]) < 0.5
        assert abs(scores[f"spectrum difference {band} band"]) <= scores[f"spectrum distance {band} band"]
    names = ["spectrum distance", "grid excess"]
    names += [f"spectrum {kind} {band} band" for kind in ("distance", "difference") for band in BANDS]
    assert set(scores) == {name + end for name in names for end in ("", " low", " high")}
    same = spectrum_distance(chests[0], chests[0])
    assert same["spectrum distance"] == same["grid excess"] == 0


def test_blur_takes_the_high_band_and_noise_adds_to_it(chests: tuple[np.ndarray, np.ndarray]) -> None:
    real, other = chests
    floor_distance = spectrum_distance(real, other)["spectrum distance high band"]
    blurred = spectrum_distance(real, gaussian_filter(other, (0, 1, 1)))
    assert blurred["spectrum difference high band high"] < -3
    assert abs(blurred["spectrum difference low band"]) < 2
    noise = np.random.default_rng(1).normal(0, 0.03, other.shape)
    noised = spectrum_distance(real, other + noise)
    assert noised["spectrum difference high band low"] > 2
    assert min(blurred["spectrum distance high band"], noised["spectrum distance high band"]) > 5 * floor_distance


@pytest.mark.parametrize("period", [8, 4, 2])
def test_a_faint_grid_is_noticed(chests: tuple[np.ndarray, np.ndarray], period: int) -> None:
    real, other = chests
    grid = np.zeros((64, 64), np.float32)
    grid[::period, ::period] = 0.005 * period  # at most 4% of white, every few pixels
    plain, gridded = spectrum_distance(real, other), spectrum_distance(real, other + grid)
    assert gridded["grid excess low"] > plain["grid excess high"]
    assert gridded["grid excess"] > plain["grid excess"] + 5
    assert spectrum_distance(real + grid, other + grid)["grid excess"] < 3  # a grid of the real images is no fault


def test_blur_and_noise_are_no_grid(chests: tuple[np.ndarray, np.ndarray]) -> None:
    real, other = chests
    noise = np.random.default_rng(1).normal(0, 0.03, other.shape)
    assert spectrum_distance(real, gaussian_filter(other, (0, 1, 1)))["grid excess"] < 4
    assert spectrum_distance(real, other + noise)["grid excess"] < 4


def test_grid_excess_counts_each_pair_of_frequencies_once() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (50, 64, 64))
    excess = grid_excess(noise)
    # Of the 8 × 8 frequencies all but 0, and of each pair of opposite ones, which have equal power, one.
    assert excess.shape == (50, 33)
    assert len(np.unique(excess[0].round(9))) == 33
    # Three of them are their own opposites: real numbers, whose logarithm has a lower mean, in any set of images.
    assert np.median(excess.mean(axis=0)) == pytest.approx(0, abs=1)


def test_unusable_images_are_refused() -> None:
    images = np.random.default_rng(0).random((12, 64, 64))
    with pytest.raises(InputError, match="at least 64"):
        radial_power(images[:, :32, :32])
    with pytest.raises(InputError, match="at least 64"):
        grid_excess(images[:0])
    with pytest.raises(InputError, match="NaN"):
        radial_power(np.full((1, 64, 64), np.nan))
    with pytest.raises(InputError, match="one size"):
        spectrum_distance(images, np.zeros((12, 96, 96)))
    with pytest.raises(InputError, match=r"9 generated .* at least 10"):
        spectrum_distance(images, images[:9])
