"""Pathology control: is the lesion where it was asked for, is it that finding, and is everything else untouched?

Images are compared with their healthy twins: the same seed, organ mask and prompt, without lesions. Images without a
twin or without a lesion mask get NaN. Changes are taken in float.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from scipy import ndimage
from skimage.filters import sobel, threshold_otsu

from xreal.errors import InputError
from xreal.evaluation.control import lesion_change
from xreal.evaluation.judges import read_images
from xreal.models.encoder import Encoder
from xreal.vocabulary import Finding

__all__ = [
    "Response",
    "auroc_and_interval",
    "classifier_response",
    "lesion_locality",
    "localisation",
    "response_per_finding",
]

_PSNR_LIMIT = 1e-10  # mean squared error that equal pixels count as: 100 dB
_SMOOTHING = 1 / 64  # of the image's side: noise of single pixels is no place


class Response(TypedDict):
    """How the classifier answers to one finding where it was requested.

    Attributes:
        n: images.
        before: its probability in the healthy twins, (n,).
        after: in the images with the lesion, (n,).
        auroc: of images with the lesion against the healthy twins, with its 95% interval.
    """

    n: int
    before: np.ndarray
    after: np.ndarray
    auroc: tuple[float, float, float]


def _check(images: np.ndarray, healthy: np.ndarray, other: Sequence[object] | np.ndarray) -> None:
    if images.shape != healthy.shape or len(images) != len(other):
        raise InputError(
            f"given {images.shape} images, {healthy.shape} healthy twins and {len(other)} requests; "
            "expected as many of each, all of one size"
        )


def _twinned(healthy: np.ndarray) -> np.ndarray:
    return np.isfinite(healthy).all((1, 2))


def lesion_locality(images: np.ndarray, healthy: np.ndarray, lesion_masks: np.ndarray) -> dict[str, np.ndarray]:
    """Measure what a lesion changed inside its mask, outside, and along its border.

    Args:
        images: with lesions, (N, H, W) float32 in [0, 1].
        healthy: their twins, (N, H, W) float32; NaN where there is none.
        lesion_masks: (N, H, W) in [0, 1]; > 0 counts as inside.

    Returns:
        Per image, (N,) float64: what ``control.lesion_change`` returns; "psnr outside" in dB, at most 100; and "seam",
        the mean gradient after ÷ before along the mask's border, three pixels wide (two inside, one outside): near 1
        where the lesion blends in, above where an edge was cut.

    Raises:
        InputError: numbers or sizes differ.
    """
    _check(images, healthy, lesion_masks)
    inside = lesion_masks > 0
    usable = _twinned(healthy) & inside.any((1, 2)) & ~inside.all((1, 2))
    names = ("inside", "outside", "ratio", "brighter", "ssim outside", "psnr outside", "seam")
    scores = {name: np.full(len(images), np.nan) for name in names}
    if not usable.any():
        return scores
    for name, values in lesion_change(images[usable], healthy[usable], lesion_masks[usable]).items():
        scores[name][usable] = values
    for i in np.flatnonzero(usable):
        outside = ~inside[i]
        error = np.square(images[i][outside] - healthy[i][outside], dtype=np.float64).mean()
        scores["psnr outside"][i] = -10 * np.log10(max(error, _PSNR_LIMIT))
        core = ndimage.binary_erosion(inside[i], iterations=2, border_value=1)  # the image's own edge is no seam
        border = ndimage.binary_dilation(inside[i]) & ~core
        before, after = (float(sobel(image)[border].mean()) for image in (healthy[i], images[i]))
        scores["seam"][i] = after / max(before, 1e-8)
    return scores


def _probabilities(
    encoder: Encoder, images: np.ndarray, healthy: np.ndarray, findings: Sequence[tuple[Finding, ...]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return probabilities before and after (N, K), NaN where there is no twin, and which were requested (N, K)."""
    _check(images, healthy, findings)
    twinned = _twinned(healthy)
    before, after = (np.full((len(images), len(encoder.findings)), np.nan) for _ in range(2))
    if twinned.any():
        for values, pictures in ((before, healthy), (after, images)):
            values[twinned] = read_images(encoder, pictures[twinned]).findings.double().sigmoid().numpy()
    requested = np.array([[finding in names for finding in encoder.findings] for names in findings], bool)
    return before, after, requested.reshape(before.shape)


