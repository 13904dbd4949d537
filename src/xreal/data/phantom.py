"""A procedural chest X-ray with its organ mask and lesion masks: tests and demos without any data.

Nothing here comes from a patient. The picture is a sum of attenuations (tissue, lungs, heart, bones, vessels) put
through a tone curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from xreal.data.phantom_chest import Chest, Floats, build_chest, smooth_noise
from xreal.data.phantom_findings import paint
from xreal.errors import InputError
from xreal.vocabulary import Finding, Organ

__all__ = ["Phantom", "phantom"]

_SMALLEST = 32
_ANATOMY, _TEXTURE, _FINDINGS = range(3)  # random streams: a finding leaves the rest of its chest as it is


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
    chest = build_chest(np.random.default_rng([seed, _ANATOMY]), size, Finding.CARDIOMEGALY in wanted)
    texture = np.random.default_rng([seed, _TEXTURE])
    attenuation = _draw(chest, texture)
    lesion_masks = {}
    for finding in wanted:
        stream = np.random.default_rng([seed, _FINDINGS, list(Finding).index(finding)])
        change, mask = paint(finding, chest, stream)
        attenuation = attenuation + change
        lesion_masks[finding] = mask.astype(np.float32)
    return Phantom(_expose(chest, attenuation, texture), chest.organ_mask, lesion_masks)


def _band(distance: Floats, half_width: float) -> Floats:
    """Profile of a tubular bone across its axis: flat, with brighter edges (cortex)."""
    t = np.abs(distance) / half_width
    return np.asarray(np.exp(-(t**6)) * (0.65 + 0.35 * np.clip(t, 0, 1) ** 3), dtype=np.float32)


def _draw(chest: Chest, rng: np.random.Generator) -> Floats:
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
    attenuation += 0.016 * smooth_noise(rng, 8, size) * body
    return np.asarray(attenuation + 0.011 * smooth_noise(rng, 48, size) * body, dtype=np.float32)


def _ribs(chest: Chest, rng: np.random.Generator) -> Floats:
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


def _vessels(chest: Chest, rng: np.random.Generator) -> Floats:
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


def _expose(chest: Chest, attenuation: Floats, rng: np.random.Generator) -> Floats:
    """Turn attenuation into grey levels: film-like curve, then detector grain."""
    shape = chest.x.shape
    curve = 1 / (1 + np.exp(-(attenuation - 0.50) / rng.uniform(0.145, 0.17)))
    grain = ndimage.gaussian_filter(rng.normal(0, 1, shape), 0.5)
    lit = curve + 0.016 * grain * (0.4 + curve)
    return np.clip(lit * 0.97, 0, 1).astype(np.float32)
