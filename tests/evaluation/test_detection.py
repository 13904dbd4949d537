"""The classifier that tells real from generated: a coin toss on equal sets, sure on spoilt ones, and honest about n."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from xreal.errors import InputError
from xreal.evaluation.detection import detection_features, detection_scores

Pictures = Callable[[int, int], np.ndarray]


def cloud(seed: int, count: int = 100, shift: float = 0.0, width: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)) + shift


def test_equal_sets_are_a_coin_toss() -> None:
    scores = [detection_scores(cloud(2 * i, 60), cloud(2 * i + 1, 60)) for i in range(30)]
    accuracies = np.array([one["accuracy"] for one in scores])
    assert accuracies.mean() == pytest.approx(0.5, abs=0.03)
    covered = np.mean([one["accuracy low"] <= 0.5 <= one["accuracy high"] for one in scores])
    assert covered >= 0.85


def test_accuracy_grows_with_the_gap() -> None:
    values = [detection_scores(cloud(0), cloud(1, shift=shift))["accuracy"] for shift in (0.0, 0.15, 0.5, 2.0)]
    assert values == sorted(values)
    assert values[-1] == 1


def test_gaussian_sets_reach_the_accuracy_of_bayes() -> None:
    # Two normal distributions, d apart, overlap so that no classifier is right more often than Φ(d / 2).
    apart = np.r_[1.0, np.zeros(3)]
    seen = detection_scores(cloud(0, 2000, width=4), cloud(1, 2000, width=4) + apart)
    assert seen["accuracy low"] <= 0.6915 <= seen["accuracy high"]


@pytest.mark.parametrize("spoil", ["blur", "noise", "grid", "half of them blurred"])
def test_spoilt_textures_are_told_apart(spoil: str, textures: Pictures) -> None:
    real, generated = textures(80, 0), textures(80, 1)
    lines = np.zeros((64, 64), np.float32)
    lines[::8] = 0.03
    spoilt = {
        "blur": lambda: ndimage.gaussian_filter(generated, (0, 0.7, 0.7)),
        "noise": lambda: generated + np.random.default_rng(2).normal(0, 0.05, generated.shape),
        "grid": lambda: generated + lines,
        "half of them blurred": lambda: np.r_[ndimage.gaussian_filter(generated[:40], (0, 0.7, 0.7)), generated[40:]],
    }[spoil]()
    floor, seen = (detection_scores(detection_features(real), detection_features(some)) for some in (generated, spoilt))
    assert floor["accuracy low"] < 0.5 < floor["accuracy high"]
    assert seen["accuracy low"] > (0.55 if "half" in spoil else 0.9)


def test_one_picture_repeated_is_told_and_copies_of_the_reference_fall_below_chance() -> None:
    real = cloud(0)
    assert detection_scores(real, np.repeat(real[:1], 100, axis=0))["accuracy"] > 0.95
    assert detection_scores(real, real)["accuracy high"] < 0.5


def test_features_are_joined_with_those_of_the_spectrum(textures: Pictures) -> None:
    images = textures(3, 0)
    alone, joined = detection_features(images), detection_features(images, np.arange(6.0).reshape(3, 2))
    assert joined.shape == (3, alone.shape[1] + 2)
    assert np.array_equal(joined[:, :2], [[0, 1], [2, 3], [4, 5]])
    assert np.array_equal(joined[:, 2:], alone)


def test_scale_and_constant_features_do_not_matter() -> None:
    real, generated = cloud(0), cloud(1, shift=0.2)
    scaled = [np.c_[1000 * some - 7, np.full(100, 3.0)] for some in (real, generated)]
    assert detection_scores(*scaled) == detection_scores(real, generated)


def test_unusable_features_are_refused() -> None:
    with pytest.raises(InputError, match=r"49 generated images are too few .* at least 50"):
        detection_scores(cloud(0), cloud(1, 49))
    with pytest.raises(InputError, match=r"49 real images"):
        detection_scores(cloud(0, 49), cloud(1))
    with pytest.raises(InputError, match="finite"):
        detection_scores(cloud(0), np.full((100, 40), np.nan))
    with pytest.raises(InputError, match="40 features, generated ones 30"):
        detection_scores(cloud(0), cloud(1, width=30))
