"""Anatomy control: are the organs of an image where the mask asked for them?"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance

from xreal.errors import InputError
from xreal.masks.organs import cardiothoracic_ratio, dice_per_organ
from xreal.masks.segmenter import JudgeSegmenter, Segmenter, segment
from xreal.vocabulary import Organ

__all__ = ["ORGANS", "anatomy_control", "compare_organs"]

ORGANS = (Organ.LEFT_LUNG, Organ.RIGHT_LUNG, Organ.HEART)
"""Organs that segmenters find, and so those that can be judged."""


def anatomy_control(
    segmenter: Segmenter | JudgeSegmenter, images: np.ndarray, organ_masks: np.ndarray
) -> dict[str, np.ndarray]:
    """Compare the requested masks with the masks that a segmenter finds in the images.

    Args:
        segmenter: X-ray -> organ mask; for a fair judgement not the one that made the requested masks.
        images: (N, H, W) float32 in [0, 1].
        organ_masks: requested, (N, H, W) uint8 ``Organ``.

    Returns:
        As ``compare_organs``.

    Raises:
        InputError: images and masks differ in number or size.
    """
    if images.shape != organ_masks.shape:
        raise InputError(f"images are {images.shape}, organ masks {organ_masks.shape}; expected one mask per image")
    found = segment(segmenter, torch.from_numpy(np.ascontiguousarray(images, np.float32))[:, None])
    return compare_organs(organ_masks, found)


def compare_organs(requested: np.ndarray, found: np.ndarray) -> dict[str, np.ndarray]:
    """Compare requested with found masks, organ by organ.

    Args:
        requested: (N, H, W) uint8 ``Organ``.
        found: (N, H, W) uint8 ``Organ``.

    Returns:
        Per image, (N,) float64, NaN where an organ was not requested, for each of ``ORGANS``:
        "dice ORGAN" in [0, 1]; "hd95 ORGAN", the 95th percentile of the distances between the outlines, in pixels;
        "area ratio ORGAN", found ÷ requested. An organ that was requested and is not found counts as Dice 0, area ratio
        0 and a distance of the image's diagonal. And "cardiothoracic ratio error", |found − requested|; NaN also where
        a lung or the heart was not found.
    """
    dice = [dice_per_organ(*pair) for pair in zip(requested, found, strict=True)]
    scores = {}
    for organ in ORGANS:
        wanted, seen = requested == organ, found == organ
        asked, there = wanted.any((1, 2)), seen.any((1, 2))
        scores[f"dice {organ.title}"] = np.array([one.get(organ.title, np.nan) for one in dice])
        distances = np.where(asked, float(np.hypot(*requested.shape[1:])), np.nan)
        both = np.flatnonzero(asked & there)
        if both.size:
            pairs = (torch.from_numpy(masks[both])[:, None] for masks in (seen, wanted))
            with warnings.catch_warnings():  # MONAI warns about its own call
                warnings.simplefilter("ignore", FutureWarning)
                apart = compute_hausdorff_distance(*pairs, include_background=True, percentile=95)
            distances[both] = apart[:, 0].numpy()
        scores[f"hd95 {organ.title}"] = distances
        areas = np.where(asked, wanted.sum((1, 2)), np.nan)
        scores[f"area ratio {organ.title}"] = seen.sum((1, 2)) / areas
    ratios = [
        [np.nan if ratio is None else ratio for ratio in map(cardiothoracic_ratio, pair)]
        for pair in zip(requested, found, strict=True)
    ]
    wanted_ratio, found_ratio = np.array(ratios, np.float64).T
    return scores | {"cardiothoracic ratio error": np.abs(found_ratio - wanted_ratio)}
