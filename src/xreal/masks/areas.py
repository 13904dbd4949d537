"""Areas of an image: boxes, ellipses, polygons; their edges made soft, and their size changed.

Coordinates are pixels from the upper left corner of the image, x to the right and y down. A pixel belongs to a shape
when its centre does: pixel column i spans x = i to i + 1 and has its centre at i + 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from xreal.errors import InputError, MaskError
from xreal.images import pad_square

__all__ = [
    "LesionMask",
    "box",
    "check_lesion_mask",
    "ellipse",
    "extent",
    "fade",
    "feather",
    "polygon",
    "resize_lesion_mask",
]

LesionMask = npt.NDArray[np.float32]


def check_lesion_mask(mask: npt.NDArray[Any]) -> LesionMask:
    """Return a lesion mask (H, W) in [0, 1] as a float32 copy.

    Raises:
        MaskError: it has another shape or range, or is not finite.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.size == 0 or mask.dtype.kind not in "biuf":
        raise MaskError(f"lesion mask is {mask.dtype} of shape {mask.shape}; expected (H, W) numbers in [0, 1].")
    if not np.isfinite(mask).all():
        raise MaskError("lesion mask holds NaN or infinity; expected values in [0, 1].")
    if mask.min() < 0 or mask.max() > 1:
        raise MaskError(f"lesion mask holds {mask.min()} to {mask.max()}; expected [0, 1]. Divide 8-bit values by 255.")
    return mask.astype(np.float32)


def box(x0: float, y0: float, x1: float, y1: float, *, height: int, width: int) -> LesionMask:
    """Draw a box, x1 and y1 exclusive, as a (height, width) float32 mask of 0 and 1.

    Raises:
        MaskError: the box has no area or is not inside the image.
    """
    _check_inside("box", x0, y0, x1, y1, height, width)
    mask = np.zeros((height, width), dtype=np.float32)
    mask[math.ceil(y0 - 0.5) : math.ceil(y1 - 0.5), math.ceil(x0 - 0.5) : math.ceil(x1 - 0.5)] = 1
    return _with_area(mask, "box")


def ellipse(cx: float, cy: float, rx: float, ry: float, *, height: int, width: int) -> LesionMask:
    """Draw an upright ellipse of centre (cx, cy) and radii (rx, ry) as a (height, width) float32 mask of 0 and 1.

    Raises:
        MaskError: the ellipse has no area or is not inside the image.
    """
    from skimage import draw  # late: slow to import

    _check_inside("ellipse", cx - rx, cy - ry, cx + rx, cy + ry, height, width)
    mask = np.zeros((height, width), dtype=np.float32)
    mask[draw.ellipse(cy - 0.5, cx - 0.5, ry, rx, shape=mask.shape)] = 1
    return _with_area(mask, "ellipse")


def polygon(corners: Sequence[tuple[float, float]], *, height: int, width: int) -> LesionMask:
    """Draw the polygon of these corners (x, y), closed, as a (height, width) float32 mask of 0 and 1.

    Raises:
        MaskError: the polygon has fewer than three corners or no area, or is not inside the image.
    """
    from skimage import draw  # late: slow to import

    if len(corners) < 3:
        raise MaskError(f"polygon has {len(corners)} corners; expected three or more, x,y each.")
    x, y = np.array(corners, dtype=np.float64).T
    _check_inside("polygon", x.min(), y.min(), x.max(), y.max(), height, width)
    mask = np.zeros((height, width), dtype=np.float32)
    # Corners on one line have no area, but would mark the pixel centres that they touch.
    if np.linalg.matrix_rank(np.stack([x - x[0], y - y[0]])) == 2:
        mask[draw.polygon(y - 0.5, x - 0.5, shape=mask.shape)] = 1
    return _with_area(mask, "polygon")


def _check_inside(shape: str, x0: float, y0: float, x1: float, y1: float, height: int, width: int) -> None:
    extent = f"x {x0:g} to {x1:g}, y {y0:g} to {y1:g}"
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        raise MaskError(f"{shape} spans {extent}; expected finite numbers.")
    if x0 >= x1 or y0 >= y1:
        raise MaskError(f"{shape} spans {extent}: it has no area; expected x and y that grow, radii above 0.")
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        image = f"the image, which is {width} x {height} (width x height)"
        raise MaskError(f"{shape} spans {extent}: not inside {image}. Move it or make it smaller.")


