"""Pleural effusions drawn into the lungs of healthy patients, who stand.

Labels say that there is an effusion, hardly a data set says where. Free fluid has a known look: it lies at the base
of a lung, hides the diaphragm, and is as white as what lies below.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from xreal.data.contract import Box, Sample
from xreal.masks.areas import extent
from xreal.masks.fluid import above_fluid
from xreal.training.transplant import SIMULATED
from xreal.vocabulary import Finding, Organ

__all__ = ["add_effusion"]

_WHITE = (0.6, 0.95)  # how much of the way to the heart's grey
_THIN = 0.7  # of that, at the upper border, where the fluid is thin
_SOFT = (2.0, 6.0)  # pixels of 256 over which the upper border fades
_EDGE = 1.5  # pixels of 256 by which the organ mask is softened
_DRAWN = 0.5  # share whose place is told by its outline; the others' by the ellipse in its box


def add_effusion(host: Sample, generator: np.random.Generator) -> Sample | None:
    """Fill the base of one lung.

    Args:
        host: a healthy X-ray with an organ mask.
        generator: of side, level, meniscus and how white it is.

    Returns:
        The host with "Pleural Effusion" alone, its box or drawn lesion and the source ``SIMULATED``; None where lung or
        heart is missing, or the base is no darker than the heart.
    """
    if host.organ_mask is None:
        return None
    right = generator.random() < 0.5
    lung = host.organ_mask == (Organ.RIGHT_LUNG if right else Organ.LEFT_LUNG)
    heart = host.image[host.organ_mask == Organ.HEART]
    if not lung.any() or not heart.size:
        return None
    pixels = lung.shape[0] / 256
    above = above_fluid(lung, right, generator)
    _, top, _, bottom = extent(lung)
    softness = generator.uniform(*_SOFT) * pixels
    filled = 1 / (1 + np.exp(np.clip(above / (softness / 2), -30, 30)))
    filled *= _THIN + (1 - _THIN) * np.clip(-above / (0.15 * (bottom - top)), 0, 1)
    grown = ndimage.binary_dilation(lung, iterations=max(1, round(pixels)))
    filled *= ndimage.gaussian_filter(grown.astype(np.float32), _EDGE * pixels)
    filled[filled < 0.02] = 0
    place = (filled > 0.3) & lung
    white = float(np.quantile(heart, 0.8))
    if not place.any() or np.median(host.image[place]) >= white:
        return None
    change = generator.uniform(*_WHITE) * filled * np.clip(white - host.image, 0, None)
    x0, y0, x1, y1 = extent(place)
    return replace(
        host,
        image=(host.image + change).round().clip(0, 255).astype(np.uint8),
        image_id=f"{host.image_id}+effusion",
        source=SIMULATED,
        findings=(Finding.PLEURAL_EFFUSION,),
        boxes=(Box(Finding.PLEURAL_EFFUSION, x0, y0, x1 - x0, y1 - y0),),
        lesion_mask=place.astype(np.uint8) if generator.random() < _DRAWN else None,
        jpeg_steps=(),
    )
