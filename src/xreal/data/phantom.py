"""A procedural chest X-ray with its organ mask and lesion masks: tests and demos without any data.

Nothing here comes from a patient. Shapes are splines through hand-set points, varied at random; the picture is a sum of
attenuations (tissue, lungs, heart, bones, vessels) put through a tone curve. Lengths are in units of 1/256 of the side,
so that one seed gives the same chest at any size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import CubicSpline
from skimage.draw import polygon2mask

from xreal.errors import InputError
from xreal.vocabulary import Finding, Organ

__all__ = ["Phantom", "phantom"]

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

_UNITS = 256.0
_SMALLEST = 32
_ANATOMY, _TEXTURE, _FINDINGS = range(3)  # random streams: a finding leaves the rest of its chest as it is

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
class Phantom:
    """One made-up chest.

    Attributes:
        image: float32 (size, size) in [0, 1], MONOCHROME2 (air dark).
        organ_mask: uint8 (size, size), labels of ``Organ`` up to the heart; the right lung is on the left.
        lesion_masks: finding -> float32 (size, size), 1 = lesion, for every finding asked for but ``NO_FINDING``.
    """

    image: Floats
    organ_mask: NDArray[np.uint8]
    lesion_masks: dict[Finding, Floats] = field(default_factory=dict)


@dataclass(frozen=True)
class _Chest:
    """What the drawing functions share: the grid in units, the organs and the layout."""

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


def phantom(seed: int, size: int = 256, findings: Sequence[Finding] = ()) -> Phantom:
    """Draw a chest; the same seed, size and findings give the same arrays.

    The cardiothoracic ratio lies in 0.42 to 0.53, with ``Finding.CARDIOMEGALY`` in 0.57 to 0.64.

    Args:
        seed: 0 or above. It fixes the anatomy; findings are added to it.
        size: side in pixels, 32 or above.
        findings: what to draw; each gets a lesion mask.

    Raises:
        InputError: seed or size out of range.
    """
    if seed < 0 or size < _SMALLEST:
        raise InputError(f"phantom(seed={seed}, size={size}): expected seed >= 0 and size >= {_SMALLEST}")
    wanted = [finding for finding in Finding if finding in set(findings) - {Finding.NO_FINDING}]
    chest = _build(np.random.default_rng([seed, _ANATOMY]), size, Finding.CARDIOMEGALY in wanted)
    texture = np.random.default_rng([seed, _TEXTURE])
    attenuation = _draw(chest, texture)
    lesion_masks = {}
    for finding in wanted:
        stream = np.random.default_rng([seed, _FINDINGS, list(Finding).index(finding)])
        change, mask = _PAINTERS.get(finding, _cloud)(chest, stream)
        attenuation = attenuation + change
        lesion_masks[finding] = mask.astype(np.float32)
    return Phantom(_expose(chest, attenuation, texture), chest.organ_mask, lesion_masks)


def _outline(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Run a closed smooth curve through points (n, 2); parametrised by √chord, which does not overshoot."""
    closed = np.vstack([points, points[:1]])
    knots = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1) ** 0.5)])
    return np.asarray(CubicSpline(knots, closed, bc_type="periodic")(np.linspace(0, knots[-1], 400)))


def _fill(points: NDArray[np.float64], size: int) -> Bools:
    """Fill the curve through points (n, 2), (x, y) in units."""
    rows_columns = _outline(points)[:, ::-1] * (size / _UNITS) - 0.5
    return np.asarray(polygon2mask((size, size), rows_columns))


def _build(rng: np.random.Generator, size: int, wide_heart: bool) -> _Chest:
    """Choose a chest: habitus, tilt, the lungs' and the heart's own variation."""
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
    return _Chest(x, y, organ_mask, midline, thorax / 2, top, bottom)