def _with_area(mask: LesionMask, shape: str) -> LesionMask:
    if not mask.any():
        raise MaskError(f"{shape} has no area: it holds no pixel's centre. Make it larger.")
    return mask


def extent(mask: npt.NDArray[Any]) -> tuple[int, int, int, int]:
    """Return x0, y0, x1 and y1 of the smallest box around what is not zero, x1 and y1 exclusive; some of it must be."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def feather(mask: npt.NDArray[Any], radius: float) -> LesionMask:
    """Soften the edge outwards: a cosine ramp from the mask's own value to zero.

    Pixels above 0 keep their value. One at distance d <= radius from the nearest of them takes that one's value times
    (1 + cos(pi d / (radius + 1))) / 2. All further pixels are exactly 0, so that they can be kept unchanged.

    Args:
        mask: (H, W) in [0, 1].
        radius: pixels, 0 or more; 0 returns the mask.

    Raises:
        MaskError: the mask is not an (H, W) array in [0, 1], or the radius is negative or not finite.
    """
    from scipy import ndimage  # late: slow to import

    mask = check_lesion_mask(mask)
    if not (math.isfinite(radius) and radius >= 0):
        raise MaskError(f"feather radius is {radius}; expected 0 pixels or more.")
    if not mask.any():
        return mask
    distance, (rows, columns) = ndimage.distance_transform_edt(mask == 0, return_indices=True)
    ramp = (1 + np.cos(np.pi * np.minimum(distance, radius) / (radius + 1))) / 2
    return np.where(distance <= radius, mask[rows, columns] * ramp, 0).astype(np.float32)


def fade(mask: npt.NDArray[Any], radius: float) -> LesionMask:
    """Soften the edge inwards: a cosine ramp from zero at the border to the mask's own value.

    A pixel at distance d < radius from the nearest one that is 0 takes (1 - cos(pi d / radius)) / 2 of its value. In a
    lesion that is narrower than this, the ramp ends in its middle. The edge of the image is no border.

    Args:
        mask: (H, W) in [0, 1].
        radius: pixels, 0 or more; 0 returns the mask.

    Raises:
        MaskError: the mask is not an (H, W) array in [0, 1].
    """
    from scipy import ndimage  # late: slow to import

    mask = check_lesion_mask(mask)
    if radius == 0 or not mask.any():
        return mask
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    part = tuple(slice(max(0, which[0] - 1), which[-1] + 2) for which in (rows, columns))  # zeros around, if any
    inside = mask[part] > 0
    if inside.all():
        return mask
    distance = ndimage.distance_transform_edt(inside)
    ramp = (1 - np.cos(np.pi * np.minimum(distance / min(radius, distance.max()), 1))) / 2
    faded = mask.copy()
    faded[part] *= ramp.astype(np.float32)
    return faded


def resize_lesion_mask(mask: npt.NDArray[Any], size: int) -> LesionMask:
    """Resize to a square by area averaging; a mask that is not square is first padded with zeros, centred.

    The geometry is that of ``resize_organ_mask``. When shrinking, a pixel is the mean of the area that it
    covers, so thin lesions fade but do not vanish.

    Args:
        mask: (H, W) in [0, 1].
        size: pixels a side of the (size, size) float32 result in [0, 1].

    Raises:
        InputError: the size is below 1; as MaskError, the mask is not an (H, W) array in [0, 1].
    """
    if size < 1:
        raise InputError(f"size is {size}; expected at least 1 pixel.")
    square = pad_square(check_lesion_mask(mask))
    if len(square) == size:
        return square
    # Exact overlaps of new and old pixels: Pillow's box filter drops old pixels whose centre is on a new edge.
    old, new = np.arange(len(square)), np.arange(size + 1)[:, None] * len(square) / size
    overlap = np.clip(np.minimum(new[1:], old + 1) - np.maximum(new[:-1], old), 0, None) * size / len(square)
    resized: LesionMask = (overlap @ square @ overlap.T).clip(0, 1).astype(np.float32)
    return resized
