"""Diversity: how alike are images that were drawn for one and the same mask and prompt?

A model that always draws the same chest for a mask has a perfect fidelity there and shows only here.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from xreal.errors import InputError

__all__ = ["diversity_scores", "ms_ssim", "pairs_within_groups", "random_pairs"]

Floats = NDArray[np.float64]
Pairs = NDArray[np.int64]

# Weights of the scales, finest first (Wang et al. 2003).
_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
# Smallest side for that many scales: below it torchmetrics' window of 11 pixels does not fit.
_SMALLEST_SIDES = {5: 176, 4: 99, 3: 64}
_BATCH = 8


def ms_ssim(images: np.ndarray, others: np.ndarray) -> Floats:
    """Return the multi-scale structural similarity of each image with its partner (Wang et al. 2003).

    Five scales need sides of 176 pixels; from 99 pixels four are used, from 64 pixels three, with the weights of the
    finest ones scaled to a sum of 1. Values of different numbers of scales do not compare.

    Args:
        images: (N, H, W) float in [0, 1].
        others: (N, H, W).

    Returns:
        (N,) in [0, 1]; 1 for equal images.

    Raises:
        InputError: shapes that differ, or images smaller than 64 pixels.
    """
    if images.shape != others.shape or images.ndim != 3:
        raise InputError(f"MS-SSIM compares (N, H, W) images of one shape; given {images.shape} and {others.shape}")
    side = min(images.shape[1:])
    scales = next((count for count, smallest in _SMALLEST_SIDES.items() if side >= smallest), 0)
    if scales == 0:
        raise InputError(f"images of {side} pixels are too small for MS-SSIM: give at least {_SMALLEST_SIDES[3]}")
    weights = tuple(weight / sum(_WEIGHTS[:scales]) for weight in _WEIGHTS[:scales])
    values = []
    with torch.inference_mode():
        for start in range(0, len(images), _BATCH):
            batch = (
                torch.from_numpy(one[start : start + _BATCH].astype(np.float32))[:, None] for one in (images, others)
            )
            similarity = multiscale_structural_similarity_index_measure(
                *batch, data_range=1.0, betas=weights, reduction="none"
            )
            values.append(similarity.reshape(-1).double().numpy())
    return np.concatenate(values) if values else np.zeros(0)


def pairs_within_groups(groups: Sequence[Hashable], most: int, seed: int = 0) -> Pairs:
    """Draw pairs of images of one group, spread evenly over the groups.

    Args:
        groups: label of each image, such as the name of its mask and prompt.
        most: pairs to draw; fewer are returned where there are fewer.
        seed: of the draws.

    Returns:
        (P, 2) indices, none twice.

    Raises:
        InputError: a group of one image.
    """
    members: dict[Hashable, list[int]] = {}
    for index, label in enumerate(groups):
        members.setdefault(label, []).append(index)
    lonely = [label for label, indices in members.items() if len(indices) < 2]
    if lonely or not members:
        raise InputError(
            f"{len(lonely)} of {len(members)} groups have one image only (such as {lonely[:1]}); diversity needs at "
            "least 2 images per mask and prompt, better 4: generate with more seeds"
        )
    rng = np.random.default_rng(seed)
    decks = [rng.permutation(np.array(list(combinations(indices, 2)))) for indices in members.values()]
    decks = [decks[i] for i in rng.permutation(len(decks))]  # groups that go without, if any, are random ones
    deepest = max(map(len, decks))
    dealt = [deck[turn] for turn in range(min(deepest, most)) for deck in decks if turn < len(deck)]
    return np.array(dealt[:most], np.int64)


def random_pairs(count: int, most: int, seed: int = 0) -> Pairs:
    """Draw up to ``most`` pairs of two different ones of ``count`` images, none twice; (P, 2) indices.

    Raises:
        InputError: fewer than two images.
    """
    if count < 2:
        raise InputError(f"{count} real images make no pair: give at least 2")
    rng = np.random.default_rng(seed)
    used = rng.permutation(count)[: 2 * most]  # of a large set that many suffice; the table of its pairs would be huge
    first, second = np.triu_indices(len(used), k=1)
    picked = rng.permutation(len(first))[:most]
    return np.stack([used[first[picked]], used[second[picked]]], axis=1)


def diversity_scores(
    images: np.ndarray, groups: Sequence[Hashable], real_images: np.ndarray, seed: int = 0, most_pairs: int = 300
) -> dict[str, np.ndarray]:
    """Compare images that were asked for alike, and beside them random pairs of real images.

    A higher similarity within groups than between real images is expected, since a group shares its mask; 1 means that
    seeds change nothing. Pairs of one group are not independent: bootstrap "ms-ssim per group" rather than the pairs.

    Args:
        images: generated, (N, H, W) float in [0, 1].
        groups: N labels; images of one label had the same mask and prompt. At least 2 images per label, better 4.
        real_images: (M, H, W) of the same size, best of one class.
        seed: of the draws.
        most_pairs: generated and real pairs each.

    Returns:
        "ms-ssim within groups", (P,) per pair; "ms-ssim per group", means of the groups that have a pair;
        "ms-ssim real pairs", (Q,).

    Raises:
        InputError: a group of one image, fewer than two real images, sizes that differ or lie below 64 pixels.
    """
    if len(groups) != len(images):
        raise InputError(f"{len(images)} images, but {len(groups)} group labels; give one label per image")
    if real_images.shape[1:] != images.shape[1:]:
        raise InputError(
            f"real images are {real_images.shape[1:]} pixels and generated ones {images.shape[1:]}; bring them to one "
            "size, since MS-SSIM depends on it"
        )
    pairs = pairs_within_groups(groups, most_pairs, seed)
    real_pairs = random_pairs(len(real_images), most_pairs, seed)
    within = ms_ssim(images[pairs[:, 0]], images[pairs[:, 1]])
    by_group: dict[Hashable, list[float]] = {}
    for (first, _), value in zip(pairs, within, strict=True):
        by_group.setdefault(groups[first], []).append(value)
    return {
        "ms-ssim within groups": within,
        "ms-ssim per group": np.array([np.mean(values) for values in by_group.values()]),
        "ms-ssim real pairs": ms_ssim(real_images[real_pairs[:, 0]], real_images[real_pairs[:, 1]]),
    }
