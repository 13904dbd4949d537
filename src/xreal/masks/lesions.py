"""Lesions: where in the image a finding is, and how strongly; from command-line text or painted pictures."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xreal.errors import FindingError, ImageError, MaskError
from xreal.images import open_picture
from xreal.masks.areas import LesionMask, box, check_lesion_mask, ellipse, polygon
from xreal.masks.organs import check_organ_mask
from xreal.vocabulary import Finding, Organ, parse_finding

__all__ = [
    "Lesion",
    "outside_lungs_fraction",
    "parse_lesion",
    "parse_mask",
    "warn_if_outside_lungs",
]

_MAX_STRENGTH = 4.0
_FAINTEST = 0.05  # of white, in the brightest pixel of a painted lesion
_SHAPES = "box:x0,y0,x1,y1, ellipse:cx,cy,rx,ry, polygon:x,y,x,y,x,y or paint.png"
_SYNTAX = f"Finding=PLACE or Finding=PLACE@strength, where PLACE is {_SHAPES}"
# Findings that are not, or not only, in the lungs.
_ANYWHERE = ("Cardiomegaly", "Enlarged Cardiomediastinum", "Fracture", "Hernia", "Support Devices")


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class Lesion:
    """One finding in one place.

    Args:
        finding: any finding but "No Finding"; a name is parsed.
        mask: (H, W) in [0, 1], 1 = lesion, not all zero; kept as a float32 copy.
        strength: factor on the finding's guidance, above 0 and at most 4; 1 is the trained strength.

    Raises:
        FindingError: the finding is unknown or "No Finding".
        MaskError: the mask has another shape or range or no area, or the strength is out of range.
    """

    finding: Finding
    mask: LesionMask
    strength: float = 1.0

    def __post_init__(self) -> None:
        """Check and normalise the fields."""
        finding = parse_finding(self.finding)
        if finding is Finding.NO_FINDING:
            raise FindingError(f"{finding.value!r} has no place in the image; expected a finding that can be seen.")
        mask = check_lesion_mask(self.mask)
        if not mask.any():
            raise MaskError(f"lesion mask of {finding.value} is all zero; expected some area above 0.")
        if not 0 < self.strength <= _MAX_STRENGTH:  # NaN fails too
            wanted = f"above 0 and at most {_MAX_STRENGTH:g}"
            raise MaskError(f"strength of {finding.value} is {self.strength}; expected {wanted}.")
        object.__setattr__(self, "finding", finding)
        object.__setattr__(self, "mask", mask)
        object.__setattr__(self, "strength", float(self.strength))


def parse_lesion(text: str, height: int, width: int) -> Lesion:
    """Parse a lesion from the command line, such as "Pneumonia=box:40,120,90,170@0.5".

    Args:
        text: a finding, "=", then one of ``box:x0,y0,x1,y1`` (x1 and y1 exclusive), ``ellipse:cx,cy,rx,ry`` (centre
            and radii), ``polygon:x,y,x,y,x,y,...`` (three corners or more), or the path of a painted picture;
            "@strength" may follow. In a picture, black and transparent pixels are not lesion and the brightest
            colour channel of the others is the mask's value, so paint on black, not on an X-ray.
        height: of the organ mask, in pixels; a shape must lie inside, a picture must have this size.
        width: the same.

    Raises:
        FindingError: the finding is unknown or "No Finding".
        MaskError: the text has another syntax, the shape has no area or is partly outside the image, the strength
            is out of range, or the picture is missing, unreadable, all black or of another size.
    """
    name, equals, place = text.partition("=")
    if not equals or not name.strip() or not place.strip():
        raise MaskError(f"lesion {text!r} is not understood; expected {_SYNTAX}.")
    finding = parse_finding(name)
    place, strength = _split_strength(place.strip())
    return Lesion(finding, _draw_place(f"lesion {text!r}", _SYNTAX, place, height, width), strength)


def parse_mask(place: str, height: int, width: int) -> LesionMask:
    """Parse an area from the command line: a place as ``parse_lesion`` takes it, without finding and strength.

    Args:
        place: such as "box:40,120,90,170" or "paint.png".
        height: of the image, in pixels; a shape must lie inside, a picture must have this size.
        width: the same.

    Returns:
        (height, width) float32 in [0, 1], not all zero.

    Raises:
        MaskError: as in ``parse_lesion``.
    """
    mask = _draw_place(f"area {place!r}", _SHAPES, place.strip(), height, width)
    if not mask.any():
        raise MaskError(f"area {place!r} is all zero; expected some area above 0.")
    return mask


def _draw_place(what: str, wanted: str, place: str, height: int, width: int) -> LesionMask:
    kind, _, values = place.partition(":")
    if kind == "box":
        return box(*_numbers(what, wanted, values, 4), height=height, width=width)
    if kind == "ellipse":
        return ellipse(*_numbers(what, wanted, values, 4), height=height, width=width)
    if kind == "polygon":
        numbers = _numbers(what, wanted, values, None)
        return polygon(list(zip(numbers[::2], numbers[1::2], strict=True)), height=height, width=width)
    return _read_paint(Path(place), wanted, height, width)


def _numbers(what: str, wanted: str, values: str, count: int | None) -> list[float]:
    try:
        numbers = [float(value) for value in values.split(",")]
    except ValueError:
        raise MaskError(f"{what}: {values!r} is not a list of numbers; expected {wanted}.") from None
    if len(numbers) != (count or 2 * (len(numbers) // 2)):
        raise MaskError(f"{what} has {len(numbers)} numbers at {values!r}; expected {wanted}.")
    return numbers


def _split_strength(place: str) -> tuple[str, float]:
    head, _, strength = place.rpartition("@")
    try:
        return (head, float(strength)) if head else (place, 1.0)
    except ValueError:  # the "@" belongs to a file's name
        return place, 1.0


def _read_paint(path: Path, wanted: str, height: int, width: int) -> LesionMask:
    if not path.exists():
        raise MaskError(f"mask picture {path} does not exist; expected {wanted}.")
    try:
        picture = open_picture(path)
    except ImageError as error:
        raise MaskError(str(error)) from error
    if (picture.height, picture.width) != (height, width):
        size = f"{picture.width} x {picture.height} (width x height)"
        raise MaskError(
            f"{path} is {size}; expected {width} x {height}, as the organ mask or the X-ray. Paint at that size."
        )
    deep = picture.mode.startswith("I")
    if (deep or picture.mode == "L") and (values := np.asarray(picture)).max() == 1:
        return values.astype(np.float32)  # labels 0 and 1, not the faintest of all greys
    if deep:
        return _seen((np.asarray(picture, dtype=np.float32) / 65535).clip(0, 1), path)
    if picture.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        raise MaskError(f"{path} has mode {picture.mode!r}; expected grey, indexed or RGB(A). Save it as RGB PNG.")
    channels = np.asarray(picture.convert("RGBA"), dtype=np.float32) / 255
    # The brightest channel, not luminance: a red brush marks as much as a white one.
    return _seen(channels[..., :3].max(axis=-1) * channels[..., 3], path)


def _seen(painted: LesionMask, path: Path) -> LesionMask:
    """Refuse a mask that would draw next to nothing: its values mean something else."""
    if 0 < (most := float(painted.max())) < _FAINTEST:
        raise MaskError(
            f"{path} is at most {most:.1%} of white, which draws next to nothing. Paint lesions white, or save the "
            "mask with 0 and 1, or with 0 and 255 in 8 bits."
        )
    return painted


def outside_lungs_fraction(lesion_mask: npt.NDArray[Any], organ_mask: npt.NDArray[Any]) -> float:
    """Measure the share in [0, 1] of a lesion, weighted by its mask, that lies outside lungs and heart.

    The heart counts as inside because opacities are seen behind it. The lesion must not be all zero.

    Raises:
        MaskError: a mask is not usable, or their sizes differ.
    """
    lesion, organs = check_lesion_mask(lesion_mask), check_organ_mask(organ_mask)
    if lesion.shape != organs.shape:
        raise MaskError(f"lesion mask is {lesion.shape}, organ mask {organs.shape}; expected the same (H, W).")
    if not lesion.any():
        raise MaskError("lesion mask is all zero; expected some area above 0.")
    outside = ~(_lungs(organs) | (organs == Organ.HEART))
    return float((lesion * outside).sum(dtype=np.float64) / lesion.sum(dtype=np.float64))


def _lungs(organs: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = (organs == Organ.LEFT_LUNG) | (organs == Organ.RIGHT_LUNG)
    return found


def warn_if_outside_lungs(lesion: Lesion, organ_mask: npt.NDArray[Any]) -> None:
    """Warn (``UserWarning``) when more than half of a lung finding's lesion lies outside lungs and heart.

    Findings of heart, mediastinum, bones, hernias and devices are never warned about, nor is a mask without lungs.
    Errors are those of ``outside_lungs_fraction``.
    """
    fraction = outside_lungs_fraction(lesion.mask, organ_mask)
    if lesion.finding not in _ANYWHERE and fraction > 0.5 and _lungs(np.asarray(organ_mask)).any():
        where = f"{fraction:.0%} of the lesion {lesion.finding.value!r} lies outside the mask's lungs and heart."
        advice = "Check x, y and the side: the patient's right is on the left of the image."
        warnings.warn(f"{where} {advice}", UserWarning, stacklevel=2)
