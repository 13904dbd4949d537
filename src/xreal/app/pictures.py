"""Pictures for the page: data URIs, outlines of masks, the table of conformance."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from xreal.vocabulary import Organ

__all__ = ["FINDING_COLOURS", "ORGAN_COLOURS", "conformance_table", "outlines", "png_uri", "viewable"]

# Okabe and Ito's colours, which the colour-blind can tell apart; organs as in written mask files.
ORGAN_COLOURS = {
    Organ.LEFT_LUNG: "#56b4e9",
    Organ.RIGHT_LUNG: "#0072b2",
    Organ.HEART: "#d55e00",
    Organ.AORTA: "#f0e442",
}
FINDING_COLOURS = ("#cc79a7", "#009e73", "#e69f00", "#ffffff", "#a6761d", "#7570b3", "#66a61e", "#e7298a")

_VIEW_SIDE = 1024  # larger X-rays are looked at smaller; files keep their size
_LOW_DICE = 0.9


def viewable(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Shrink a picture (H, W) whose longer side is above what the page shows."""
    side = max(image.shape)
    if side <= _VIEW_SIDE:
        return image
    size = (round(image.shape[1] * _VIEW_SIDE / side), round(image.shape[0] * _VIEW_SIDE / side))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def png_uri(image: npt.NDArray[Any]) -> str:
    """Encode (H, W) floats in [0, 1], or (H, W, 4) uint8, as a data URI."""
    pixels = image if image.dtype == np.uint8 else np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def outlines(
    shape: tuple[int, ...], organs: npt.NDArray[np.uint8] | None, lesions: Sequence[npt.NDArray[Any]]
) -> npt.NDArray[np.uint8]:
    """Draw the masks' borders for a picture of this shape, transparent elsewhere.

    Args:
        shape: (H, W) of the picture.
        organs: labels of the picture, or of the square it was padded to; any size.
        lesions: masks likewise.

    Returns:
        (H, W, 4) uint8.
    """
    picture = np.zeros((*shape[:2], 4), np.uint8)
    if organs is not None:
        fitted = _fit(organs, shape)
        for organ, colour in ORGAN_COLOURS.items():
            picture[_border(fitted == organ)] = (*_rgb(colour), 255)
    for index, mask in enumerate(lesions):
        picture[_border(_fit(mask, shape) > 0)] = (*_rgb(FINDING_COLOURS[index % len(FINDING_COLOURS)]), 255)
    return picture


def _fit(mask: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Bring a mask to a picture's size by nearest neighbour; of a square one, the part that is the picture's."""
    height, width = shape[:2]
    side = max(height, width) if mask.shape[0] == mask.shape[1] else 0
    rows, columns = (side, side) if side else (height, width)
    down = (2 * np.arange(rows) + 1) * mask.shape[0] // (2 * rows)
    across = (2 * np.arange(columns) + 1) * mask.shape[1] // (2 * columns)
    top, left = (rows - height) // 2, (columns - width) // 2
    return mask[np.ix_(down, across)][top : top + height, left : left + width]


def _border(area: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    from scipy import ndimage  # late: slow to import

    thick = max(1, max(area.shape) // 256)
    inner: npt.NDArray[np.bool_] = ndimage.binary_erosion(area, iterations=thick)
    return area & ~inner


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def conformance_table(scores: Mapping[str, float]) -> str:
    """Write Dice per organ as an HTML table."""
    if not scores:
        return "<p>No organ was asked for, so there is nothing to compare.</p>"
    rows = ""
    for organ, value in scores.items():
        low = " — low" if value < _LOW_DICE else ""
        rows += f"<tr><th scope='row'>{escape(organ)}</th><td>{value:.3f}{low}</td></tr>"
    return (
        "<table class='xr-table'><caption>Conformance: Dice between the organs asked for and those that the model's "
        f"segmenter finds in the image</caption>{rows}</table>"
    )