def classifier_response(
    encoder: Encoder, images: np.ndarray, healthy: np.ndarray, findings: Sequence[tuple[Finding, ...]]
) -> dict[str, np.ndarray]:
    """Measure how a lesion moves the classifier's probabilities, healthy twin -> image.

    Args:
        encoder: judges the findings that it has learnt (``encoder.findings``); the others are not judged. Its
            probabilities are those at even odds.
        images: with lesions, (N, H, W) float32 in [0, 1].
        healthy: their twins, (N, H, W) float32; NaN where there is none.
        findings: requested of each image.

    Returns:
        Per image, (N,) float64 in [−1, 1]: "requested", mean change of the requested findings; "others", mean change of
        the other findings, and "others absolute", mean |change| of them, both without "No Finding": unwanted co-edits;
        "no finding", change of that one. NaN where the classifier does not judge it.

    Raises:
        InputError: numbers or sizes differ.
    """
    before, after, requested = _probabilities(encoder, images, healthy, findings)
    change = after - before
    healthy_finding = np.array([finding is Finding.NO_FINDING for finding in encoder.findings])
    wanted, others = requested & ~healthy_finding, ~requested & ~healthy_finding
    return {
        "requested": _mean_where(change, wanted),
        "others": _mean_where(change, others),
        "others absolute": _mean_where(np.abs(change), others),
        "no finding": _mean_where(change, np.broadcast_to(healthy_finding, change.shape)),
    }


def _mean_where(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Average each row over some columns; NaN where there are none."""
    count = where.sum(1)
    total = np.where(where, values, 0).sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def response_per_finding(
    encoder: Encoder, images: np.ndarray, healthy: np.ndarray, findings: Sequence[tuple[Finding, ...]]
) -> dict[str, Response]:
    """Collect the classifier's probability of each finding over the images that it was requested in.

    Arguments as of ``classifier_response``.

    Returns:
        Name of each finding that was requested and that the classifier judges -> ``Response``; images without a
        twin do not count.

    Raises:
        InputError: numbers or sizes differ.
    """
    before, after, requested = _probabilities(encoder, images, healthy, findings)
    responses: dict[str, Response] = {}
    for k, finding in enumerate(encoder.findings):
        rows = requested[:, k] & np.isfinite(before[:, k])
        if finding is Finding.NO_FINDING or not rows.any():
            continue
        low, high = before[rows, k], after[rows, k]
        responses[finding.value] = Response(
            n=int(rows.sum()), before=low, after=high, auroc=auroc_and_interval(high, low)
        )
    return responses


def auroc_and_interval(
    positive: np.ndarray, negative: np.ndarray, seed: int = 0, draws: int = 1000, paired: bool = True
) -> tuple[float, float, float]:
    """Return the AUROC and its 95% bootstrap interval.

    The share of all (positive, negative) couples in which the positive scores higher, ties counting one half: the
    Mann-Whitney statistic. Couples are compared once and drawn many times, which no library does.

    Args:
        positive: scores of n images that have it, (n,).
        negative: scores of those that do not, (m,).
        seed: of the bootstrap.
        draws: of the bootstrap.
        paired: ``negative`` are the n twins of ``positive``, and are drawn with them; else each is drawn for itself.
    """
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    rng, (n, m) = np.random.default_rng(seed), wins.shape
    counts = rng.multinomial(n, np.full(n, 1 / n), size=draws)
    others = counts if paired else rng.multinomial(m, np.full(m, 1 / m), size=draws)
    drawn = ((counts @ wins) * others).sum(1) / (n * m)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(wins.mean()), float(low), float(high)


def localisation(images: np.ndarray, healthy: np.ndarray, lesion_masks: np.ndarray) -> dict[str, np.ndarray]:
    """Ask whether the change, healthy twin -> image, is where the lesion was requested.

    Args:
        images: with lesions, (N, H, W) float32 in [0, 1].
        healthy: their twins, (N, H, W) float32; NaN where there is none.
        lesion_masks: (N, H, W) in [0, 1]; from half of its maximum on counts as inside.

    Returns:
        Per image, (N,) float64: "pointing game", 1 where the smoothed |change| is largest inside the mask, else 0;
        "iou" of the mask and the change above Otsu's threshold; "chance", the mask's share of the image, which a blind
        guess would hit. An image without any change scores 0.

    Raises:
        InputError: numbers or sizes differ.
    """
    _check(images, healthy, lesion_masks)
    usable = _twinned(healthy) & lesion_masks.any((1, 2))
    scores = {name: np.full(len(images), np.nan) for name in ("pointing game", "iou", "chance")}
    for i in np.flatnonzero(usable):
        wanted = _core(lesion_masks[i])
        change = ndimage.gaussian_filter(np.abs(images[i] - healthy[i]), _SMOOTHING * images.shape[-1])
        changed = np.zeros_like(wanted) if np.ptp(change) == 0 else change > threshold_otsu(change)
        scores["pointing game"][i] = float(changed.any() and wanted.flat[change.argmax()])
        scores["iou"][i] = (wanted & changed).sum() / (wanted | changed).sum()
        scores["chance"][i] = wanted.mean()
    return scores


def _core(mask: np.ndarray) -> np.ndarray:
    inside: np.ndarray = mask >= 0.5 * mask.max()
    return inside
