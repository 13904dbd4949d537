"""Opacities of X-rays with boxes in the lungs of healthy patients.

Boxes are rare, and all that an X-ray with a box shows, tubes and exposure and all, comes with its opacity. In many
healthy X-rays, each beside itself without it, the opacity is all that the box can mean. Such an X-ray is not one of a
patient with the donor's finding, so it is named "Lung Opacity": with the finding's name, the name alone came to mean a
healthy patient.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from xreal.data.contract import Box, Sample
from xreal.errors import MaskError
from xreal.masks.areas import LesionMask, ellipse, extent, fade
from xreal.vocabulary import Finding, Organ

__all__ = ["SIMULATED", "TRANSPLANT", "Opacity", "find_opacities", "transplant"]

TRANSPLANT = "transplant"
"""What the ``source`` of a sample says that holds another patient's opacity."""
SIMULATED = "simulated"
"""What it says where a finding is drawn that no patient had."""

_LUNGS = (Organ.RIGHT_LUNG, Organ.LEFT_LUNG)
_LEAST_INSIDE = 0.35  # share of the opacity that lies in its lung; the rest hides behind heart and diaphragm
_MOST_OF_LUNG = 0.6  # share of a lung; what covers more leaves too little to compare exposures by
_ELSEWHERE, _NEW_SIZE = 0.12, 0.15  # largest random shift, share of the lung, and change of size
_AROUND = 1.15  # exposures are compared beyond the ellipse so many times as large
_GAIN = (0.7, 1.4)  # of contrast, when exposures are brought together
_SOFT, _SOFT_AT_LUNG = 12.0, 5.0  # pixels of 256 over which an opacity ends, within its ellipse and its lung
_SOFTEST = 0.9  # or up to so much of the ellipse's shorter half axis: of a large one, 12 pixels are an edge
_BRIGHTER = (0.05, 0.2)  # mean, of white: less is hardly seen, more comes of exposures that do not fit
_DARKEST = -0.06  # lowest decile of the change: nothing of the lung may become air
_WHITER_THAN_HEART = 0.05  # largest share of the opacity that may be


@dataclass(frozen=True)
class Opacity:
    """One place of a sample where a lung is opaque.

    Attributes:
        sample: the X-ray.
        box: x0, y0, x1, y1 in pixels, the last two exclusive.
        lung: which one.
    """

    sample: Sample
    box: tuple[float, float, float, float]
    lung: Organ


def find_opacities(samples: Iterable[Sample]) -> list[Opacity]:
    """List the boxes that can be transplanted: mostly in one lung that the sample has a mask of, and not all of it.

    Each comes twice, as it is and mirrored, for the other lung.
    """
    found = []
    for sample in (side for one in samples for side in (one, _mirrored(one))):
        if sample.organ_mask is None:
            continue
        for place in dict.fromkeys((one.x, one.y, one.x + one.width, one.y + one.height) for one in sample.boxes):
            if (area := _area(place, sample.image.shape)) is None:
                continue
            inside = {organ: int(area[sample.organ_mask == organ].sum()) for organ in _LUNGS}
            lung = max(inside, key=lambda organ: inside[organ])
            whole = np.count_nonzero(sample.organ_mask == lung)
            if _LEAST_INSIDE * area.sum() <= inside[lung] <= _MOST_OF_LUNG * whole and inside[lung] > 0:
                found.append(Opacity(sample, place, lung))
    return found


