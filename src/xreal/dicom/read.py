"""Chest X-rays from DICOM: stored values -> grey levels as a viewer shows them.

Each image has a table of the grey level of every value that its bits can hold, through the steps of PS3.3 and PS3.4:
modality LUT or rescale, VOI LUT or window, inversion of MONOCHROME1. Reading looks values up in it; writing an edited
image (:mod:`xreal.dicom.write`) looks up the other way round.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from xreal.dicom.dataset import open_dataset, quiet
from xreal.errors import ImageError

__all__ = ["GreyLevels", "grey_levels", "read_dicom", "stored_values"]

_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
# Projection X-rays (PS3.3 C.7.3.1.1.1), the names of digitised and captured images, and one in use but not defined.
_MODALITIES = ("", "CR", "DX", "RG", "RF", "XA", "OT", "SC", "HC", "DR")
_DISPLAY_BITS = 8


class GreyLevels(NamedTuple):
    """How an X-ray's stored values are shown.

    Attributes:
        lowest: the lowest value that its bits can hold.
        table: float32 in [0, 1] for that value and each of its successors.
        found_range: values after rescale that are black and white, where the file does not say and the image's own
            lowest and highest were taken; else None.
    """

    lowest: int
    table: npt.NDArray[np.float32]
    found_range: tuple[float, float] | None


def read_dicom(path: str | os.PathLike[str]) -> npt.NDArray[np.float32]:
    """Read a chest X-ray as a viewer shows it first: rescale, then the first VOI LUT or else the first window.

    Where a file has neither, 8 bits are taken as they are, 0 to 255; of more bits nothing says what black and white
    are, and the image's own lowest and highest values are used. Padding (Pixel Padding Value) is black.

    Args:
        path: one grey frame of up to 16 bits, MONOCHROME1 or MONOCHROME2, uncompressed or JPEG, JPEG-LS, JPEG 2000
            or RLE.

    Returns:
        (H, W) float32 in [0, 1], air dark. Pixels are as stored: nothing is turned, mirrored or resampled.

    Raises:
        ImageError: the file is missing, damaged, no X-ray, in colour, has several frames or no pixels, its window or
            LUT has no meaning, or the extra ``dicom`` is not installed.
    """
    dataset = open_dataset(path)
    stored = stored_values(dataset, path)
    lowest, table, _ = grey_levels(dataset, stored, path)
    shown: npt.NDArray[np.float32] = table[stored.astype(np.int32) - lowest]
    return shown


def stored_values(dataset: Any, path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    """Decode the pixels of an X-ray.

    Returns:
        (H, W) integers of 8 or 16 bits, as stored.

    Raises:
        ImageError: as of ``read_dicom``.
    """
    if dataset.get("SOPClassUID") in _SEGMENTATIONS:
        raise ImageError(f"{path} is a segmentation, not an X-ray; expected an X-ray (masks: read_organ_mask).")
    modality = dataset.get("Modality") or ""
    if modality not in _MODALITIES:
        raise ImageError(f"{path} has Modality {modality}; expected a chest X-ray (CR or DX). Choose another file.")
    if "PixelData" not in dataset:
        raise ImageError(f"{path} holds no pixels; expected a chest X-ray image. Choose another file.")
    if (frames := int(dataset.get("NumberOfFrames") or 1)) > 1:
        raise ImageError(f"{path} holds {frames} frames; expected one. Save the wanted frame as its own file.")
    kind = dataset.get("PhotometricInterpretation") or "missing"
    if dataset.get("SamplesPerPixel") != 1 or kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise ImageError(
            f"{path} is in colour or without a meaning of black (Photometric Interpretation {kind}); expected "
            "MONOCHROME1 or MONOCHROME2. Export the original X-ray instead of a captured screen."
        )
    if dataset.get("BitsAllocated") not in (8, 16):
        raise ImageError(f"{path} has {dataset.get('BitsAllocated')} bits allocated a pixel; expected 8 or 16.")
    try:
        with quiet():
            stored: npt.NDArray[Any] = dataset.pixel_array
    except Exception as error:  # each decoder has errors of its own
        syntax = dataset.file_meta.TransferSyntaxUID.name
        raise ImageError(
            f"{path}: its pixels ({syntax}) cannot be decoded ({error}). The file is damaged or cut short, or a "
            'decoder is missing: copy it again, or pip install "xreal-cxr[dicom]".'
        ) from error
    return stored


def grey_levels(dataset: Any, stored: npt.NDArray[Any], path: str | os.PathLike[str]) -> GreyLevels:
    """Compute the grey level of every value that the image's bits can hold.

    Raises:
        ImageError: window or LUT have no meaning.
    """
    bits = int(dataset.get("BitsStored") or dataset.BitsAllocated)
    signed = dataset.get("PixelRepresentation") == 1
    lowest, highest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    lowest, highest = min(lowest, int(stored.min())), max(highest, int(stored.max()))  # some files lie about their bits
    values = np.arange(lowest, highest + 1)
    padding = _padding(dataset, values)
    try:
        with quiet():
            rescaled = _rescale(dataset, values)
            occurring = rescaled[
                np.unique(stored[~padding[stored.astype(np.int32) - lowest]]).astype(np.int32) - lowest
            ]
            found_range = _found_range(dataset, occurring, signed)
            shown = _value_of_interest(dataset, rescaled, found_range)
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise ImageError(f"{path}: its LUT or window cannot be used ({error}). Correct or remove it.") from error
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    return GreyLevels(lowest, np.where(padding, 0, shown).clip(0, 1).astype(np.float32), found_range)


def _padding(dataset: Any, values: npt.NDArray[np.int_]) -> npt.NDArray[np.bool_]:
    """Mark the values that stand for "no image here" (PS3.3 C.7.5.1.1.2)."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(values.shape, np.bool_)
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = (value, value if limit is None else limit)
    return (values >= min(ends)) & (values <= max(ends))


