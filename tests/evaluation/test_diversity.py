"""Diversity: copies give 1, differences less, and pairs are drawn within groups without favour."""

from collections import Counter

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from xreal.data.phantom import phantom
from xreal.errors import InputError
from xreal.evaluation.diversity import diversity_scores, ms_ssim, pairs_within_groups, random_pairs


@pytest.fixture(scope="module")
def chests() -> np.ndarray:
    return np.stack([phantom(seed, 64).image for seed in range(16)])


def test_one_image_repeated_scores_one(chests: np.ndarray) -> None:
    scores = diversity_scores(np.repeat(chests[:2], 4, axis=0), ["a"] * 4 + ["b"] * 4, chests, most_pairs=30)
    assert scores["ms-ssim within groups"].shape == (12,)
    np.testing.assert_allclose(scores["ms-ssim within groups"], 1, atol=1e-5)
    np.testing.assert_allclose(scores["ms-ssim per group"], [1, 1], atol=1e-5)
    assert scores["ms-ssim real pairs"].max() < 0.95


def test_groups_of_different_images_score_like_real_pairs_and_near_copies_higher(chests: np.ndarray) -> None:
    groups = [index // 4 for index in range(16)]
    scores = diversity_scores(chests, groups, chests, most_pairs=30)
    real = scores["ms-ssim real pairs"].mean()
    assert scores["ms-ssim within groups"].mean() == pytest.approx(real, abs=0.05)
    noise = np.random.default_rng(0).normal(0, 0.01, chests.shape)
    near_copies = (np.repeat(chests[::4], 4, axis=0) + noise).astype(np.float32)
    assert diversity_scores(near_copies, groups, chests, most_pairs=30)["ms-ssim per group"].min() > real + 0.1


@pytest.mark.parametrize("size", [64, 98, 99, 175, 176])
def test_every_size_from_64_works(size: int) -> None:
    images = np.random.default_rng(0).random((2, size, size + 10)).astype(np.float32)
    np.testing.assert_allclose(ms_ssim(images, images), 1, atol=1e-5)
    assert ms_ssim(images, images[::-1].copy()).max() < 0.5


def test_full_size_uses_the_five_published_scales() -> None:
    rng = np.random.default_rng(0)
    images = rng.random((3, 176, 176)).astype(np.float32)
    others = np.clip(images + rng.normal(0, 0.2, images.shape), 0, 1).astype(np.float32)
    expected = multiscale_structural_similarity_index_measure(
        torch.from_numpy(images)[:, None], torch.from_numpy(others)[:, None], data_range=1.0, reduction="none"
    )
    np.testing.assert_allclose(ms_ssim(images, others), expected.numpy(), rtol=1e-4)


def test_similarity_does_not_depend_on_the_batch(chests: np.ndarray) -> None:
    together = ms_ssim(chests[:5].repeat(2, axis=0), chests[5:15])
    alone = [ms_ssim(chests[i // 2][None], chests[5 + i][None])[0] for i in range(10)]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_pairs_stay_in_their_group_and_spread_over_groups() -> None:
    groups = ["a"] * 20 + ["b"] * 4 + ["c"] * 2
    pairs = pairs_within_groups(groups, most=12)
    assert all(groups[first] == groups[second] and first != second for first, second in pairs)
    assert len({frozenset(pair) for pair in pairs.tolist()}) == 12
    counts = Counter(groups[first] for first, _ in pairs)
    assert counts["c"] == 1
    assert abs(counts["a"] - counts["b"]) <= 1
    assert len(pairs_within_groups(groups, most=10_000)) == 190 + 6 + 1
    np.testing.assert_array_equal(pairs, pairs_within_groups(groups, most=12))
    assert (pairs != pairs_within_groups(groups, most=12, seed=1)).any()


def test_random_pairs_are_distinct() -> None:
    for count, most, expected in ((2, 300, 1), (10, 300, 45), (100_000, 300, 300)):
        pairs = random_pairs(count, most)
        assert len({frozenset(pair) for pair in pairs.tolist()}) == expected
        assert (pairs[:, 0] != pairs[:, 1]).all()
        assert pairs.max() < count


def test_unusable_input_is_refused(chests: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"1 of 2 groups .* at least 2 images per mask"):
        pairs_within_groups(["a", "a", "b"], most=10)
    with pytest.raises(InputError, match="give at least 2"):
        random_pairs(1, most=10)
    with pytest.raises(InputError, match="at least 64"):
        ms_ssim(chests[:, :48], chests[:, :48])
    with pytest.raises(InputError, match="one shape"):
        ms_ssim(chests[:2], chests[:3])
    with pytest.raises(InputError, match="one label per image"):
        diversity_scores(chests, ["a"] * 3, chests)
    with pytest.raises(InputError, match="one size"):
        diversity_scores(chests, ["a"] * 16, np.zeros((4, 128, 128), np.float32))