def transplant(host: Sample, opacity: Opacity, generator: np.random.Generator) -> Sample | None:
    """Put an opacity where it would lie in the host's lung.

    The donor's lung is laid over the host's, its grey values brought to the host's by both lungs beside the opacity,
    and within the ellipse that fills the box and within the lung the host fades into the donor.

    Args:
        host: a healthy X-ray with a mask of that lung, of the size of the opacity's.
        opacity: of another X-ray.
        generator: shifts it a little and changes its size.

    Returns:
        The host with this opacity alone, its box, "Lung Opacity" and the source ``TRANSPLANT``; or None where they do
        not fit: little of it in the lung, exposures too different, the change hardly seen, darker, whiter than a heart.
    """
    donor = opacity.sample
    if host.organ_mask is None or donor.organ_mask is None or host.image.shape != donor.image.shape:
        return None
    lung, other = host.organ_mask == opacity.lung, donor.organ_mask == opacity.lung
    if not lung.any():
        return None
    # From the donor's pixels to the host's, x before y: scale about the middle of the lungs.
    ours, theirs = (np.array(extent(mask.astype(np.float32)), np.float64) for mask in (lung, other))
    size = ours[2:] - ours[:2]
    scale = size / (theirs[2:] - theirs[:2]) * (1 + generator.uniform(-_NEW_SIZE, _NEW_SIZE, 2))
    middle = (ours[:2] + ours[2:]) / 2 + generator.uniform(-_ELSEWHERE, _ELSEWHERE, 2) * size
    shift = middle - scale * (theirs[:2] + theirs[2:]) / 2
    place = (np.reshape(opacity.box, (2, 2)) * scale + shift).ravel()
    area, around = _area(place, lung.shape), _area(_enlarged(place), lung.shape)
    if area is None or around is None:
        return None

    def laid_over(image: np.ndarray, order: int) -> np.ndarray:
        back, offset = 1 / scale[::-1], -shift[::-1] / scale[::-1]
        moved: np.ndarray = ndimage.affine_transform(
            image.astype(np.float32), back, offset, order=order, mode="nearest"
        )
        return moved

    image = host.image.astype(np.float32) / 255
    both = lung & (laid_over(other, 1) > 0.5)
    inside, beside = (area > 0) & lung, both & (around == 0)
    if inside.sum() < 0.4 * area.sum() or beside.sum() < 0.3 * both.sum() or not beside.any():
        return None
    seen = _as_exposed(laid_over(donor.image, 3) / 255, image, beside)
    pixels = lung.shape[0] / 256
    half_axis = min(place[2] - place[0], place[3] - place[1]) / 2
    soft = generator.uniform(_SOFT * pixels, max(_SOFT * pixels, _SOFTEST * half_axis))
    weight = fade(area, soft) * np.minimum(ndimage.distance_transform_edt(lung) / (_SOFT_AT_LUNG * pixels), 1)
    changed = image + weight * (seen - image)
    if not _plausible((changed - image)[inside], changed[inside], image[host.organ_mask == Organ.HEART]):
        return None
    x, y, right, bottom = (float(at) for at in place)
    return replace(
        host,
        image=(255 * changed.clip(0, 1)).round().astype(np.uint8),
        image_id=f"{host.image_id}+{donor.image_id}",
        source=TRANSPLANT,
        findings=(Finding.LUNG_OPACITY,),
        boxes=(Box(Finding.LUNG_OPACITY, x, y, right - x, bottom - y),),
        lesion_mask=None,
        jpeg_steps=(),
    )


def _mirrored(sample: Sample) -> Sample:
    """Turn the right side of a sample into the left: image, organ mask and boxes."""
    organs = sample.organ_mask
    if organs is not None:
        swapped = np.arange(len(Organ), dtype=np.uint8)
        swapped[[Organ.LEFT_LUNG, Organ.RIGHT_LUNG]] = Organ.RIGHT_LUNG, Organ.LEFT_LUNG
        organs = swapped[organs[:, ::-1]]
    width = sample.image.shape[1]
    boxes = tuple(replace(box, x=width - box.x - box.width) for box in sample.boxes)
    return replace(sample, image=sample.image[:, ::-1], organ_mask=organs, boxes=boxes)


def _area(box: np.ndarray | tuple[float, ...], shape: tuple[int, ...]) -> LesionMask | None:
    """Draw the ellipse that fills a box; None where it leaves the image."""
    x0, y0, x1, y1 = box
    try:
        return ellipse((x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2, height=shape[0], width=shape[1])
    except MaskError:
        return None


def _enlarged(box: np.ndarray) -> np.ndarray:
    middle = (box[:2] + box[2:]) / 2
    return np.concatenate([middle + _AROUND * (box[:2] - middle), middle + _AROUND * (box[2:] - middle)])


def _as_exposed(image: np.ndarray, like: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Bring grey values to those of another X-ray, by the deciles of both ``where`` they should be the same."""
    shares = np.linspace(0.1, 0.9, 9)
    ours, wanted = np.quantile(image[where], shares), np.quantile(like[where], shares)
    gain = np.clip(wanted.std() / max(float(ours.std()), 1e-3), *_GAIN)
    exposed: np.ndarray = gain * (image - ours.mean()) + wanted.mean()
    return exposed


def _plausible(change: np.ndarray, changed: np.ndarray, heart: np.ndarray) -> bool:
    white = float(np.quantile(heart, 0.8)) if heart.size else 1.0
    return bool(
        _BRIGHTER[0] < change.mean() < _BRIGHTER[1]
        and np.quantile(change, 0.1) > _DARKEST
        and (changed > white).mean() <= _WHITER_THAN_HEART
    )