def _rescale(dataset: Any, values: npt.NDArray[np.int_]) -> npt.NDArray[np.float64]:
    """Apply the modality LUT or Rescale Slope and Intercept (PS3.3 C.11.1)."""
    if dataset.get("ModalityLUTSequence"):
        return _look_up(dataset.ModalityLUTSequence[0], values, dataset)[0]
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    return values.astype(np.float64) * float(1 if slope is None else slope) + float(intercept or 0)


def _has_window(dataset: Any) -> bool:
    return dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None


def _found_range(dataset: Any, occurring: npt.NDArray[np.float64], signed: bool) -> tuple[float, float] | None:
    if dataset.get("VOILUTSequence") or _has_window(dataset) or not occurring.size:
        return None
    ready = dataset.get("BitsStored") == _DISPLAY_BITS and not signed and not dataset.get("ModalityLUTSequence")
    return None if ready else (float(occurring.min()), float(occurring.max()))


def _value_of_interest(
    dataset: Any, values: npt.NDArray[np.float64], found_range: tuple[float, float] | None
) -> npt.NDArray[np.float64]:
    """Apply the VOI LUT or window (PS3.3 C.11.2), or the rule of ``read_dicom`` where there is neither."""
    if dataset.get("VOILUTSequence"):
        entries, bits = _look_up(dataset.VOILUTSequence[0], values, dataset)
        return entries / (2**bits - 1)
    if _has_window(dataset):
        center, width = (float(np.atleast_1d(dataset[name].value)[0]) for name in ("WindowCenter", "WindowWidth"))
        return _window(values, center, width, dataset.get("VOILUTFunction") or "LINEAR")
    low, high = found_range or (values.min(), values.max())
    return (values - low) / max(high - low, 1e-9)


def _window(values: npt.NDArray[np.float64], center: float, width: float, function: str) -> npt.NDArray[np.float64]:
    if function == "SIGMOID":
        if width <= 0:
            raise ValueError(f"window width {width:g}; expected above 0")
        return 1 / (1 + np.exp((-4 * (values - center) / width).clip(-700, 700)))
    if function == "LINEAR":  # from the centre of the first value's step to that of the last's
        if width < 1:
            raise ValueError(f"window width {width:g}; expected 1 or more")
        center, width = center - 0.5, width - 1
    elif function != "LINEAR_EXACT" or width <= 0:
        raise ValueError(f"window function {function} of width {width:g}")
    if width == 0:
        return (values > center).astype(np.float64)
    return ((values - center) / width + 0.5).clip(0, 1)


def _look_up(item: Any, values: npt.NDArray[Any], dataset: Any) -> tuple[npt.NDArray[np.float64], int]:
    """Look values up in a table; those beyond its ends take its first or last entry (PS3.3 C.11.1.1, C.11.2.1.1)."""
    number, first, bits = (int(value) for value in item.LUTDescriptor)
    number = number or 2**16
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if dataset.original_encoding[1] is not False else ">"
        entries = np.frombuffer(data, np.uint8 if len(data) in (number, number + 1) else f"{order}u2")
    else:
        entries = np.atleast_1d(np.asarray(data))
    if entries.size < number or not 8 <= bits <= 16:
        raise ValueError(f"LUT of {entries.size} entries of {bits} bits; its descriptor says {number} of 8 to 16 bits")
    places = (np.rint(values).astype(np.int64) - first).clip(0, number - 1)
    return entries[places].astype(np.float64), bits
