"""Anatomy control: at its best on masks that are obeyed, worse in the number that should notice a fault."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from xreal.data.phantom import phantom
from xreal.errors import InputError
from xreal.evaluation.anatomy import ORGANS, anatomy_control, compare_organs
from xreal.vocabulary import Organ

TITLES = [organ.title for organ in ORGANS]


class Oracle(nn.Module):
    """Finds in image i the mask that is written into it as grey levels label ÷ 4."""

    device = torch.device("cpu")
    config: ClassVar[dict[str, int]] = {}

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return -(image * 4 - torch.arange(4).view(1, 4, 1, 1)).abs()


@pytest.fixture(scope="module")
def masks() -> np.ndarray:
    return np.stack([phantom(seed, 64).organ_mask for seed in range(6)])


def test_obeyed_masks_sit_at_the_best(masks: np.ndarray) -> None:
    scores = anatomy_control(Oracle(), masks.astype(np.float32) / 4, masks)
    names = {f"{kind} {title}" for kind in ("dice", "hd95", "area ratio") for title in TITLES}
    assert set(scores) == names | {"cardiothoracic ratio error"}
    for title in TITLES:
        assert scores[f"dice {title}"].min() > 0.99
        assert scores[f"hd95 {title}"].max() <= 1
        np.testing.assert_allclose(scores[f"area ratio {title}"], 1, atol=0.02)
    assert scores["cardiothoracic ratio error"].max() < 0.01


def test_shuffled_masks_are_noticed(masks: np.ndarray) -> None:
    scores = compare_organs(masks, np.roll(masks, 1, axis=0))
    for title in TITLES:
        assert scores[f"dice {title}"].mean() < 0.97
        assert scores[f"hd95 {title}"].mean() > 1
    assert scores["cardiothoracic ratio error"].mean() > 0.01


def test_distances_are_pixels(masks: np.ndarray) -> None:
    moved = np.roll(masks, 3, axis=1)
    scores = compare_organs(masks, moved)
    for title in TITLES:
        distances = scores[f"hd95 {title}"]  # steep outlines lie nearer to each other than they were moved
        assert 2 < distances.min() <= distances.max() <= 3
        np.testing.assert_allclose(scores[f"area ratio {title}"], 1)
    np.testing.assert_allclose(scores["cardiothoracic ratio error"], 0)


def test_growth_shows_in_the_area(masks: np.ndarray) -> None:
    found = masks.copy()
    for mask in found:
        mask[ndimage.binary_dilation(mask == Organ.HEART, iterations=2)] = Organ.HEART
    scores = compare_organs(masks, found)
    assert scores["area ratio heart"].min() > 1.2
    assert scores["cardiothoracic ratio error"].min() > 0.02
    assert (scores["area ratio left lung"] < 1).any()


def test_what_was_not_requested_is_not_judged_and_what_is_not_found_counts_as_worst(masks: np.ndarray) -> None:
    requested, found = masks.copy(), masks.copy()
    requested[0][requested[0] == Organ.HEART] = 0
    found[1][found[1] == Organ.LEFT_LUNG] = 0
    scores = compare_organs(requested, found)
    for kind in ("dice", "hd95", "area ratio"):
        assert np.isnan(scores[f"{kind} heart"]).tolist() == [True] + [False] * 5
        assert np.isfinite(scores[f"{kind} left lung"]).all()
    lost = (scores["dice left lung"][1], scores["hd95 left lung"][1], scores["area ratio left lung"][1])
    assert lost == (0, pytest.approx(64 * 2**0.5), 0)
    assert np.isnan(scores["cardiothoracic ratio error"]).tolist() == [True, True] + [False] * 4


def test_masks_without_organs_give_no_number() -> None:
    blank = np.zeros((2, 32, 32), np.uint8)
    scores = compare_organs(blank, blank)
    assert all(np.isnan(values).all() and values.shape == (2,) for values in scores.values())


def test_one_mask_per_image(masks: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"images are \(6, 64, 64\), organ masks \(5, 64, 64\)"):
        anatomy_control(Oracle(), masks.astype(np.float32), masks[:5])
