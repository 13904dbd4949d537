"""What measures of control share: the change that a lesion makes, boxes to ask for, means with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from skimage.metrics import structural_similarity

from xreal.masks.areas import box
from xreal.vocabulary import Organ

__all__ = ["lesion_change", "mean_and_interval", "sample_lung_boxes"]


def lesion_change(images: np.ndarray, healthy: np.ndarray, lesion_masks: np.ndarray) -> dict[str, np.ndarray]:
    """Measure what a lesion changed, inside its mask and outside.

    Args:
        images: with lesions, (N, H, W) float32 in [0, 1].
        healthy: their twins, (N, H, W) float32.
        lesion_masks: (N, H, W) in [0, 1]; > 0 counts as inside.

    Returns:
        Per image, (N,): "inside" and "outside", mean |after − before|; "ratio", the one over the other; "brighter",
        mean (after − before) inside; "ssim outside", mean structural similarity over outside pixels.
    """
    rows = []
    for image, twin, mask in zip(images, healthy, lesion_masks, strict=True):
        change, inside = np.abs(image - twin), mask > 0
        _, similarity = structural_similarity(image, twin, data_range=1.0, full=True)
        within, beyond = change[inside].mean(), change[~inside].mean()
        ratio = within / max(beyond, 1e-8)
        rows.append((within, beyond, ratio, (image - twin)[inside].mean(), similarity[~inside].mean()))
    columns = np.array(rows, np.float64).T
    return dict(zip(("inside", "outside", "ratio", "brighter", "ssim outside"), columns, strict=True))


def sample_lung_boxes(organ_masks: np.ndarray, seed: int, inside: float = 0.7) -> np.ndarray:
    """Draw one lesion box per organ mask, inside the lungs.

    Sizes are uniform between 14% and 26% of the side, where most pneumonia boxes of the NIH and RSNA lists lie.

    Args:
        organ_masks: (N, H, W) uint8 with both lungs.
        seed: of the random places.
        inside: smallest share of a box that lies on lung.

    Returns:
        (N, H, W) float32, 1 inside the box.
    """
    rng, boxes = np.random.default_rng(seed), []
    height, width = organ_masks.shape[1:]
    for mask in organ_masks:
        lungs = np.isin(mask, (Organ.LEFT_LUNG, Organ.RIGHT_LUNG))
        rows, columns = np.nonzero(lungs)
        best: tuple[float, np.ndarray] = (-1.0, np.zeros_like(mask, np.float32))
        for _ in range(100):
            pick = rng.integers(len(rows))
            half_w, half_h = rng.uniform(0.07, 0.13) * width, rng.uniform(0.07, 0.13) * height
            x0, x1 = max(0.0, columns[pick] - half_w), min(float(width), columns[pick] + half_w)
            y0, y1 = max(0.0, rows[pick] - half_h), min(float(height), rows[pick] + half_h)
            drawn = box(x0, y0, x1, y1, height=height, width=width)
            share = float(lungs[drawn > 0].mean())
            if share > best[0]:
                best = (share, drawn)
            if share >= inside:
                break
        boxes.append(best[1])
    return np.stack(boxes)


def mean_and_interval(
    values: Sequence[float] | np.ndarray, seed: int = 0, draws: int = 2000
) -> tuple[float, float, float]:
    """Return the mean of values without NaN and its 95% bootstrap interval."""
    kept = np.asarray(values, np.float64)
    kept = kept[np.isfinite(kept)]
    picks = np.random.default_rng(seed).integers(len(kept), size=(draws, len(kept)))
    low, high = np.percentile(kept[picks].mean(axis=1), [2.5, 97.5])
    return float(kept.mean()), float(low), float(high)
