"""Where a drawing starts: a sampled anatomy, an organ mask's file or an X-ray; and how the sliders change it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xreal.app.canvas import SIDE
from xreal.errors import ImageError, InputError, MaskError, XRealError
from xreal.masks.organs import OrganMask, read_organ_mask, resize_organ_mask
from xreal.masks.shape_checks import mask_measures
from xreal.masks.shapes import edit_organ_mask, plausible_ranges, sample_organ_mask

__all__ = [
    "Shape",
    "Start",
    "check_upload",
    "from_mask",
    "from_sample",
    "from_xray",
    "measures",
    "reshape",
    "slider_ranges",
    "without_paths",
]

MAX_PIXELS = 50_000_000
SLIDER_STEPS = {"ctr": 0.01, "heart_scale": 0.01, "lung_scale": 0.01, "tilt": 0.5}


@dataclass(frozen=True)
class Shape:
    """Where the sliders stand; as the arguments of ``edit_organ_mask``. ctr None: as the rest makes it."""

    ctr: float | None = None
    heart_scale: float = 1.0
    lung_scale: float = 1.0
    tilt: float = 0.0


@dataclass(frozen=True, eq=False)
class Start:
    """Where a drawing starts.

    Attributes:
        organs: (SIDE, SIDE) labels before the sliders and the brush.
        title: for people.
        path: file of an X-ray that can be edited; None for other starts.
        picture: (SIDE, SIDE) float32, that X-ray as it is shown below the organs.
        notes: what is odd about it, a sentence each.
    """

    organs: OrganMask
    title: str
    path: Path | None = None
    picture: npt.NDArray[np.float32] | None = None
    notes: list[str] = field(default_factory=list)


def from_sample(seed: int) -> Start:
    """Sample an anatomy.

    Raises:
        InputError: the seed is below 0.
    """
    if seed < 0:
        raise InputError(f"the anatomy's seed is {seed}; expected a whole number from 0")
    return Start(sample_organ_mask(seed, SIDE), f"Sampled anatomy, seed {seed}")


def from_mask(path: Path) -> Start:
    """Read an organ mask: PNG, TIFF, NPY or DICOM Segmentation.

    Raises:
        MaskError: as ``read_organ_mask``.
    """
    check_upload(path)
    return Start(resize_organ_mask(read_organ_mask(path), SIDE), f"Organ mask {path.name}")


def from_xray(path: Path, find_organs: Callable[[npt.NDArray[np.float32]], OrganMask]) -> Start:
    """Read an X-ray and find its organs.

    Args:
        path: PNG, JPEG, TIFF or DICOM.
        find_organs: (SIDE, SIDE) picture -> labels of the same size.

    Raises:
        ImageError: the file cannot be read; MaskError: no organ is found.
    """
    from xreal.images import fit_square, read_image
    from xreal.masks.organs import implausible

    check_upload(path)
    picture = fit_square(read_image(path), SIDE)
    organs = find_organs(picture)
    if not organs.any():
        raise MaskError(f"no organs are found in {path.name}; expected a frontal chest X-ray")
    return Start(organs, f"X-ray {path.name}", path, picture, [f"Found in it: {note}" for note in implausible(organs)])


def check_upload(path: Path) -> None:
    """Refuse a picture of more than ``MAX_PIXELS`` by its header, before it is decoded.

    Raises:
        ImageError: it is larger.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG", "JPEG", "TIFF")) as picture:
            width, height = picture.size
    except Image.DecompressionBombError:
        raise ImageError(f"{path.name} is larger than {MAX_PIXELS // 10**6} megapixels; make it smaller") from None
    except Exception:  # DICOM, NPY, or damaged: its reader says what is wrong
        return
    if width * height > MAX_PIXELS:
        megapixels = f"{width * height / 1e6:.0f} megapixels; expected at most {MAX_PIXELS // 10**6}"
        raise ImageError(f"{path.name} is {width} × {height}, {megapixels}. Make it smaller.")


def reshape(start: Start, shape: Shape) -> OrganMask:
    """Apply the sliders to the start's organs.

    Raises:
        MaskError: no such chest; the message says what is usual.
    """
    return edit_organ_mask(
        start.organs, ctr=shape.ctr, heart_scale=shape.heart_scale, lung_scale=shape.lung_scale, tilt=shape.tilt
    )


def measures(organs: OrganMask) -> dict[str, float] | None:
    """Measure the organs; None where lungs or heart are missing."""
    try:
        return mask_measures(organs)
    except MaskError:
        return None


def slider_ranges(organs: OrganMask) -> dict[str, tuple[float, float]] | None:
    """Say how far each slider goes, in steps of it: the usual chests, and this one. None where they can do nothing."""
    now = measures(organs)
    if now is None:
        return None
    neutral = {"ctr": now["ctr"], "heart_scale": 1.0, "lung_scale": 1.0, "tilt": 0.0}
    ranges = plausible_ranges(organs)
    wide = {name: (min(low, neutral[name]), max(high, neutral[name])) for name, (low, high) in ranges.items()}
    return {
        name: (
            math.floor(low / SLIDER_STEPS[name]) * SLIDER_STEPS[name],
            math.ceil(high / SLIDER_STEPS[name]) * SLIDER_STEPS[name],
        )
        for name, (low, high) in wide.items()
    }


def without_paths(error: XRealError, *paths: Path | None) -> str:
    """Return an error's message with the names of files in place of where the server keeps them."""
    message = str(error)
    for path in paths:
        if path is not None:
            message = message.replace(str(path), path.name)
    return message
