"""One record of a source -> one sample: picture, masks and boxes on one square grid. Runs in any process."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from xreal.data.contract import Box, Sample
from xreal.data.sources.chexmask import read_organ_row
from xreal.data.sources.record import Record
from xreal.data.sources.run_length import decode_column_runs
from xreal.errors import ImageError, MaskError
from xreal.images import fit_square, fit_square_mask, open_picture, read_image, read_jpeg_steps
from xreal.vocabulary import Finding

__all__ = ["looks_inverted", "read_or_reason", "read_sample"]

_SAME_SHAPE = 0.01  # relative difference of the ratio of sides that rounding to whole pixels explains


def read_or_reason(record: Record, image_size: int) -> Sample | str:
    """Read a sample as ``read_sample`` does; return why it cannot be read instead of raising it."""
    try:
        return read_sample(record, image_size)
    except (ImageError, MaskError, OSError) as error:
        return str(error)


def read_sample(record: Record, image_size: int) -> Sample:
    """Read picture and masks, pad them to a square and bring them to ``image_size``; boxes move with them.

    Raises:
        ImageError: the picture cannot be read.
        MaskError: a mask of the source is damaged or of another image.
    """
    original = read_image(record.image_path)
    if inverted := record.monochrome1 and looks_inverted(original):
        original = 1 - original
    shape = original.shape[0], original.shape[1]
    as_stored = shape == (image_size, image_size) and not inverted
    boxes, lesion_mask = _lesions(record, shape, image_size)
    return Sample(
        image=(fit_square(original, image_size) * 255).round().astype(np.uint8),
        organ_mask=_organ_mask(record, shape, image_size),
        boxes=boxes,
        lesion_mask=lesion_mask,
        image_id=record.image_id,
        patient_id=record.patient_id,
        source=record.source,
        findings=record.findings,
        view_position=record.view_position,
        sex=record.sex,
        age=record.age,
        jpeg_steps=read_jpeg_steps(record.image_path) if as_stored else (),
    )


def looks_inverted(image: np.ndarray) -> bool:
    """Return whether the middle of a frontal chest X-ray is darker than the sides of it.

    Spine and heart are brighter than the lungs beside them where air is dark. The middle is 10% of the width, each side
    20%, at 40% to 75% of the height: wrong for 2.5% of 400 X-rays of ChestX-ray14, many with opacities, and for none of
    100 of JSRT.

    Args:
        image: (H, W) in [0, 1].
    """
    height, width = image.shape
    band = image[int(0.4 * height) : int(0.75 * height) + 1]
    middle, left, right = (
        band[:, int(start * width) : int(end * width) + 1].mean()
        for start, end in ((0.45, 0.55), (0.18, 0.38), (0.62, 0.82))
    )
    return bool(middle < (left + right) / 2)


def _organ_mask(record: Record, shape: tuple[int, int], image_size: int) -> np.ndarray | None:
    if record.organ_mask_path is not None:
        levels = np.asarray(open_picture(record.organ_mask_path))
        mask: np.ndarray = np.zeros(levels.shape, np.uint8)
        for level, organ in record.organ_levels:
            mask[levels == level] = organ
    elif record.organ_row is not None:
        row = read_organ_row(*record.organ_row)
        if row is None:
            return None
        mask = row
    else:
        return None
    ratio = (mask.shape[0] * shape[1]) / (mask.shape[1] * shape[0])
    if abs(ratio - 1) > _SAME_SHAPE:
        raise MaskError(
            f"organ mask of {record.image_id} is {mask.shape[0]}×{mask.shape[1]}, the picture {shape[0]}×{shape[1]}: "
            "another image, or a table of CheXmask's Preprocessed folder; give that of OriginalResolution"
        )
    return fit_square_mask(mask, image_size)


def _lesions(record: Record, shape: tuple[int, int], image_size: int) -> tuple[tuple[Box, ...], np.ndarray | None]:
    """Bring boxes to the square grid; draw lesions on it and put a box around each."""
    side = max(shape)
    scale = image_size / side
    pad_y, pad_x = ((side - extent) // 2 for extent in shape)
    boxes = [
        replace(
            box,
            x=(box.x + pad_x) * scale,
            y=(box.y + pad_y) * scale,
            width=box.width * scale,
            height=box.height * scale,
        )
        for box in record.boxes
    ]
    if not record.lesion_runs:
        return tuple(boxes), None
    lesion_mask = np.zeros((image_size, image_size), np.uint8)
    for finding, runs in record.lesion_runs:
        drawn = fit_square_mask(decode_column_runs(runs, shape), image_size)
        if drawn.any():  # a few pixels of a large image may fall between those of a small one
            boxes.append(_around(finding, drawn))
            lesion_mask |= drawn
    return tuple(boxes), lesion_mask


def _around(finding: Finding, mask: np.ndarray) -> Box:
    rows, columns = (np.nonzero(mask.any(axis))[0] for axis in (1, 0))
    x, y = float(columns[0]), float(rows[0])
    return Box(finding, x, y, float(columns[-1]) + 1 - x, float(rows[-1]) + 1 - y)
