"""Landmarks: corresponding points on the outlines of lungs and heart, and the organ mask that is drawn from them.

Each outline is cut at four anatomical points, and each piece between two of them is divided evenly by its length. A
lung is cut at its apex, its costophrenic angle, and where it begins and ends to touch the heart, the lower of which is
the cardiophrenic angle; the heart is cut at its ends of the same four contacts. So points of one index lie at one place
of the anatomy in every chest, and a lung and the heart have the same points on their common border.

Points are (x, y) in units of the image's larger side, x to the right and y downwards, (0, 0) the upper left corner.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.draw import polygon2mask
from skimage.measure import find_contours

from xreal.errors import MaskError
from xreal.masks.organs import OrganMask, check_organ_mask
from xreal.masks.pieces import largest_piece
from xreal.vocabulary import Organ

__all__ = ["FREE_BORDERS", "LANDMARKS", "N_LANDMARKS", "draw_landmarks", "find_landmarks"]

Points = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]

_LUNG_PIECES = (32, 24, 24, 24)  # apex - costophrenic angle - lower contact - upper contact - apex
_HEART_PIECES = (24, 24, 24, 16)  # right upper - right lower - left lower - left upper contact - right upper
_LUNG, _HEART = sum(_LUNG_PIECES), sum(_HEART_PIECES)

LANDMARKS = {
    Organ.RIGHT_LUNG: slice(0, _LUNG),
    Organ.LEFT_LUNG: slice(_LUNG, 2 * _LUNG),
    Organ.HEART: slice(2 * _LUNG, 2 * _LUNG + _HEART),
}
"""Which of the landmarks are an organ's outline, in order."""

N_LANDMARKS = 2 * _LUNG + _HEART

_away = np.r_[0:48, 92:_LUNG]  # the side, two thirds of the base and the upper half of the inner border
FREE_BORDERS: Indices = np.concatenate([_away, _LUNG + _away])
"""Indices of the landmarks of both lungs that lie away from the heart."""

_TOUCH = 1.6  # pixels from the centre of a heart pixel to a lung's outline that touches it, diagonally too
_FEWEST_PIXELS = 12  # of an organ whose outline is worth dividing


def find_landmarks(mask: OrganMask) -> Points:
    """Find the landmarks of an organ mask.

    Args:
        mask: (H, W) labels; both lungs and the heart are there. Of an organ in pieces the largest is used.

    Returns:
        (N_LANDMARKS, 2) points (x, y) in units of the larger side.

    Raises:
        MaskError: an organ is missing or too small, or the right lung is not on the left of the image.
    """
    whole = check_organ_mask(mask)
    rows, columns = (np.flatnonzero((whole > 0).any(axis=axis)) for axis in (1, 0))
    labels = whole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    organs = {organ: largest_piece(labels == organ) for organ in LANDMARKS}
    small = [organ.title for organ, pixels in organs.items() if pixels.sum() < _FEWEST_PIXELS]
    if small:
        raise MaskError(
            f"The organ mask has no {' and no '.join(small)} of {_FEWEST_PIXELS} pixels or more; the shape model needs "
            "both lungs and the heart."
        )
    outlines = {organ: _outline(pixels) for organ, pixels in organs.items()}
    if outlines[Organ.RIGHT_LUNG][:, 0].mean() >= outlines[Organ.LEFT_LUNG][:, 0].mean():
        raise MaskError(
            "The right lung is not on the left of the image; sides are the patient's. Mirror the mask or swap the "
            "labels 1 and 2."
        )
    to_heart = ndimage.distance_transform_edt(~organs[Organ.HEART])
    heart_top = float(outlines[Organ.HEART][:, 1].min())
    found, contacts = [], []
    for organ, outward in ((Organ.RIGHT_LUNG, -1), (Organ.LEFT_LUNG, 1)):
        outline = outlines[organ] if outward < 0 else outlines[organ][::-1]
        outline, cuts = _cut_lung(outline, to_heart, heart_top, outward)
        contacts.append(outline[cuts[2:]])
        found.append(_divide(outline, cuts, _LUNG_PIECES))
    heart = outlines[Organ.HEART]
    heart, cuts = _cut_heart(heart, contacts)
    found.append(_divide(heart, cuts, _HEART_PIECES))
    return (np.concatenate(found) + 0.5 + (columns[0], rows[0])) / max(whole.shape)


