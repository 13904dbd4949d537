"""The measures of control: right on images whose answer is known, and noticing what they should notice."""

import numpy as np
import pytest

from xreal.data.phantom import phantom
from xreal.evaluation.control import lesion_change, mean_and_interval, sample_lung_boxes
from xreal.vocabulary import Organ


@pytest.fixture
def masks() -> np.ndarray:
    return np.stack([phantom(seed, 64).organ_mask for seed in range(6)])


def test_change_inside_and_outside() -> None:
    healthy = np.random.default_rng(0).uniform(0.3, 0.6, (1, 32, 32)).astype(np.float32)
    mask = np.zeros((1, 32, 32), np.float32)
    mask[:, 8:16, 8:16] = 1
    image = healthy + 0.2 * mask + 0.01 * (1 - mask)
    scores = lesion_change(image, healthy, mask)
    assert scores["inside"][0] == pytest.approx(0.2, abs=1e-5)
    assert scores["outside"][0] == pytest.approx(0.01, abs=1e-5)
    assert scores["ratio"][0] == pytest.approx(20, rel=1e-3)
    assert scores["brighter"][0] == pytest.approx(0.2, abs=1e-5)
    assert lesion_change(healthy - 0.2 * mask, healthy, mask)["brighter"][0] == pytest.approx(-0.2, abs=1e-5)
    assert lesion_change(healthy + 0.2 * (1 - mask), healthy, mask)["ratio"][0] < 0.01


def test_boxes_lie_in_the_lungs_and_repeat_with_the_seed(masks: np.ndarray) -> None:
    boxes = sample_lung_boxes(masks, seed=1, inside=0.6)
    lungs = np.isin(masks, (Organ.LEFT_LUNG, Organ.RIGHT_LUNG))
    assert boxes.shape == masks.shape
    for box, lung in zip(boxes, lungs, strict=True):
        assert lung[box > 0].mean() >= 0.6
        assert 0.01 < box.mean() < 0.08
    np.testing.assert_array_equal(boxes, sample_lung_boxes(masks, seed=1, inside=0.6))
    assert (boxes != sample_lung_boxes(masks, seed=2, inside=0.6)).any()


def test_interval_holds_the_mean_and_narrows() -> None:
    values = np.random.default_rng(0).normal(5, 1, 400)
    mean, low, high = mean_and_interval(values)
    assert low < mean < high
    assert mean == pytest.approx(values.mean())
    assert high - low == pytest.approx(4 * 1 / 20, rel=0.2)  # 95%: ±1.96 σ / √n
    few = mean_and_interval([*values[:25], np.nan])
    assert few[2] - few[1] > 2 * (high - low)
