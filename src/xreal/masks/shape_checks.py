"""Hold what the shape model draws to what was asked for and to what a chest can be."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy import ndimage

from xreal.errors import MaskError
from xreal.masks.landmarks import LANDMARKS, Points
from xreal.masks.organs import OrganMask, cardiothoracic_ratio, check_organ_mask, implausible
from xreal.vocabulary import Organ

__all__ = ["Drawn", "faults", "mask_measures", "settle"]

Drawn = tuple[OrganMask, Points]

_ROUNDS = 6
_RATIO = 0.01  # tolerance of a cardiothoracic ratio
_SCALE = 0.01  # relative tolerance of a size
_TILT = 0.5  # degrees
_LUNGS = (Organ.RIGHT_LUNG, Organ.LEFT_LUNG)


def mask_measures(mask: OrganMask) -> dict[str, float]:
    """Measure an organ mask as the shape model measures its landmarks.

    Returns:
        "ctr", the cardiothoracic ratio; "heart_width", the heart's greatest width, "heart_size" and "lung_size", square
        roots of the heart's and of both lungs' area, all three in units of the larger side; "tilt", the angle of the
        line through both lungs' centroids with the horizontal, in degrees, clockwise as seen.

    Raises:
        MaskError: a lung or the heart is missing.
    """
    labels = check_organ_mask(mask)
    ratio = cardiothoracic_ratio(labels)
    if ratio is None:
        missing = " and no ".join(organ.title for organ in LANDMARKS if not (labels == organ).any())
        raise MaskError(f"The organ mask has no {missing}; the shape model needs both lungs and the heart.")
    lungs = np.isin(labels, _LUNGS)
    centres = [np.argwhere(labels == organ).mean(axis=0) for organ in _LUNGS]
    return {
        "ctr": ratio,
        "heart_width": float(np.ptp(np.flatnonzero((labels == Organ.HEART).any(axis=0))) + 1) / max(labels.shape),
        "heart_size": float(np.sqrt((labels == Organ.HEART).sum())) / max(labels.shape),
        "lung_size": float(np.sqrt(lungs.sum())) / max(labels.shape),
        "tilt": float(np.degrees(np.arctan2(*(centres[1] - centres[0])))),
    }


def settle(draw: Callable[[Mapping[str, float]], Drawn | None], wanted: Mapping[str, float]) -> Drawn | None:
    """Draw until the mask itself has the wanted measures: the model's points are finer than pixels, and only near it.

    Args:
        draw: measures -> the mask and points of a chest that has about these, or None where there is none.
        wanted: some of the measures and their values.

    Returns:
        What was drawn, or None where the measures were not met: a cardiothoracic ratio and a relative size within 0.01
        or one pixel, whichever is more, a tilt within half a degree.
    """
    asked = dict(wanted)
    best: tuple[float, Drawn | None] = (1.0, None)
    for _ in range(_ROUNDS):
        drawn = draw(asked)
        if drawn is None:
            break
        if not wanted:
            return drawn
        mask = drawn[0]
        if not np.isin(tuple(LANDMARKS), mask).all():
            break
        now = mask_measures(mask)
        tolerance = _tolerances(mask, now)
        missing = {name: value - now[name] for name, value in wanted.items()}
        worst = max(abs(missing[name]) / tolerance[name] for name in wanted)
        if worst <= best[0]:
            best = (worst, drawn)
        if worst <= 0.5:
            break
        asked = {name: asked[name] + missing[name] for name in wanted}
    return best[1]


def _tolerances(mask: OrganMask, measures: Mapping[str, float]) -> dict[str, float]:
    columns = np.flatnonzero(np.isin(mask, _LUNGS).any(axis=0))
    pixel = 1 / max(mask.shape)
    sizes = {name: max(_SCALE * measures[name], pixel) for name in ("heart_size", "heart_width", "lung_size")}
    return {"ctr": max(_RATIO, 1 / (np.ptp(columns) + 1)), "tilt": _TILT} | sizes


def faults(drawn: Drawn, before: Drawn | None = None) -> list[str]:
    """List, a sentence each, why a drawn chest cannot be used; of an edited one, only what it was not ``before``."""
    mask, points = drawn
    old = set(_LUNGS) | {Organ.HEART} if before is None else set(before[0][before[0] > 0].tolist())
    found = [f"The {Organ(label).title} is lost." for label in sorted(old - set(mask.ravel().tolist()))]
    allowed = 0.0 if before is None else max(0.0, _beyond(before[1], mask)) + 1 / max(mask.shape)
    if _beyond(points, mask) > allowed or (_at_border(mask) and (before is None or not _at_border(before[0]))):
        found.append("An organ is cut by the image's border.")
    if _touching(mask) and not (before is not None and _touching(before[0])):
        found.append("The lungs touch each other.")
    if before is None or not implausible(before[0]):
        found += implausible(mask)
    return found


def _beyond(points: Points, mask: OrganMask) -> float:
    """How far points lie beyond the image, in units of its larger side; negative inside."""
    corner = np.array(mask.shape[::-1]) / max(mask.shape)
    return float(max(-points.min(), (points - corner).max()))


def _at_border(mask: OrganMask) -> bool:
    return bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())


def _touching(mask: OrganMask) -> bool:
    right = ndimage.binary_dilation(mask == Organ.RIGHT_LUNG, structure=np.ones((3, 3)))
    return bool((right & (mask == Organ.LEFT_LUNG)).any())
