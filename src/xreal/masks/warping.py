"""Move organ masks and X-rays by smooth fields: thin-plate splines between landmarks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.interpolate import RBFInterpolator

from xreal.errors import MaskError
from xreal.masks.landmarks import Points, find_landmarks
from xreal.masks.organs import OrganMask
from xreal.masks.pieces import largest_piece
from xreal.vocabulary import Organ

__all__ = ["Shift", "organ_shift", "warp_image", "warp_organ_mask"]

Shift = npt.NDArray[np.float32]
"""(2, H, W) rows and columns: each pixel is taken from its place plus this, in pixels."""

_GRID = 48  # places a side where the spline is evaluated; the field between them is smooth
_SMOOTHING = 1e-4  # lets a lung's and the heart's points on one border, a little apart, move as one
_SMOOTHER = (1e-4, 1e-3, 1e-2)  # tried in turn until the field does not fold
_SQUEEZE = 0.1  # a pixel may become this small a part of itself; below, the field folds or nearly so
_NEAR, _FAR = 0.06, 0.25  # units of the side: so near to a change of the masks all moves, so far nothing does
_STILL = 0.0004  # units of the side, a tenth of a pixel of 256: less is no motion


def warp_organ_mask(mask: OrganMask, before: Points, after: Points) -> OrganMask:
    """Warp by the thin-plate spline that moves the points ``before`` to ``after``.

    Args:
        mask: (H, W) labels.
        before: (P, 2) points (x, y) in units of the larger side.
        after: (P, 2), where they go.

    Returns:
        (H, W) uint8 labels; borders are moved to a fraction of a pixel. An organ that was in one piece stays so.
    """
    height, width = mask.shape
    side = max(mask.shape)
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    source = np.stack([rows, columns]) + _spline(before, after, height, width, _SMOOTHING) * side + 1
    mask = np.pad(mask, 1)  # beyond the image is background

    labels = [label for label in Organ if (mask == label).any()]
    nearness = [
        ndimage.map_coordinates(_signed_distance(mask == label), source, order=1, mode="nearest") for label in labels
    ]
    warped: OrganMask = np.array(labels, np.uint8)[np.argmax(nearness, axis=0)]
    for label in labels:
        organ = warped == label
        if label and organ.any() and _pieces(mask == label) == 1:
            warped[organ & ~largest_piece(organ)] = Organ.BACKGROUND
    return warped


def organ_shift(before: OrganMask, after: OrganMask) -> Shift:
    """Find the smooth field that moves the organs of one mask to those of another.

    Outlines go to outlines, landmark by landmark; between them the field bends as little as it can. It comes to rest at
    the image's border and at a quarter of its side from where the masks differ; there it is exactly zero.

    Args:
        before: (S, S) labels; both lungs and the heart are there.
        after: likewise.

    Returns:
        (2, S, S) in pixels, for ``warp_image``; all zero if the masks are equal.

    Raises:
        MaskError: an organ is missing, or no field without folds moves them so.
    """
    size = len(before)
    if np.array_equal(before, after):
        return np.zeros((2, size, size), np.float32)
    edge = np.array([(x, y) for x in np.linspace(0, 1, 9) for y in np.linspace(0, 1, 9) if {x, y} & {0.0, 1.0}])
    start, end = (np.concatenate([find_landmarks(mask), edge]) for mask in (before, after))
    far = ndimage.distance_transform_edt(before == after) / size
    share = ((_FAR - far) / (_FAR - _NEAR)).clip(0, 1)
    share = share**2 * (3 - 2 * share)
    for smoothing in _SMOOTHER:
        shift = _spline(start, end, size, size, smoothing) * share
        shift[:, np.hypot(*shift) < _STILL] = 0
        if _smallest_pixel(shift * size) > _SQUEEZE:
            return (shift * size).astype(np.float32)
    raise MaskError(
        "the X-ray would have to be folded to move its organs so; expected organs nearer to those that are found in it."
    )


def warp_image(image: npt.NDArray[np.float32], shift: Shift) -> npt.NDArray[np.float32]:
    """Move an X-ray by a field of its size; where the field is zero, the same bits.

    Args:
        image: (H, W) in [0, 1].
        shift: (2, H, W) in pixels.

    Returns:
        (H, W) in [0, 1], by cubic splines.
    """
    source = np.mgrid[: image.shape[0], : image.shape[1]] + shift
    moved = ndimage.map_coordinates(image, source, order=3, mode="nearest").clip(0, 1).astype(np.float32)
    return np.where(shift.any(axis=0), moved, image)


def _spline(before: Points, after: Points, height: int, width: int, smoothing: float) -> npt.NDArray[np.float64]:
    """Evaluate the thin-plate spline that leads from ``after`` back to ``before``: (2, height, width), unit: the side.

    It is evaluated on a grid and interpolated in between.
    """
    spline = RBFInterpolator(after, before - after, kernel="thin_plate_spline", smoothing=smoothing)
    places = np.stack(np.meshgrid(*[np.linspace(0, 1, _GRID)] * 2), axis=-1).reshape(-1, 2)
    field = spline(places).reshape(_GRID, _GRID, 2)
    on_grid = (np.mgrid[:height, :width] + 0.5) / max(height, width) * (_GRID - 1)
    return np.stack([ndimage.map_coordinates(field[..., axis], on_grid, order=3, mode="nearest") for axis in (1, 0)])


def _smallest_pixel(shift: npt.NDArray[np.float64]) -> float:
    """Return the smallest share of its area that a pixel keeps; at 0 and below the field folds."""
    (down_rows, across_rows), (down_columns, across_columns) = (np.gradient(part) for part in shift)
    return float(((1 + down_rows) * (1 + across_columns) - across_rows * down_columns).min())


def _pieces(organ: npt.NDArray[np.bool_]) -> int:
    return int(ndimage.label(organ, structure=np.ones((3, 3)))[1])


def _signed_distance(region: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Distance in pixels to the region's border, positive inside; cut off where it cannot matter any more."""
    if region.all():
        return np.full(region.shape, np.inf)
    inside = ndimage.distance_transform_edt(region)
    outside = ndimage.distance_transform_edt(~region)
    distance: npt.NDArray[np.float64] = inside - outside
    return distance
