"""What is measured on landmarks, and how each measure changes with them: cardiothoracic ratio, areas, tilt."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from xreal.masks.landmarks import LANDMARKS, N_LANDMARKS, Points
from xreal.vocabulary import Organ

__all__ = ["MEASURES", "measure", "slopes"]

Floats = npt.NDArray[np.float64]

MEASURES = ("ctr", "heart_size", "lung_size", "tilt", "heart_width")
"""Cardiothoracic ratio; square root of the heart's and of both lungs' area; degrees; width. Lengths are in sides."""

_SOFTNESS = 0.004  # units of the side, a pixel of 256: how near the outermost point shares in the slope of a width
_LUNGS = (Organ.RIGHT_LUNG, Organ.LEFT_LUNG)


def measure(points: Points) -> dict[str, float]:
    """Measure a chest by its landmarks (N_LANDMARKS, 2); keys are ``MEASURES``.

    The cardiothoracic ratio is that of ``xreal.masks.organs.cardiothoracic_ratio``. The tilt is the angle between the
    image's horizontal and the line through both lungs' centroids, in degrees, clockwise as seen.
    """
    heart = points[LANDMARKS[Organ.HEART], 0]
    lungs = points[: LANDMARKS[Organ.HEART].start, 0]
    right, left = (_centroid(points[LANDMARKS[organ]])[0] for organ in _LUNGS)
    return {
        "ctr": float(np.ptp(heart) / np.ptp(lungs)),
        "heart_size": _size(points, Organ.HEART),
        "lung_size": float(np.linalg.norm([_size(points, organ) for organ in _LUNGS])),
        "tilt": float(np.degrees(np.arctan2(*(left - right)[::-1]))),
        "heart_width": float(np.ptp(heart)),
    }


def slopes(points: Points, name: str) -> Floats:
    """Differentiate one of ``MEASURES`` by the landmarks: (N_LANDMARKS, 2)."""
    heart, lungs = LANDMARKS[Organ.HEART], slice(0, LANDMARKS[Organ.HEART].start)
    result = np.zeros((N_LANDMARKS, 2))
    if name == "heart_width":
        result[heart, 0] = _width_slopes(points[heart, 0])
        return result
    if name == "ctr":
        width = float(np.ptp(points[lungs, 0]))
        ratio = float(np.ptp(points[heart, 0])) / width
        result[heart, 0] = _width_slopes(points[heart, 0]) / width
        result[lungs, 0] = -ratio * _width_slopes(points[lungs, 0]) / width
        return result
    if name == "tilt":
        (right, by_right), (left, by_left) = (_centroid(points[LANDMARKS[organ]]) for organ in _LUNGS)
        along = left - right
        turned = np.degrees(np.array([-along[1], along[0]]) / (along @ along))
        for organ, by_points in zip(_LUNGS, (-by_right, by_left), strict=True):
            result[LANDMARKS[organ]] = np.tensordot(turned, by_points, 1)
        return result
    organs = (Organ.HEART,) if name == "heart_size" else _LUNGS
    size = float(np.sqrt(sum(_size(points, organ) ** 2 for organ in organs)))
    for organ in organs:
        where = points[LANDMARKS[organ]]
        step = np.roll(where, -1, axis=0) - np.roll(where, 1, axis=0)
        sign = np.sign(_signed_area(where))
        result[LANDMARKS[organ]] = sign * 0.5 * np.stack([step[:, 1], -step[:, 0]], axis=1) / (2 * size)
    return result


def _size(points: Points, organ: Organ) -> float:
    return float(np.sqrt(abs(_signed_area(points[LANDMARKS[organ]]))))


def _centroid(outline: Points) -> tuple[Floats, Floats]:
    """Centroid (2,) of the area inside an outline, and its derivatives (2, P, 2) by the outline's points."""
    after, before = np.roll(outline, -1, axis=0), np.roll(outline, 1, axis=0)
    cross = outline[:, 0] * after[:, 1] - after[:, 0] * outline[:, 1]
    area = cross.sum() / 2
    centroid: Floats = (outline + after).T @ cross / (6 * area)
    by_cross = np.stack([after[:, 1], -after[:, 0]], axis=1)  # of each cross product by its first point
    by_last = np.stack([-before[:, 1], before[:, 0]], axis=1)  # of the one before by its second point
    ahead, behind = (outline + after).T[:, :, None], (before + outline).T[:, :, None]
    moments = ahead * by_cross + behind * by_last + np.eye(2)[:, None] * (cross + np.roll(cross, 1))[:, None]
    by_area = (by_cross + by_last) / 2
    return centroid, moments / (6 * area) - centroid[:, None, None] * by_area / area


def _signed_area(outline: Points) -> float:
    x, y = outline.T
    return float(x @ np.roll(y, -1) - np.roll(x, -1) @ y) / 2


def _width_slopes(across: Floats) -> Floats:
    """Slope of max − min, shared among the points nearest to each end."""
    high = np.exp((across - across.max()) / _SOFTNESS)
    low = np.exp((across.min() - across) / _SOFTNESS)
    result: Floats = high / high.sum() - low / low.sum()
    return result
