"""Contact sheets: rows of pictures with a title over each column."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from xreal.images import write_bytes

__all__ = ["colour_labels", "contact_sheet", "overlay", "signed_difference", "write_sheet"]

_PALETTE = np.array([[0, 0, 0], [90, 160, 255], [80, 200, 120], [255, 110, 90], [255, 210, 80]], np.float32) / 255


def colour_labels(organ_mask: np.ndarray) -> np.ndarray:
    """Paint an organ mask (H, W) as (H, W, 3) float32 in [0, 1]."""
    return _PALETTE[organ_mask]


def overlay(image: np.ndarray, mask: np.ndarray, colour: Sequence[float] = (1.0, 0.35, 0.2)) -> np.ndarray:
    """Tint an image (H, W) in [0, 1] where a mask (H, W) in [0, 1] says so; returns (H, W, 3)."""
    weight = 0.45 * mask[..., None]
    return (1 - weight) * np.repeat(image[..., None], 3, axis=2) + weight * np.asarray(colour, np.float32)


def signed_difference(after: np.ndarray, before: np.ndarray, gain: float = 2.0) -> np.ndarray:
    """Show after − before as (H, W, 3): grey is no change, red brighter, blue darker."""
    change = np.clip(gain * (after.astype(np.float32) - before), -1, 1)
    red = 0.5 + 0.5 * change
    return np.stack([red, 0.5 - 0.3 * np.abs(change), 1 - red], axis=2)


def contact_sheet(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str] = ()) -> np.ndarray:
    """Lay pictures out in rows.

    Args:
        rows: pictures (H, W) or (H, W, 3) in [0, 1], all of one size.
        titles: one per column.

    Returns:
        (H', W', 3) uint8.
    """
    gap, header = 4, 16 if titles else 0
    height, width = rows[0][0].shape[:2]
    columns = max(len(row) for row in rows)
    size = (columns * (width + gap) + gap, header + len(rows) * (height + gap) + gap)
    sheet = Image.new("RGB", size, (24, 24, 24))
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            colour = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
            tile = Image.fromarray((np.clip(colour, 0, 1) * 255).round().astype(np.uint8))
            sheet.paste(tile, (gap + c * (width + gap), header + gap + r * (height + gap)))
    draw = ImageDraw.Draw(sheet)
    for c, title in enumerate(titles):
        draw.text((gap + c * (width + gap), 3), title, fill=(230, 230, 230))
    return np.asarray(sheet)


def write_sheet(path: Path, rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str] = ()) -> None:
    """Write a contact sheet as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(contact_sheet(rows, titles)).save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue())
