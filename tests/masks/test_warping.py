"""Fields that move organs: outlines arrive, the rest stays, nothing folds."""

import numpy as np
import pytest
from scipy import ndimage

from xreal.errors import MaskError
from xreal.masks.organs import dice_per_organ
from xreal.masks.shapes import edit_organ_mask, sample_organ_mask
from xreal.masks.warping import organ_shift, warp_image
from xreal.vocabulary import Organ


@pytest.fixture(scope="module")
def chest() -> np.ndarray:
    return sample_organ_mask(3)


@pytest.mark.parametrize("change", [{"heart_scale": 1.2}, {"heart_scale": 0.85}, {"lung_scale": 1.1}, {"tilt": 5.0}])
def test_every_outline_arrives(chest: np.ndarray, change: dict[str, float]) -> None:
    wanted = edit_organ_mask(chest, **change)  # type: ignore[arg-type]
    shift = organ_shift(chest, wanted)
    planes = [warp_image((chest == organ).astype(np.float32), shift) for organ in Organ]
    arrived = np.argmax(planes, axis=0).astype(np.uint8)
    before = dice_per_organ(wanted, chest)
    after = dice_per_organ(wanted, arrived)
    assert min(before.values()) < 0.95
    assert min(after.values()) > 0.98


def test_what_is_far_from_every_change_stays(chest: np.ndarray) -> None:
    wanted = edit_organ_mask(chest, heart_scale=1.2)
    shift = organ_shift(chest, wanted)
    far = ndimage.distance_transform_edt(chest == wanted) > 64
    assert 0.2 < far.mean() < 0.8
    image = np.random.default_rng(0).random(chest.shape, np.float32)
    moved = warp_image(image, shift)
    np.testing.assert_array_equal(moved[far], image[far])
    assert not organ_shift(chest, chest).any()
    lengths = np.hypot(*shift)  # it comes to rest without a jump
    assert np.abs(np.diff(lengths, axis=0)).max() < 1


def test_organs_that_would_have_to_fold_are_refused(chest: np.ndarray) -> None:
    swapped = np.roll(chest, 90, axis=0)  # far below, partly out of the image
    with pytest.raises(MaskError, match=r"folded|no |missing|lies"):
        organ_shift(chest, swapped)


def test_a_missing_organ_is_named(chest: np.ndarray) -> None:
    with pytest.raises(MaskError, match="heart"):
        organ_shift(chest, np.where(chest == Organ.HEART, 0, chest).astype(np.uint8))
