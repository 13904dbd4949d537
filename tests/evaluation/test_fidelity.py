"""Fidelity: agrees with libraries and with closed forms, sits at the floor on equal sets and notices worse ones."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.metrics import FIDMetric
from torchmetrics.image.fid import _compute_fid

from xreal.errors import InputError
from xreal.evaluation.fidelity import (
    fidelity_scores,
    frechet_distance,
    kid,
    precision_recall_density_coverage,
    whole_kid,
)
from xreal.evaluation.intervals import half_sample_intervals

SCALES = np.linspace(2, 0.2, 16)


def cloud(seed: int, count: int = 200, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 16)) * SCALES + shift


def test_frechet_distance_agrees_with_libraries_where_these_work() -> None:
    real, generated = cloud(0, 300), cloud(1, 200, 0.5) * 1.5
    ours = frechet_distance(real, generated)
    theirs = FIDMetric()(torch.from_numpy(generated), torch.from_numpy(real))
    assert ours == pytest.approx(float(theirs), rel=1e-6)


def test_frechet_distance_with_fewer_images_than_features() -> None:
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(20, 100)), rng.normal(1, 2, (30, 100))
    covariances = [torch.from_numpy(np.cov(one, rowvar=False)) for one in (real, generated)]
    means = [torch.from_numpy(one.mean(axis=0)) for one in (real, generated)]
    theirs = _compute_fid(means[0], covariances[0], means[1], covariances[1])
    assert frechet_distance(real, generated) == pytest.approx(float(theirs), rel=1e-3)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(real, real + 3) == pytest.approx(9 * 100, rel=1e-9)


def test_frechet_distance_of_a_scaled_copy_has_a_closed_form() -> None:
    real = cloud(0)
    centred = real - real.mean(axis=0)
    assert frechet_distance(centred, 3 * centred) == pytest.approx(4 * np.trace(np.cov(real, rowvar=False)), rel=1e-9)


def test_frechet_bias_falls_with_the_number_of_images() -> None:
    few = np.mean([frechet_distance(cloud(2 * i, 50), cloud(2 * i + 1, 50)) for i in range(10)])
    many = np.mean([frechet_distance(cloud(2 * i, 500), cloud(2 * i + 1, 500)) for i in range(10)])
    assert few > 5 * many > 0


def test_kid_of_equal_sets_is_zero_within_its_noise_and_grows_with_the_gap() -> None:
    values = [kid(cloud(2 * i), cloud(2 * i + 1), subsets=20)[0] for i in range(12)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(12)
    near, far = kid(cloud(0), cloud(1, shift=0.3))[0], kid(cloud(0), cloud(1, shift=0.6))[0]
    assert max(values) < near < far


def test_kid_is_the_unbiased_estimate_with_the_cubic_kernel() -> None:
    real, generated = cloud(0, 400), cloud(1, 400, 0.6)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / 16 + 1) ** 3

    off = ~np.eye(400, dtype=bool)
    expected = kernel(real, real)[off].mean() + kernel(generated, generated)[off].mean()
    expected -= 2 * kernel(real, generated).mean()
    mean, spread = kid(real, generated, subset_size=200, subsets=200)
    assert mean == pytest.approx(expected, abs=3 * spread / np.sqrt(200))  # biased, it would lie far off
    assert kid(real, generated)[1] < kid(real, generated, subset_size=50)[1] / 1.5


def test_kid_of_small_sets_of_unequal_size_is_unbiased_and_has_an_interval() -> None:
    values = [whole_kid(cloud(2 * i, 25), cloud(2 * i + 1, 60)) for i in range(30)]
    numbers = np.array([one["kid"] for one in values])
    assert abs(numbers.mean()) < 3 * numbers.std() / np.sqrt(30)
    assert np.mean([one["kid low"] <= 0 <= one["kid high"] for one in values]) >= 0.9
    assert whole_kid(cloud(0, 25), cloud(1, 60, shift=1.0))["kid low"] > numbers.max()
    far = cloud(0, 100), cloud(1, 100, shift=0.6)
    assert whole_kid(*far)["kid"] == pytest.approx(kid(*far)[0], rel=0.05)


@pytest.mark.parametrize("size", [10, 49, 200, 1001])
def test_kid_refuses_subset_sizes_out_of_range(size: int) -> None:
    with pytest.raises(InputError, match=r"between 50 and 199"):
        kid(cloud(0), cloud(1), subset_size=size)


def test_neighbour_counts_on_a_line_by_hand() -> None:
    real = np.array([[0.0], [1.0], [2.0], [3.0]])  # k = 1: every radius is 1
    generated = np.array([[0.5], [0.6], [10.0], [13.0]])  # radii 0.1, 0.1, 3, 3
    scores = precision_recall_density_coverage(real, generated, k=1)
    # 0.5 and 0.6 lie within 1 of 0 and of 1, and 10 and 13 of nothing; 3 lies 7 from 10, further than 3.
    assert scores == {"precision": 0.5, "recall": 0.0, "density": 1.0, "coverage": 0.5}


def test_neighbour_counts_of_equal_sets_are_high() -> None:
    scores = precision_recall_density_coverage(cloud(0), cloud(1))
    assert scores["precision"] > 0.8
    assert scores["recall"] > 0.8
    assert scores["coverage"] > 0.9
    assert scores["density"] == pytest.approx(1, abs=0.2)


def test_density_and_coverage_of_expected_values() -> None:
    # Naeem et al. 2020, section 3.2: 1 and 1 − ((N − 1) … (N − k)) / ((2N − 1) … (2N − k)) for equal distributions.
    count, k = 300, 5
    scores = [precision_recall_density_coverage(cloud(2 * i, count), cloud(2 * i + 1, count), k) for i in range(8)]
    missed = np.prod([(count - i) / (2 * count - i) for i in range(1, k + 1)])
    assert np.mean([one["density"] for one in scores]) == pytest.approx(1, abs=0.05)
    assert np.mean([one["coverage"] for one in scores]) == pytest.approx(1 - missed, abs=0.01)


def shifted(real: np.ndarray) -> np.ndarray:
    return real + 3


def one_repeated(real: np.ndarray) -> np.ndarray:
    return np.repeat(real[:1], len(real), axis=0)


def half_of_the_modes(real: np.ndarray) -> np.ndarray:
    return np.where(real[:, :1] > 0, 1, -1) * real  # only those with a first feature above 0


def noised(real: np.ndarray) -> np.ndarray:
    return real + np.random.default_rng(9).normal(0, 2, real.shape)


@pytest.fixture(scope="module")
def at_the_floor() -> dict[str, float]:
    return fidelity_scores(cloud(0), cloud(1))


@pytest.mark.parametrize(
    ("spoil", "noticed_by"),
    [
        (shifted, ("precision", "recall", "density", "coverage")),
        (one_repeated, ("recall", "coverage")),
        (half_of_the_modes, ("recall", "coverage")),
        (noised, ("precision", "density", "coverage")),
    ],
)
def test_worse_sets_are_noticed(
    at_the_floor: dict[str, float], spoil: Callable[[np.ndarray], np.ndarray], noticed_by: tuple[str, ...]
) -> None:
    good, bad = at_the_floor, fidelity_scores(cloud(0), spoil(cloud(1)))
    for name in ("frechet distance", "kid"):
        assert bad[f"{name} low"] > good[f"{name} high"], name
    for name in noticed_by:
        assert bad[f"{name} high"] < good[f"{name} low"], name


def test_scores_hold_their_intervals_and_repeat_with_the_seed() -> None:
    real, generated = cloud(0, 120), cloud(1, 150)
    scores = fidelity_scores(real, generated, seed=3)
    names = ("frechet distance", "kid", "precision", "recall", "density", "coverage")
    assert set(scores) == {n + end for n in names for end in ("", " low", " high")} | {"kid std"}
    for name in names:
        assert scores[f"{name} low"] <= scores[name] <= scores[f"{name} high"]
    assert scores["frechet distance"] == frechet_distance(real, generated)
    assert scores["coverage"] == precision_recall_density_coverage(real, generated)["coverage"]
    assert scores["kid"] == kid(real, generated, seed=3)[0]
    assert fidelity_scores(real, generated, seed=3) == scores
    assert fidelity_scores(real, generated, seed=4) != scores


def test_half_samples_give_the_known_interval_of_a_mean() -> None:
    rng = np.random.default_rng(0)
    real, generated = rng.normal(0, 3, 400), rng.normal(1, 4, 200)
    scores = half_sample_intervals(
        lambda rows, columns: {"gap": float(generated[columns].mean() - real[rows].mean())}, 400, 200, draws=1000
    )
    width = 2 * 1.96 * np.sqrt(real.var() / 400 + generated.var() / 200)
    assert scores["gap"] == pytest.approx(generated.mean() - real.mean())
    assert scores["gap high"] - scores["gap low"] == pytest.approx(width, rel=0.1)


@pytest.mark.parametrize(
    ("measure", "enough"),
    [
        (frechet_distance, 10),
        (kid, 100),
        (precision_recall_density_coverage, 12),
        (fidelity_scores, 100),
        (whole_kid, 20),
    ],
)
def test_too_few_images_name_the_minimum(measure: Callable[..., object], enough: int) -> None:
    measure(cloud(0, enough), cloud(1, enough))
    with pytest.raises(InputError, match=rf"{enough - 1} generated .* at least {enough}"):
        measure(cloud(0, enough), cloud(1, enough - 1))
    with pytest.raises(InputError, match=rf"{enough - 1} real .* at least {enough}"):
        measure(cloud(0, enough - 1), cloud(1, enough))


def test_features_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="8 features each and generated ones 16"):
        frechet_distance(cloud(0)[:, :8], cloud(1))
    with pytest.raises(InputError, match="NaN"):
        frechet_distance(cloud(0), np.full_like(cloud(1), np.nan))
    with pytest.raises(InputError, match="shape"):
        kid(cloud(0)[:, :, None], cloud(1))
