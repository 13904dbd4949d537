"""Nodules and masses drawn into the lungs of healthy patients.

Data sets name few of them and box fewer, and a place alone says nothing of what is round. Reader studies have long used
such nodules in real X-rays: an intensity that falls from the middle as (1 − r² / R²)^1.5 (the "designer nodule" of
Burgess, Jacobson and Judy, Medical Physics 28, 2001).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from xreal.data.contract import Box, Sample
from xreal.masks.areas import extent
from xreal.training.transplant import SIMULATED
from xreal.vocabulary import Finding, Organ

__all__ = ["add_nodule"]

_POWER = 1.5  # of the designer nodule
# A chest X-ray is 43 cm a side: 256 pixels of 1.7 mm. A nodule has at most 30 mm, a mass more (Fleischner Society).
_RADII = {Finding.NODULE: (4.0, 9.0), Finding.MASS: (9.0, 22.0)}
# Of what a heart is brighter than the lung around: in their middle the 111 nodules of JSRT's training films have 0.10
# (deciles −0.03 and 0.28). Half of them are hardly seen; what is asked for should be.
_CONTRAST = {Finding.NODULE: (0.3, 0.7), Finding.MASS: (0.3, 0.8)}
_INSIDE = 0.85  # share of a nodule that lies in its lung
_LOBES, _DEPTH, _LONGER = (2, 3, 4, 5), 0.08, 0.25  # waves of the outline, how deep each, and how much longer one axis
_TRIES = 20  # places that are looked at
_FIBRES = 0.15  # of the contrast: what is in it is not all alike


def add_nodule(host: Sample, generator: np.random.Generator) -> Sample | None:
    """Draw one nodule or mass into a lung.

    Args:
        host: a healthy X-ray with an organ mask.
        generator: of its kind, size, shape, contrast and place.

    Returns:
        The host with "Nodule" or "Mass" alone, its box and the source ``SIMULATED``; None where no place was found.
    """
    if host.organ_mask is None:
        return None
    organs, size = host.organ_mask, host.organ_mask.shape[0]
    lungs = (organs == Organ.RIGHT_LUNG) | (organs == Organ.LEFT_LUNG)
    heart = host.image[organs == Organ.HEART]
    if not lungs.any() or not heart.size:
        return None
    finding = Finding.NODULE if generator.random() < 0.5 else Finding.MASS
    radius = generator.uniform(*_RADII[finding]) * size / 256
    places = np.argwhere(lungs)
    for y, x in places[generator.integers(len(places), size=_TRIES)] + 0.5:
        profile = _profile(organs.shape, x, y, radius, generator)
        inside = profile > 0
        if (lungs & inside).sum() < _INSIDE * inside.sum():
            continue
        around = ndimage.binary_dilation(inside, iterations=max(2, round(radius / 2))) & ~inside & lungs
        room = float(np.quantile(heart, 0.8)) - float(np.median(host.image[around])) if around.any() else 0.0
        if room <= 0:
            continue
        change = generator.uniform(*_CONTRAST[finding]) * room * profile
        left, top, right, bottom = extent(inside)
        return replace(
            host,
            image=(host.image + change).clip(0, 255).round().astype(np.uint8),
            image_id=f"{host.image_id}+{finding.value.lower()}",
            source=SIMULATED,
            findings=(finding,),
            boxes=(Box(finding, left, top, right - left, bottom - top),),
            lesion_mask=None,
            jpeg_steps=(),
        )
    return None


def _profile(shape: tuple[int, ...], x: float, y: float, radius: float, generator: np.random.Generator) -> np.ndarray:
    """Draw a designer nodule of 1 in its middle, longer one way than the other, its outline in lobes."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    across, down = columns + 0.5 - x, rows + 0.5 - y
    angle = np.arctan2(down, across)
    turned = angle - generator.uniform(0, np.pi)
    longer = 1 + generator.uniform(0, _LONGER)
    outline = radius / np.hypot(np.cos(turned) / np.sqrt(longer), np.sin(turned) * np.sqrt(longer))
    for lobes in _LOBES:
        outline = outline * (1 + _DEPTH * generator.normal() * np.cos(lobes * angle + generator.uniform(0, 2 * np.pi)))
    profile = np.clip(1 - (np.hypot(across, down) / outline) ** 2, 0, None) ** _POWER
    fibres = ndimage.gaussian_filter(generator.normal(size=shape), max(1.0, radius / 4))
    return profile * (1 + _FIBRES * fibres / fibres.std())