def _outline(organ: Bools) -> Points:
    """Follow the outer border, as pixel indices (x, y), down the left of the image and up its right; not closed."""
    contours = find_contours(np.pad(organ, 1).astype(np.float64), 0.5)
    border = max(contours, key=len)[:-1, ::-1] - 1
    x, y = border.T
    turn = float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())
    return border if turn < 0 else border[::-1]


def _cut_lung(
    outline: Points, to_heart: npt.NDArray[np.float64], heart_top: float, outward: int
) -> tuple[Points, Indices]:
    """Turn a lung's outline so that it starts at the apex and runs down its side; return it with its four cuts."""
    outline = np.roll(outline, -int(outline[:, 1].argmin()), axis=0)
    angle = int((outline[:, 1] + 0.7 * outward * outline[:, 0]).argmax())  # lowest point of the outer side
    angle = min(max(angle, 1), len(outline) - 3)
    inner = outline[angle:]
    touching = np.flatnonzero(ndimage.map_coordinates(to_heart, inner[:, ::-1].T, order=1, mode="nearest") <= _TOUCH)
    touching = touching[touching > 0]
    if touching.size and touching[-1] > touching[0]:
        lower, upper = int(touching[0]), int(touching[-1])
    else:  # apart: the inner corner of the base, and the height of the heart's top
        lower = max(1, int((inner[:-1, 1] - 0.7 * outward * inner[:-1, 0]).argmax()))
        lower = min(lower, len(inner) - 2)
        upper = lower + 1 + int(np.abs(inner[lower + 1 :, 1] - heart_top).argmin())
    return outline, np.array([0, angle, angle + lower, angle + upper])


def _cut_heart(outline: Points, contacts: list[Points]) -> tuple[Points, Indices]:
    """Cut the heart at the points nearest the lungs' contacts, (lower, upper) each, right lung first."""
    (right_lower, right_upper), (left_lower, left_upper) = contacts
    corners = np.array([right_upper, right_lower, left_lower, left_upper])
    cuts = ((outline[:, None] - corners) ** 2).sum(-1).argmin(0)
    turned = (cuts - cuts[0]) % len(outline)
    if not (np.diff(turned) > 0).all():  # contacts out of order: the heart's own corners
        cuts = (outline @ np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]]).T).argmax(0)
        turned = (cuts - cuts[0]) % len(outline)
        if not (np.diff(turned) > 0).all():
            turned = np.arange(4) * len(outline) // 4
    return np.roll(outline, -int(cuts[0]), axis=0), turned


def _divide(outline: Points, cuts: Indices, pieces: tuple[int, ...]) -> Points:
    """Divide a closed outline that starts at its first cut: ``pieces`` points, evenly by length, from cut to cut."""
    closed = np.concatenate([outline, outline[:1]])
    length = np.concatenate([[0.0], np.hypot(*np.diff(closed, axis=0).T).cumsum()])
    ends = np.append(length[cuts], length[-1])
    at = np.concatenate([np.linspace(a, b, n, endpoint=False) for a, b, n in zip(ends, ends[1:], pieces, strict=False)])
    return np.stack([np.interp(at, length, axis) for axis in closed.T], axis=1)


def draw_landmarks(points: Points, size: int) -> OrganMask:
    """Draw the organs whose landmarks these are; the heart lies over the lungs and close gaps beside it are lung.

    Args:
        points: (N_LANDMARKS, 2) in units of the side.
        size: pixels a side.

    Returns:
        (size, size) uint8 labels, each organ in one piece; what lies outside the image is lost.
    """
    pixels = points[:, ::-1] * size - 0.5
    filled = {organ: polygon2mask((size, size), pixels[where]) for organ, where in LANDMARKS.items()}
    heart = largest_piece(filled[Organ.HEART])
    mask = np.zeros((size, size), np.uint8)
    gap = max(1, size // 128)
    beside = ndimage.binary_dilation(heart, iterations=gap)
    for organ in (Organ.RIGHT_LUNG, Organ.LEFT_LUNG):
        lung = filled[organ] & ~heart
        lung |= beside & ndimage.binary_dilation(lung, iterations=gap) & ~heart
        mask[largest_piece(lung & (mask == 0))] = organ
    mask[heart] = Organ.HEART
    return mask
