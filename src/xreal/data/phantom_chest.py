"""A made-up chest's anatomy: outlines of lungs and heart, varied at random, and the grid that it is drawn on.

Shapes are splines through hand-set points. Lengths are in units of 1/256 of the side, so that one seed gives the same
chest at any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import CubicSpline
from skimage.draw import polygon2mask

from xreal.vocabulary import Organ

__all__ = ["Bools", "Chest", "Floats", "build_chest", "smooth_noise"]

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

_UNITS = 256.0

# Outlines as (x, y), clockwise from the apex, for a midline at x = 0. The heart is cut out of the lungs afterwards,
# which makes the cardiac notch. Lungs: apex, mediastinal side, diaphragm (medial to lateral), costal side.
# fmt: off
_RIGHT_LUNG = (
    (-38, 28), (-26, 36), (-19, 54), (-16, 78), (-17, 104), (-15, 130), (-13, 160), (-15, 184), (-22, 200),
    (-38, 192), (-56, 189), (-74, 195), (-88, 207), (-95, 214), (-97, 206), (-97, 188), (-95, 160), (-90, 126),
    (-82, 92), (-70, 60), (-55, 37),
)
_LEFT_LUNG = (
    (40, 28), (56, 36), (71, 58), (83, 90), (91, 126), (96, 160), (98, 192), (98, 211), (96, 218), (89, 211),
    (76, 200), (58, 195), (40, 200), (28, 207), (20, 190), (17, 160), (19, 130), (22, 106), (22, 94), (26, 80),
    (24, 68), (22, 54), (27, 37),
)
# The heart's x are shares of its extent to that side: right atrium, diaphragm, apex, left ventricle, base.
_HEART = (
    (-0.30, 108), (-0.62, 122), (-0.90, 142), (-1.0, 164), (-0.88, 186), (-0.50, 203), (0.0, 209), (0.45, 210),
    (0.82, 204), (0.99, 191), (0.97, 174), (0.80, 152), (0.56, 130), (0.36, 112), (0.14, 102),
)
# fmt: on


@dataclass(frozen=True)
class Chest:
    """What the drawing functions share.

    Attributes:
        x: of each pixel's centre, in units, (size, size); ``y`` alike.
        organ_mask: (size, size), labels of ``Organ`` up to the heart.
        midline: x of the spine.
        half_width: of the thorax inside, in units.
        top: smallest y of the lungs; ``bottom``: the largest.
    """

    x: Floats
    y: Floats
    organ_mask: NDArray[np.uint8]
    midline: float
    half_width: float
    top: float
    bottom: float

    @property
    def scale(self) -> float:
        """Pixels per unit."""
        return self.x.shape[0] / _UNITS

    def blur(self, values: NDArray[np.generic], sigma: float) -> Floats:
        """Smooth with a Gaussian of ``sigma`` units."""
        return np.asarray(ndimage.gaussian_filter(values.astype(np.float32), sigma * self.scale), dtype=np.float32)

    def organ(self, *organs: Organ) -> Bools:
        """Return where any of these organs lies."""
        return np.isin(self.organ_mask, organs)

    def lateral(self) -> Floats:
        """Distance from the midline, 1 at the inner chest wall of that height (the cage narrows to the apex)."""
        rise = np.clip((self.y - self.top) / (0.75 * (self.bottom - self.top)), 0.03, 1)
        return np.abs(self.x - self.midline) / (self.half_width * (0.35 + 0.65 * rise**0.55))


def _outline(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Run a closed smooth curve through points (n, 2); parametrised by √chord, which does not overshoot."""
    closed = np.vstack([points, points[:1]])
    knots = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1) ** 0.5)])
    return np.asarray(CubicSpline(knots, closed, bc_type="periodic")(np.linspace(0, knots[-1], 400)))


def _fill(points: NDArray[np.float64], size: int) -> Bools:
    """Fill the curve through points (n, 2), (x, y) in units."""
    rows_columns = _outline(points)[:, ::-1] * (size / _UNITS) - 0.5
    return np.asarray(polygon2mask((size, size), rows_columns))


def build_chest(rng: np.random.Generator, size: int, wide_heart: bool) -> Chest:
    """Choose a chest of ``size`` pixels a side: habitus, tilt, the lungs' and the heart's own variation."""
    midline = _UNITS / 2 + rng.normal(0, 2)
    width, height = rng.uniform(0.86, 1.06), rng.uniform(0.80, 1.04)
    tilt, shift = np.deg2rad(rng.normal(0, 1.2)), rng.uniform(-5, 5)
    ratio, right_share = rng.uniform(0.42, 0.53), rng.uniform(0.29, 0.36)
    if wide_heart:
        ratio = 0.57 + (ratio - 0.42) * 0.64

    def place(points: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = points[:, 0] * width, (points[:, 1] - 120) * height
        turned = np.stack([x * np.cos(tilt) - y * np.sin(tilt), x * np.sin(tilt) + y * np.cos(tilt)], axis=1)
        return turned + np.array([midline, 122 + shift])

    def vary(points: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
        wander = ndimage.gaussian_filter1d(rng.normal(0, 3.2, (len(points), 2)), 1.5, axis=0, mode="wrap")
        return np.asarray(points, dtype=np.float64) + wander + (0, rng.normal(0, 1.5))

    right, left = place(vary(_RIGHT_LUNG)), place(vary(_LEFT_LUNG))
    thorax = _outline(left)[:, 0].max() - _outline(right)[:, 0].min()
    heart = place(vary([(20 * x, y) for x, y in _HEART]))
    reach = _outline(heart)[:, 0]
    heart[:, 0] = np.interp(
        heart[:, 0],
        [reach.min(), midline, reach.max()],
        [midline - ratio * thorax * right_share, midline, midline + ratio * thorax * (1 - right_share)],
    )
    drawn = _outline(heart)[:, 0]
    heart[:, 0] = midline + (heart[:, 0] - midline) * (ratio * thorax / (drawn.max() - drawn.min()))

    organ_mask = np.zeros((size, size), dtype=np.uint8)
    for organ, points in ((Organ.RIGHT_LUNG, right), (Organ.LEFT_LUNG, left), (Organ.HEART, heart)):
        organ_mask[_fill(points, size)] = organ
    organ_mask = _largest_parts(organ_mask)
    y, x = ((np.indices((size, size)) + 0.5) * (_UNITS / size)).astype(np.float32)
    top, bottom = float(min(right[:, 1].min(), left[:, 1].min())), float(max(right[:, 1].max(), left[:, 1].max()))
    return Chest(x, y, organ_mask, midline, thorax / 2, top, bottom)


def _largest_parts(organ_mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Keep one connected part per organ: a wide heart can cut a sliver off a lung's base."""
    kept = np.zeros_like(organ_mask)
    for organ in (Organ.LEFT_LUNG, Organ.RIGHT_LUNG, Organ.HEART):
        parts, _ = ndimage.label(organ_mask == organ)
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        kept[parts == sizes.argmax()] = organ
    return kept


def smooth_noise(rng: np.random.Generator, cells: int, size: int) -> Floats:
    """Return noise (size, size) of mean 0 and deviation 1 with about ``cells`` waves a side, the same at every size."""
    coarse = ndimage.gaussian_filter(rng.normal(0, 1, (cells, cells)), 0.7, mode="wrap")
    return np.asarray(ndimage.zoom(coarse / coarse.std(), size / cells, order=3, mode="nearest"), dtype=np.float32)
