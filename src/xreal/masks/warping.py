"""Move an organ mask as its landmarks move, with everything that the landmarks do not say."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.interpolate import RBFInterpolator

from xreal.masks.landmarks import Points, largest_piece
from xreal.masks.organs import OrganMask
from xreal.vocabulary import Organ

__all__ = ["warp_organ_mask"]

_GRID = 48  # places a side where the spline is evaluated; the field between them is smooth
_SMOOTHING = 1e-4  # lets a lung's and the heart's points on one border, a little apart, move as one


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
    spline = RBFInterpolator(after, before - after, kernel="thin_plate_spline", smoothing=_SMOOTHING)
    places = np.stack(np.meshgrid(*[np.linspace(0, 1, _GRID)] * 2), axis=-1).reshape(-1, 2)
    field = spline(places).reshape(_GRID, _GRID, 2)
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    on_grid = (np.stack([rows, columns]) + 0.5) / side * (_GRID - 1)
    shift = [ndimage.map_coordinates(field[..., axis], on_grid, order=3, mode="nearest") for axis in (1, 0)]
    source = np.stack([rows + shift[0] * side, columns + shift[1] * side]) + 1
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
