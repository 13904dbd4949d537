"""The search for copies: finds the same picture after every change that hides it, and not merely a similar chest."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.transform import AffineTransform, resize, warp

from xreal.data.augment import random_affine
from xreal.data.phantom import phantom
from xreal.errors import DataError, InputError
from xreal.evaluation.privacy import NearestImages, copy_summary, flag_copies, nearest_training_images, threshold

SIZE = 64
COPIED = range(0, 60, 3)
ANATOMY = ndimage.gaussian_filter(phantom(0, SIZE).image, 1)


def chest(seed: int) -> np.ndarray:
    """One anatomy for all, somewhere else in each picture; only the fine structure is a picture's own."""
    rng = np.random.default_rng(seed)
    image = ndimage.shift(ANATOMY, rng.uniform(-3, 3, 2), order=1, mode="nearest")
    for deviation, strength in ((1, 0.02), (2, 0.03), (4, 0.04)):
        noise = ndimage.gaussian_filter(rng.normal(size=image.shape), deviation)
        image = image + strength * noise / noise.std()
    return np.clip(image, 0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def train() -> np.ndarray:
    return np.stack([chest(seed) for seed in range(60)])


@pytest.fixture(scope="module")
def held_out(train: np.ndarray) -> NearestImages:
    return nearest_training_images(np.stack([chest(seed) for seed in range(1000, 1200)]), train, candidates=5)


def crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    cut = round(0.05 * SIZE)
    top, left = rng.integers(0, cut + 1, 2)
    return resize(image[top : top + SIZE - cut, left : left + SIZE - cut], image.shape)


def moved(image: np.ndarray, degrees: float, width: float, height: float) -> np.ndarray:
    """Turn about the centre and stretch."""
    centre = (SIZE - 1) / 2
    pose = AffineTransform(translation=(-centre, -centre))
    pose += AffineTransform(rotation=np.deg2rad(degrees), scale=(width, height))
    return warp(image, (pose + AffineTransform(translation=(centre, centre))).inverse, mode="edge")


CHANGES = {
    "exact": lambda image, rng: image,
    "brighter": lambda image, rng: np.clip(image * rng.uniform(0.7, 1.3) + rng.uniform(-0.1, 0.1), 0, 1),
    "cropped": crop,
    "blurred": lambda image, rng: ndimage.gaussian_filter(image, 0.01 * SIZE),
    "turned": lambda image, rng: moved(image, rng.uniform(-3, 3), 1, 1),
    "stretched": lambda image, rng: moved(image, 0, *rng.permutation([1.05, 0.95])),
    "turned and stretched": lambda image, rng: moved(image, 3 * rng.choice([-1, 1]), *rng.uniform(0.95, 1.05, 2)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_planted_copies_are_found(change: str, train: np.ndarray, held_out: NearestImages) -> None:
    rng = np.random.default_rng(0)
    planted = np.stack([CHANGES[change](train[i], rng) for i in COPIED]).astype(np.float32)
    nearest = nearest_training_images(planted, train)
    limit = threshold(held_out.similarity[:100])  # its false alarms are counted on images that did not choose it
    assert np.mean(flag_copies(nearest.similarity, limit)) >= 0.95
    assert np.mean(nearest.index == np.array(COPIED)) >= 0.95
    assert np.mean(flag_copies(held_out.similarity[100:], limit)) <= 0.02


def test_an_exact_copy_is_one_and_a_chest_without_its_structure_is_not(train: np.ndarray) -> None:
    exact, washed_out = train[:3], np.stack([ndimage.gaussian_filter(image, 8) for image in train[:3]])
    generator = torch.Generator().manual_seed(0)
    moved = random_affine(torch.from_numpy(exact)[:, None], generator, degrees=3, zoom=0.0)[0][:, 0].numpy()
    similarities = [nearest_training_images(images, train).similarity.mean() for images in (exact, moved, washed_out)]
    assert similarities[0] == pytest.approx(1, abs=1e-3)
    assert similarities[0] > similarities[1] > 0.9 > 0.7 > similarities[2]


def test_sizes_may_differ_and_order_does_not_matter(train: np.ndarray) -> None:
    larger = np.stack([resize(image, (128, 128)) for image in train[:4]]).astype(np.float32)
    nearest = nearest_training_images(larger[::-1], train)
    assert nearest.index.tolist() == [3, 2, 1, 0]
    assert nearest.similarity.min() > 0.95


def test_a_blank_image_is_like_none(train: np.ndarray) -> None:
    assert abs(nearest_training_images(np.full((1, SIZE, SIZE), 0.5, np.float32), train).similarity[0]) < 0.3


def test_threshold_keeps_its_promise() -> None:
    rng = np.random.default_rng(0)
    alarms = [
        np.mean(flag_copies(rng.beta(8, 6, 100), threshold(np.minimum(rng.beta(8, 6, 99), 0.89)))) for _ in range(200)
    ]
    assert 0.005 < np.mean(alarms) < 0.015
    assert threshold(np.arange(99) / 200) == 98 / 200  # 99 of them: the largest
    with pytest.raises(InputError, match="at least 99"):
        threshold(rng.beta(8, 6, 98))
    with pytest.raises(InputError, match="between 0 and 1"):
        threshold(rng.beta(8, 6, 99), false_alarms=0)


def test_held_out_images_from_the_training_set_are_noticed() -> None:
    held_out = np.r_[np.full(97, 0.5), 0.99, 1.0]
    with pytest.raises(DataError, match="2 of 99 held-out images are pictures of the training set"):
        threshold(held_out)


def test_summary_counts_copies_beside_the_held_out_images() -> None:
    held_out = np.linspace(0.3, 0.6, 120)
    clean, leaking = (copy_summary(np.r_[np.full(n, 0.95), np.full(50 - n, 0.5)], held_out) for n in (0, 10))
    assert (clean["n"], clean["held_out_n"], clean["flagged"], clean["flagged_low"]) == (50, 120, 0, 0)
    assert leaking["flagged"] == 0.2
    assert leaking["flagged_low"] < 0.2 < leaking["flagged_high"]
    assert leaking["quantiles"]["0.95"] == 0.95
    assert leaking["held_out_quantiles"]["1"] == pytest.approx(0.6)
    with pytest.raises(InputError, match="at least 1 image"):
        copy_summary(np.zeros(0), held_out)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((0, 64, 64), np.float32), "at least 1 image"),
        (np.zeros((64, 64), np.float32), "expected \\(N, H, W\\)"),
        (np.zeros((2, 16, 64), np.float32), "32 pixels"),
        (np.full((2, 64, 64), np.nan, np.float32), "NaN"),
    ],
)
def test_unusable_images_are_refused(images: np.ndarray, message: str, train: np.ndarray) -> None:
    for one, other in ((images, train), (train, images)):
        with pytest.raises(InputError, match=message):
            nearest_training_images(one, other)
    with pytest.raises(InputError, match="candidates is 0"):
        nearest_training_images(train[:1], train, candidates=0)
