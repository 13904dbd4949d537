"""Near-copies of training images: one small copy of the training set that all processes share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xreal.data.prepared import PreparedDataset
from xreal.errors import InputError
from xreal.evaluation.privacy import FEWEST_HELD_OUT, nearest_training_images, threshold
from xreal.images import fit_square

__all__ = ["CopyCheck", "prepare_copy_check"]

_SIDE = 128  # at which privacy.py compares pictures
_HELD_OUT = 199  # `val` images that set the threshold, the second largest similarity; more would cost minutes


@dataclass(frozen=True)
class CopyCheck:
    """What tells copies.

    Attributes:
        train: .npy file, (M, 128, 128) float32, mapped into memory by every process.
        limit: similarity above which an image is a copy.
    """

    train: Path
    limit: float

    def similarity(self, images: np.ndarray) -> np.ndarray:
        """Return (B,) the similarity of images (B, H, W) to the nearest training image of each."""
        train = np.load(self.train, mmap_mode="c")  # torch takes no read-only arrays; nothing is written
        return nearest_training_images(images, train).similarity


def prepare_copy_check(folders: tuple[str, ...], out: Path) -> CopyCheck:
    """Write the training images, small, to the file ``out``; set the threshold by images of `val`.

    Raises:
        DataError: no such data set, or its `val` images are among those of `train`.
        InputError: fewer than 99 images in `val`, too few for a threshold at 1% false alarms.
    """
    train, val = (PreparedDataset(folders, split) for split in ("train", "val"))
    if len(val) < FEWEST_HELD_OUT:  # now, not after minutes of comparing
        raise InputError(
            f"{', '.join(folders)}: {len(val)} X-rays in `val` cannot set a threshold of 1% false alarms for "
            f"near-copies; give data sets with {FEWEST_HELD_OUT} or more together, or leave checks: train out"
        )
    chosen = np.linspace(0, len(val) - 1, min(_HELD_OUT, len(val))).round().astype(int).tolist()
    held_out = np.stack([_small(val[index].image) for index in chosen])
    small = np.lib.format.open_memmap(out, mode="w+", dtype=np.float32, shape=(len(train), _SIDE, _SIDE))
    for index, sample in enumerate(train):
        small[index] = _small(sample.image)
    small.flush()
    return CopyCheck(out, threshold(nearest_training_images(held_out, small).similarity))


def _small(image: np.ndarray) -> np.ndarray:
    return fit_square(image.astype(np.float32) / 255, _SIDE)
