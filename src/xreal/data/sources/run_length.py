"""Masks written as run lengths: pairs of a start and a length, in the two dialects that chest X-ray sets have."""

from __future__ import annotations

import numpy as np

from xreal.errors import MaskError

__all__ = ["decode_column_runs", "decode_row_runs"]


def decode_column_runs(runs: str, shape: tuple[int, int]) -> np.ndarray:
    """Decode SIIM-ACR's runs: down the columns, each start counted from the end of the run before.

    Args:
        runs: such as "387620 23 996 33".
        shape: (H, W) of the image.

    Returns:
        (H, W) uint8, 1 inside.

    Raises:
        MaskError: no pairs of whole numbers, or they leave the image.
    """
    gaps, lengths = _pairs(runs)
    ends = np.cumsum(gaps + lengths)
    return _fill(ends - lengths, ends, shape).reshape(shape[::-1]).T


def decode_row_runs(runs: str, shape: tuple[int, int]) -> np.ndarray:
    """Decode CheXmask's runs: along the rows, starts counted from 1 at the top left; an empty text is an empty mask.

    Args:
        runs: such as "1030 4 1285 12".
        shape: (H, W) of the image.

    Returns:
        (H, W) uint8, 1 inside.

    Raises:
        MaskError: no pairs of whole numbers, or they leave the image.
    """
    starts, lengths = _pairs(runs)
    return _fill(starts - 1, starts - 1 + lengths, shape).reshape(shape)


def _pairs(runs: str) -> tuple[np.ndarray, np.ndarray]:
    words = runs.split()
    if len(words) % 2 or not all(word.isdecimal() for word in words):
        raise MaskError(f"run lengths {runs[:40]!r} are not pairs of whole numbers: start, length, start, length, …")
    numbers = np.array(words, dtype=np.int64)
    return numbers[::2], numbers[1::2]


def _fill(starts: np.ndarray, ends: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    pixels = shape[0] * shape[1]
    if starts.size and (starts.min() < 0 or ends.max() > pixels):
        raise MaskError(f"run lengths leave the image of {shape[0]}×{shape[1]} pixels; they belong to another size")
    mask = np.zeros(pixels, np.uint8)
    for start, end in zip(starts, ends, strict=True):
        mask[start:end] = 1
    return mask
