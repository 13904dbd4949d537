"""Findings of a made-up chest: what each adds to the attenuation, and where."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from xreal.data.phantom_chest import Bools, Chest, Floats, smooth_noise
from xreal.vocabulary import Finding, Organ

__all__ = ["paint"]

_Painted = tuple[Floats, Bools]  # change of attenuation, lesion mask


def paint(finding: Finding, chest: Chest, rng: np.random.Generator) -> _Painted:
    """Return what a finding adds to the attenuation, (size, size), and its lesion mask, of the same shape.

    Findings that have no picture of their own are drawn as clouds: a stand-in, not a likeness (Fracture, Support
    Devices, ...).
    """
    return _PAINTERS.get(finding, _cloud)(chest, rng)


def _one_lung(chest: Chest, rng: np.random.Generator) -> Bools:
    return chest.organ(Organ.RIGHT_LUNG if rng.random() < 0.5 else Organ.LEFT_LUNG)


def _ellipse_in(chest: Chest, lung: Bools, rng: np.random.Generator, low: float, high: float) -> Floats:
    """Distance to a random centre well inside the lung, 1 on an ellipse with half axes of ``low`` to ``high`` units."""
    depth = ndimage.distance_transform_edt(lung)
    rows, columns = np.nonzero(depth >= 0.6 * depth.max())
    pick = int(rng.random() * len(rows))
    half_x, half_y = rng.uniform(low, high, 2)
    centre_x, centre_y = chest.x[0, columns[pick]], chest.y[rows[pick], 0]
    return np.asarray(np.hypot((chest.x - centre_x) / half_x, (chest.y - centre_y) / half_y), dtype=np.float32)


def _cloud(chest: Chest, rng: np.random.Generator) -> _Painted:
    """Patchy opacity with a soft border: Pneumonia, Consolidation and their like."""
    lung = _one_lung(chest, rng)
    distance = _ellipse_in(chest, lung, rng, 16, 28) + 0.12 * smooth_noise(rng, 20, lung.shape[0])
    soft = np.exp(-(np.clip(distance, 0, None) ** 4)) * chest.blur(lung, 1.2)
    patches = 0.9 + 0.2 * smooth_noise(rng, 32, lung.shape[0])
    return np.asarray(0.26 * soft * patches, dtype=np.float32), (distance < 1) & lung


def _haze(chest: Chest, rng: np.random.Generator) -> _Painted:
    """Edema: both lungs, around the hila."""
    lungs = chest.organ(Organ.LEFT_LUNG, Organ.RIGHT_LUNG)
    middle = chest.top + 0.52 * (chest.bottom - chest.top)
    spread = np.hypot((np.abs(chest.x - chest.midline) - 30) / 34, (chest.y - middle) / 52)
    soft = np.exp(-(spread**2)) * chest.blur(lungs, 1.2) * (0.85 + 0.3 * smooth_noise(rng, 40, lungs.shape[0]))
    return np.asarray(0.20 * soft, dtype=np.float32), (spread < 1) & lungs


def _disc(chest: Chest, rng: np.random.Generator, low: float = 5, high: float = 8) -> _Painted:
    """Nodule: round, sharply bounded."""
    lung = _one_lung(chest, rng)
    distance = _ellipse_in(chest, lung, rng, low, high)
    return np.asarray(0.24 * np.exp(-(distance**6)), dtype=np.float32), (distance < 1) & lung


def _mass(chest: Chest, rng: np.random.Generator) -> _Painted:
    """Mass: a disc above 3 cm, on a chest of about 30 cm."""
    return _disc(chest, rng, 12, 18)


def _effusion(chest: Chest, rng: np.random.Generator) -> _Painted:
    """Fluid at one base, its surface rising to the chest wall (meniscus)."""
    lung = _one_lung(chest, rng)
    outward = np.clip(chest.lateral(), 0, 1)
    bottom = chest.y[lung].max()
    surface = bottom - rng.uniform(34, 60) - 26 * (outward - 0.5) ** 3 * 8
    fluid = chest.blur((chest.y > surface) & lung, 2.2) * chest.blur(lung, 1.2)
    return np.asarray(0.40 * fluid, dtype=np.float32), (chest.y > surface) & lung


def _pneumothorax(chest: Chest, rng: np.random.Generator) -> _Painted:
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


def _heart_only(chest: Chest, _: np.random.Generator) -> _Painted:
    """Cardiomegaly: the shape has changed already; the lesion is the heart itself."""
    return np.zeros_like(chest.x), chest.organ(Organ.HEART)


def _overinflated(chest: Chest, _: np.random.Generator) -> _Painted:
    """Emphysema: both lungs darker."""
    lungs = chest.organ(Organ.LEFT_LUNG, Organ.RIGHT_LUNG)
    return -0.06 * chest.blur(lungs, 2), lungs


_PAINTERS: dict[Finding, Callable[[Chest, np.random.Generator], _Painted]] = {
    Finding.CARDIOMEGALY: _heart_only,
    Finding.EDEMA: _haze,
    Finding.EMPHYSEMA: _overinflated,
    Finding.LUNG_LESION: _disc,
    Finding.MASS: _mass,
    Finding.NODULE: _disc,
    Finding.PLEURAL_EFFUSION: _effusion,
    Finding.PNEUMOTHORAX: _pneumothorax,
}
