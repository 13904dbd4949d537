"""Augmentation: image and mask move together, labels and ranges stay, sides are never swapped."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xreal.data.augment import random_affine, random_intensity
from xreal.data.phantom import phantom
from xreal.vocabulary import Organ

CHESTS = [phantom(seed, 64) for seed in range(4)]
IMAGES = torch.stack([torch.from_numpy(chest.image) for chest in CHESTS])[:, None]
MASKS = torch.stack([torch.from_numpy(chest.organ_mask) for chest in CHESTS])
STRONG = {"degrees": 12.0, "zoom": 0.2, "shift": 0.08, "bend": 0.04}  # as the segmenter is trained
seeds = st.integers(0, 2**31)


def source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_image_and_mask_move_together(seed: int) -> None:
    """An image that is its own mask still is, up to the pixels on an edge that cubic sampling mixes."""
    lungs = ((MASKS == Organ.LEFT_LUNG) | (MASKS == Organ.RIGHT_LUNG)).float()
    moved, labels = random_affine(lungs[:, None], source(seed), MASKS, **STRONG)
    assert labels is not None
    expected = (labels == Organ.LEFT_LUNG) | (labels == Organ.RIGHT_LUNG)
    pure = (moved[:, 0] < 0.1) | (moved[:, 0] > 0.9)
    assert ((moved[:, 0] > 0.5) == expected)[pure].float().mean() > 0.999
    assert pure.float().mean() > 0.8


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_labels_and_kinds_stay(seed: int) -> None:
    moved, labels = random_affine(IMAGES, source(seed), MASKS, **STRONG)
    assert labels is not None
    assert set(labels.unique().tolist()) <= {0, 1, 2, 3}
    assert (moved.shape, labels.shape, labels.dtype) == (IMAGES.shape, MASKS.shape, torch.uint8)
    assert moved.min() >= 0
    assert moved.max() <= 1


def test_no_range_no_change() -> None:
    moved, labels = random_affine(IMAGES, source(0), MASKS, degrees=0, zoom=0, shift=0)
    torch.testing.assert_close(moved, IMAGES, rtol=0, atol=1e-5)
    assert labels is not None
    assert torch.equal(labels, MASKS)
    assert random_affine(IMAGES, source(0))[1] is None


@pytest.mark.parametrize("name", STRONG)
def test_each_range_changes_something(name: str) -> None:
    still = dict.fromkeys(STRONG, 0.0)
    moved, _ = random_affine(IMAGES, source(1), MASKS, **(still | {name: STRONG[name]}))
    assert ((moved - IMAGES).abs().amax((1, 2, 3)) > 0.02).all()


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_no_black_borders(seed: int) -> None:
    bright = 0.5 + 0.5 * IMAGES
    moved, _ = random_affine(bright, source(seed), **STRONG)
    assert moved.min() > 0.4


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_the_edges_of_the_film_stay_and_the_chest_moves(seed: int) -> None:
    moved, labels = random_affine(IMAGES, source(seed), MASKS, **STRONG, edges=0.25)
    frame = torch.ones(64, 64, dtype=torch.bool)
    frame[1:-1, 1:-1] = False
    assert (moved - IMAGES)[..., frame].abs().mean() < 0.01
    assert (moved - IMAGES)[..., ~frame].abs().amax(-1).min() > 0.05
    assert labels is not None
    assert torch.equal(labels[:, frame], MASKS[:, frame])


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_never_a_mirror_image(seed: int) -> None:
    _, labels = random_affine(IMAGES, source(seed), MASKS, **STRONG)
    assert labels is not None
    columns = torch.arange(64).expand(64, 64)
    for mask in labels:
        right, left = (columns[mask == organ].float().mean() for organ in (Organ.RIGHT_LUNG, Organ.LEFT_LUNG))
        assert right < left  # the patient's right is on the left of the image


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_intensity_stays_in_range_and_in_place(seed: int) -> None:
    changed = random_intensity(IMAGES, source(seed))
    assert changed.shape == IMAGES.shape
    assert torch.isfinite(changed).all()
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert ((changed - IMAGES).abs().amax((1, 2, 3)) > 0.01).all()


def test_same_generator_same_change() -> None:
    for change in (random_affine, random_intensity):
        first, second, third = (change(IMAGES, source(seed)) for seed in (5, 5, 6))
        pick = (lambda result: result[0]) if change is random_affine else (lambda result: result)
        assert torch.equal(pick(first), pick(second))
        assert not torch.equal(pick(first), pick(third))