def _largest_parts(organ_mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Keep one connected part per organ: a wide heart can cut a sliver off a lung's base."""
    kept = np.zeros_like(organ_mask)
    for organ in (Organ.LEFT_LUNG, Organ.RIGHT_LUNG, Organ.HEART):
        parts, _ = ndimage.label(organ_mask == organ)
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        kept[parts == sizes.argmax()] = organ
    return kept


def _smooth_noise(rng: np.random.Generator, cells: int, size: int) -> Floats:
    """Noise of mean 0 and deviation 1 with about ``cells`` waves a side, the same at every size."""
    coarse = ndimage.gaussian_filter(rng.normal(0, 1, (cells, cells)), 0.7, mode="wrap")
    return np.asarray(ndimage.zoom(coarse / coarse.std(), size / cells, order=3, mode="nearest"), dtype=np.float32)


def _band(distance: Floats, half_width: float) -> Floats:
    """Profile of a tubular bone across its axis: flat, with brighter edges (cortex)."""
    t = np.abs(distance) / half_width
    return np.asarray(np.exp(-(t**6)) * (0.65 + 0.35 * np.clip(t, 0, 1) ** 3), dtype=np.float32)


def _draw(chest: _Chest, rng: np.random.Generator) -> Floats:
    """Sum the attenuations of the healthy chest, about 0 (air) to 1 (dense)."""
    x, y, size = chest.x, chest.y, chest.x.shape[0]
    aside = np.abs(x - chest.midline)
    side = np.sign(x - chest.midline)
    height = chest.bottom - chest.top
    lungs, heart = chest.organ(Organ.LEFT_LUNG, Organ.RIGHT_LUNG), chest.organ(Organ.HEART)

    # Body: neck, sloping shoulders, flanks that narrow below the armpit.
    shoulder = chest.top - 20 - 24 * np.clip(1 - (aside - 28) / 30, 0, 3) + 0.0026 * np.clip(aside - 45, 0, None) ** 2
    flank = chest.half_width + 17 + 30 * np.clip(1 - (y - chest.top) / (0.55 * height), 0, 1) ** 1.5
    body = chest.blur((y > shoulder) & (aside < flank), 2.0)
    attenuation = body * (0.60 - 0.10 * (aside / flank) ** 2) + 0.02

    # Lungs: deep in the middle, shallow at the rim; vessels and parenchyma make them less dark near the hila.
    depth = ndimage.distance_transform_edt(lungs | heart) / chest.scale
    air = chest.blur(lungs, 1.6) * (0.62 + 0.38 * np.clip(depth / 22, 0, 1) ** 0.6)
    air *= 0.80 + 0.20 * np.clip((y - chest.top) / (0.3 * height), 0, 1)
    attenuation -= 0.40 * air
    for sign in (-1, 1):
        hilum = np.hypot((x - chest.midline - sign * 27) / 16, (y - chest.top - 0.42 * height) / 30)
        attenuation += 0.085 * np.exp(-(hilum**2)) * chest.blur(lungs, 2)
    attenuation += 0.13 * chest.blur(_vessels(chest, rng), 0.5) * chest.blur(lungs, 1.0)

    # Mediastinum and heart, then the abdomen below the lungs with the stomach's air under the left dome.
    above = np.clip((y - chest.top + 20) / 40, 0, 1)
    attenuation += 0.10 * np.exp(-((aside / 21) ** 4)) * above
    knob = np.hypot((x - chest.midline - 17) / 13, (y - chest.top - 0.28 * height) / 12)
    attenuation += 0.14 * np.exp(-(knob**4))
    thickness = ndimage.distance_transform_edt(heart)
    attenuation += chest.blur(heart, 1.6) * (0.03 + 0.11 * np.sqrt(thickness / max(thickness.max(), 1)))
    lowest = np.where((lungs | heart).any(0), size - 1 - (lungs | heart)[::-1].argmax(0), 0.84 * size)
    below = np.arange(size)[:, None] > ndimage.gaussian_filter1d(lowest.astype(np.float32), 0.8 * chest.scale)
    attenuation += 0.13 * chest.blur(below, 2.0) * body
    stomach = np.hypot((x - chest.midline - 48) / rng.uniform(10, 20), (y - chest.bottom - 6) / 7)
    attenuation -= 0.12 * np.exp(-(stomach**4)) * chest.blur(below, 2.0)

    # Airway: trachea to the carina, then the main bronchi.
    carina = chest.top + 0.33 * height
    trachea = np.exp(-(((x - chest.midline + 1) / 5.5) ** 4)) * (y < carina)
    fork = np.exp(-(((aside - 4 - 0.75 * (y - carina)) / 4.5) ** 2)) * ((y >= carina) & (y < carina + 22))
    attenuation -= 0.10 * chest.blur(trachea + 0.7 * fork, 1.5) * body

    # Bones: spine, ribs, clavicles, shoulder blades.
    vertebrae = 0.6 + 0.4 * np.cos(2 * np.pi * (y - chest.top) / (0.083 * height)) ** 3
    attenuation += 0.10 * np.exp(-((aside / 12) ** 6)) * vertebrae * body
    attenuation += chest.blur(_ribs(chest, rng), 0.7) * body
    rise = chest.top + 0.17 * height - 20 * np.clip((aside - 8) / 75, 0, 1) + 3.5 * np.sin((aside - 8) / 13)
    collar = _band(y - rise - rng.normal(0, 2, 2)[(side > 0).astype(int)], 4.2) * ((aside > 9) & (aside < 96))
    attenuation += 0.13 * chest.blur(collar, 0.9) * body
    blade = aside - chest.half_width * (0.84 + 0.20 * np.clip((y - chest.top) / (0.5 * height), 0, 1))
    scapula = 1 / (1 + np.exp(-blade / 1.2)) * np.clip(1 - (y - chest.top) / (0.48 * height), 0, 1) ** 0.5
    attenuation += 0.085 * scapula * body
    joint = np.hypot((aside - chest.half_width - 22) / 20, (y - chest.top - 22) / 19)
    attenuation += 0.12 * np.exp(-(joint**6)) * body

    # Uneven tissue, and parenchyma.
    attenuation += 0.016 * _smooth_noise(rng, 8, size) * body
    return np.asarray(attenuation + 0.011 * _smooth_noise(rng, 48, size) * body, dtype=np.float32)


def _ribs(chest: _Chest, rng: np.random.Generator) -> Floats:
    """Posterior ribs arch out from the spine and down; anterior ends come back, steeper, wider and fainter."""
    lateral, height = chest.lateral(), chest.bottom - chest.top
    ribs = np.zeros_like(chest.x)
    spacing = 0.098 * height
    tilt = rng.normal(0, 0.6) * np.sign(chest.x - chest.midline)
    for rib in range(11):
        spine_y = chest.top - 2 + spacing * rib + rng.normal(0, 0.4)
        drop = (0.06 + 0.016 * rib) * height
        arch = spine_y - 7 * np.sin(np.pi * np.clip(lateral / 0.8, 0, 1)) + drop * lateral**2.6 + tilt
        seen = (lateral > 0.13) & (lateral < 1.05)
        ribs += 0.10 * _band(chest.y - arch, 3.7 - 0.06 * rib) * seen * (0.7 + 0.5 * np.clip(lateral, 0, 1) ** 3)
        if 0 < rib < 9:
            end = spine_y + drop + spacing * (0.2 + 0.14 * rib) * 2.0 * np.clip(1 - lateral, 0, 1) ** 0.8
            fade = np.clip((lateral - 0.33) / 0.3, 0, 1) * (lateral < 1.05)
            ribs += 0.06 * _band(chest.y - end, 4.4) * fade
    wall = np.exp(-(((lateral - 1.03) / 0.025) ** 2)) * (chest.y > chest.top) * (chest.y < chest.bottom + 10)
    return np.asarray(ribs + 0.05 * wall, dtype=np.float32)


def _vessels(chest: _Chest, rng: np.random.Generator) -> Floats:
    """Lines that branch and thin out from both hila, in [0, 1]."""
    size = chest.x.shape[0]
    lines = np.zeros((size, size), dtype=np.float32)
    hilum_y = chest.top + 0.42 * (chest.bottom - chest.top)
    # Entries: x, y, direction, width, length still to go.
    open_ends = [
        (chest.midline + sign * 22, hilum_y, np.arctan2(rise, sign), rng.uniform(1.5, 2.2), rng.uniform(55, 90))
        for sign in (-1, 1)
        for rise in (-2.2, -1.0, -0.3, 0.3, 0.9, 1.8, 3.0)
    ]
    steps, weights = [], []
    while open_ends:
        x, y, direction, width, left = open_ends.pop()
        while left > 0:
            direction += rng.normal(0, 0.07)
            x, y, left, width = x + np.cos(direction), y + np.sin(direction), left - 1, width * 0.985
            steps.append((y, x))
            weights.append(width)
            if left > 12 and rng.random() < 0.045:
                turn = rng.choice((-1, 1)) * rng.uniform(0.35, 0.75)
                open_ends.append((x, y, direction + turn, width * 0.75, left * rng.uniform(0.5, 0.8)))
    for near in (0, 1):  # two widths of line are enough at this scale
        chosen = [(s, w) for s, w in zip(steps, weights, strict=True) if (w > 1.0) == bool(near)]
        layer = np.zeros_like(lines)
        rows, columns = (np.asarray([s for s, _ in chosen]).T * chest.scale).astype(int)
        inside = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
        layer[rows[inside], columns[inside]] = np.asarray([w for _, w in chosen])[inside]
        sigma = 0.55 + 0.75 * near
        lines += chest.blur(layer, sigma) * (sigma * chest.scale if chest.scale > 0.5 else 0.5) * 2.2
    return np.clip(lines, 0, 1)


def _expose(chest: _Chest, attenuation: Floats, rng: np.random.Generator) -> Floats:
    """Turn attenuation into grey levels: film-like curve, then detector grain."""
    shape = chest.x.shape
    curve = 1 / (1 + np.exp(-(attenuation - 0.50) / rng.uniform(0.145, 0.17)))
    grain = ndimage.gaussian_filter(rng.normal(0, 1, shape), 0.5)
    lit = curve + 0.016 * grain * (0.4 + curve)
    return np.clip(lit * 0.97, 0, 1).astype(np.float32)


_Painted = tuple[Floats, Bools]  # change of attenuation, lesion mask


def _one_lung(chest: _Chest, rng: np.random.Generator) -> Bools:
    return chest.organ(Organ.RIGHT_LUNG if rng.random() < 0.5 else Organ.LEFT_LUNG)


def _ellipse_in(chest: _Chest, lung: Bools, rng: np.random.Generator, low: float, high: float) -> Floats:
    """Distance to a random centre well inside the lung, 1 on an ellipse with half axes of ``low`` to ``high`` units."""
    depth = ndimage.distance_transform_edt(lung)
    rows, columns = np.nonzero(depth >= 0.6 * depth.max())
    pick = int(rng.random() * len(rows))
    half_x, half_y = rng.uniform(low, high, 2)
    centre_x, centre_y = chest.x[0, columns[pick]], chest.y[rows[pick], 0]
    return np.asarray(np.hypot((chest.x - centre_x) / half_x, (chest.y - centre_y) / half_y), dtype=np.float32)


def _cloud(chest: _Chest, rng: np.random.Generator) -> _Painted:
    """Patchy opacity with a soft border: Pneumonia, Consolidation and their like."""
    lung = _one_lung(chest, rng)
    distance = _ellipse_in(chest, lung, rng, 16, 28) + 0.12 * _smooth_noise(rng, 20, lung.shape[0])
    soft = np.exp(-(np.clip(distance, 0, None) ** 4)) * chest.blur(lung, 1.2)
    patches = 0.9 + 0.2 * _smooth_noise(rng, 32, lung.shape[0])
    return np.asarray(0.26 * soft * patches, dtype=np.float32), (distance < 1) & lung


def _haze(chest: _Chest, rng: np.random.Generator) -> _Painted:
    """Edema: both lungs, around the hila."""
    lungs = chest.organ(Organ.LEFT_LUNG, Organ.RIGHT_LUNG)
    middle = chest.top + 0.52 * (chest.bottom - chest.top)
    spread = np.hypot((np.abs(chest.x - chest.midline) - 30) / 34, (chest.y - middle) / 52)
    soft = np.exp(-(spread**2)) * chest.blur(lungs, 1.2) * (0.85 + 0.3 * _smooth_noise(rng, 40, lungs.shape[0]))
    return np.asarray(0.20 * soft, dtype=np.float32), (spread < 1) & lungs


def _disc(chest: _Chest, rng: np.random.Generator, low: float = 5, high: float = 8) -> _Painted:
    """Nodule: round, sharply bounded."""
    lung = _one_lung(chest, rng)
    distance = _ellipse_in(chest, lung, rng, low, high)
    return np.asarray(0.24 * np.exp(-(distance**6)), dtype=np.float32), (distance < 1) & lung


def _mass(chest: _Chest, rng: np.random.Generator) -> _Painted:
    """Mass: a disc above 3 cm, on a chest of about 30 cm."""
    return _disc(chest, rng, 12, 18)


def _effusion(chest: _Chest, rng: np.random.Generator) -> _Painted:
    """Fluid at one base, its surface rising to the chest wall (meniscus)."""
    lung = _one_lung(chest, rng)
    outward = np.clip(chest.lateral(), 0, 1)
    bottom = chest.y[lung].max()
    surface = bottom - rng.uniform(34, 60) - 26 * (outward - 0.5) ** 3 * 8
    fluid = chest.blur((chest.y > surface) & lung, 2.2) * chest.blur(lung, 1.2)
    return np.asarray(0.40 * fluid, dtype=np.float32), (chest.y > surface) & lung


def _pneumothorax(chest: _Chest, rng: np.random.Generator) -> _Painted:
    """Air over one apex: darker, without vessels, under a thin pleural line."""
    lung = _one_lung(chest, rng)
    rows = chest.y[lung]
    gap = rng.uniform(9, 15) * np.clip(1 - (chest.y - rows.min()) / (0.6 * np.ptp(rows)), 0, 1) ** 0.6
    costal = ndimage.binary_fill_holes(chest.organ(Organ.LEFT_LUNG, Organ.RIGHT_LUNG, Organ.HEART))
    near_middle = np.abs(chest.x - chest.midline) < 0.28 * chest.half_width
    depth = ndimage.distance_transform_edt(costal | near_middle) / chest.scale
    rim = lung & (depth < gap)
    line = np.exp(-(((depth - gap) / 1.1) ** 2)) * lung * (gap > 2)
    return np.asarray(0.09 * line - 0.10 * chest.blur(rim, 1.0), dtype=np.float32), rim


def _heart_only(chest: _Chest, _: np.random.Generator) -> _Painted:
    """Cardiomegaly: the shape has changed already; the lesion is the heart itself."""
    return np.zeros_like(chest.x), chest.organ(Organ.HEART)


def _overinflated(chest: _Chest, _: np.random.Generator) -> _Painted:
    """Emphysema: both lungs darker."""
    lungs = chest.organ(Organ.LEFT_LUNG, Organ.RIGHT_LUNG)
    return -0.06 * chest.blur(lungs, 2), lungs


# Findings that are not named here are drawn as clouds: a stand-in, not a likeness (Fracture, Support Devices, ...).
_PAINTERS: dict[Finding, Callable[[_Chest, np.random.Generator], _Painted]] = {
    Finding.CARDIOMEGALY: _heart_only,
    Finding.EDEMA: _haze,
    Finding.EMPHYSEMA: _overinflated,
    Finding.LUNG_LESION: _disc,
    Finding.MASS: _mass,
    Finding.NODULE: _disc,
    Finding.PLEURAL_EFFUSION: _effusion,
    Finding.PNEUMOTHORAX: _pneumothorax,
}
