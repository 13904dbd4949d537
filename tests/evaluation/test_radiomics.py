"""Radiomics: right on images small enough to work out by hand, and noticing what changes grey levels or texture."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from scipy.ndimage import gaussian_filter

from xreal.errors import InputError
from xreal.evaluation.radiomics import (
    radiomics_distance,
    radiomics_features,
    radiomics_scores,
    standardised_frechet_distance,
)


@pytest.fixture(scope="module")
def chests(textures: Callable[[int, int], np.ndarray]) -> np.ndarray:
    return textures(80, 0)


def measured(image: np.ndarray) -> dict[str, float]:
    values, names = radiomics_features(image[None])
    assert values.shape == (1, len(names))
    return dict(zip(names, values[0], strict=True))


def test_first_order_statistics_against_scipy() -> None:
    image = np.random.default_rng(0).beta(2, 5, (40, 50)).astype(np.float32)
    seen, values = measured(image), image.astype(np.float64).ravel()
    low, high = np.percentile(values, [10, 90])
    kept = values[(values >= low) & (values <= high)]
    shares = np.histogram(values, 32, (0, 1))[0] / values.size
    expected = {
        "mean": values.mean(),
        "variance": values.var(),
        "skewness": stats.skew(values),
        "kurtosis": stats.kurtosis(values),
        "median": np.median(values),
        "10th percentile": low,
        "90th percentile": high,
        "interquartile range": stats.iqr(values),
        "range": np.ptp(values),
        "mean absolute deviation": np.abs(values - values.mean()).mean(),
        "robust mean absolute deviation": np.abs(kept - kept.mean()).mean(),
        "energy": values @ values,
        "root mean square": np.sqrt(values @ values / values.size),
        "entropy": stats.entropy(shares, base=2),
        "uniformity": shares @ shares,
    }
    assert {name: seen[name] for name in expected} == pytest.approx(expected, rel=1e-6)


def test_run_lengths_against_runs_cut_line_by_line() -> None:
    # Runs along the rows of this image: 14 in all, 13 by columns, 13 and 14 along the diagonals.
    levels = np.array([[0, 1, 2, 3], [0, 2, 3, 3], [2, 1, 1, 1], [3, 0, 3, 0]])
    diagonals = [[turned.diagonal(i) for i in range(-3, 4)] for turned in (levels, levels[::-1])]
    rows = []
    for lines in (list(levels), list(levels.T), *diagonals):
        runs = [part for line in lines for part in np.split(line, np.flatnonzero(np.diff(line)) + 1)]
        lengths, per_level = np.array([len(run) for run in runs]), np.bincount([run[0] for run in runs])
        rows.append(
            {
                "short run emphasis": (1.0 / lengths**2).mean(),
                "long run emphasis": (lengths**2).mean(),
                "grey level non-uniformity": (per_level**2).sum() / len(runs),
                "run length non-uniformity": (np.bincount(lengths) ** 2).sum() / len(runs),
                "run percentage": len(runs) / 16,
            }
        )
    seen = measured((levels / 32).astype(np.float32))
    for name in rows[0]:
        assert seen[name] == pytest.approx(np.mean([row[name] for row in rows])), name


def test_run_lengths_by_hand() -> None:
    flat = measured(np.zeros((4, 4), np.float32))
    # 4 runs of 4 by rows and by columns; along each diagonal one of 4 and two each of 3, 2 and 1.
    assert flat["run percentage"] == pytest.approx((4 + 4 + 7 + 7) / 4 / 16)
    assert flat["long run emphasis"] == pytest.approx((16 + 16 + 44 / 7 + 44 / 7) / 4)
    assert flat["grey level non-uniformity"] == pytest.approx((4 + 4 + 7 + 7) / 4)
    assert flat["run length non-uniformity"] == pytest.approx((4 + 4 + 13 / 7 + 13 / 7) / 4)


def test_textures_of_stripes_and_of_a_flat_image() -> None:
    stripes = np.zeros((32, 32), np.float32)
    stripes[1::2] = 1  # levels 0 and 31
    seen = measured(stripes)
    # One row or three rows away lies the other level, in three of the four directions (skimage rounds 3 pixels along
    # a diagonal to 2 rows and 2 columns, where the same level lies).
    assert seen["co-occurrence contrast, 1 px"] == pytest.approx(0.75 * 31**2)
    assert seen["co-occurrence contrast, 3 px"] == pytest.approx(0.25 * 31**2)
    flat = measured(np.full((32, 32), 0.5, np.float32))
    assert flat["run percentage"] < 0.07 < seen["run percentage"]
    assert (flat["variance"], flat["skewness"], flat["entropy"], flat["uniformity"]) == (0, 0, 0, 1)
    assert all(np.isfinite(list(flat.values())))


def test_real_against_real_is_near_zero(chests: np.ndarray) -> None:
    features, _ = radiomics_features(chests)
    scores = radiomics_scores(features[::2], features[1::2])
    assert 0 < scores["radiomics distance"] < 5
    assert scores["radiomics distance low"] < scores["radiomics distance"] < scores["radiomics distance high"]
    assert standardised_frechet_distance(features, features) == pytest.approx(0, abs=1e-6)


def blurred(images: np.ndarray) -> np.ndarray:
    return gaussian_filter(images, (0, 1, 1))


def noised(images: np.ndarray) -> np.ndarray:
    return np.clip(images + np.random.default_rng(0).normal(0, 0.03, images.shape), 0, 1)


def brighter(images: np.ndarray) -> np.ndarray:
    return np.clip(images + 0.1, 0, 1)


def one_repeated(images: np.ndarray) -> np.ndarray:
    return np.repeat(images[:1], len(images), axis=0)


def shuffled_pixels(images: np.ndarray) -> np.ndarray:
    order = np.random.default_rng(0).permutation(images[0].size)
    return images.reshape(len(images), -1)[:, order].reshape(images.shape)


@pytest.fixture(scope="module")
def at_the_floor(chests: np.ndarray) -> float:
    return radiomics_distance(chests[::2], chests[1::2])


@pytest.mark.parametrize("spoil", [blurred, noised, brighter, one_repeated, shuffled_pixels])
def test_worse_images_are_noticed(
    chests: np.ndarray, at_the_floor: float, spoil: Callable[[np.ndarray], np.ndarray]
) -> None:
    real, other = chests[::2], chests[1::2]
    assert radiomics_distance(real, spoil(other).astype(np.float32)) > 3 * at_the_floor


def test_the_scale_of_a_feature_does_not_matter(chests: np.ndarray) -> None:
    features, _ = radiomics_features(chests)
    real, other = features[::2], features[1::2]
    scales = np.geomspace(1e-3, 1e3, features.shape[1])
    expected = standardised_frechet_distance(real, other)
    assert standardised_frechet_distance(real * scales, other * scales) == pytest.approx(expected, rel=1e-6)


def test_unusable_images_are_refused(chests: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        radiomics_features(chests * 255)
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        radiomics_features(np.full((2, 32, 32), np.nan))
    with pytest.raises(InputError, match="shape"):
        radiomics_features(chests[0])
    with pytest.raises(InputError, match="one size"):
        radiomics_distance(chests, chests[:, :32])
    with pytest.raises(InputError, match="at least 10"):
        radiomics_distance(chests[:9], chests)
    with pytest.raises(InputError, match=r"19 generated .* at least 20"):
        radiomics_scores(np.eye(20), np.eye(20)[:19])
