"""Near-copies of training images: what tells them is made once per training set and kept for every later run.

Kept are a thumbnail of each training image, 2.3 kB, and the threshold that held-out images set. The few training images
that come into question for a picture are read from the prepared data itself.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from xreal.data.prepared import PreparedDataset, fingerprint
from xreal.errors import InputError, OutputError
from xreal.evaluation import privacy
from xreal.evaluation.privacy import FEWEST_HELD_OUT, TrainingImages, nearest_training_images, threshold, thumbnails
from xreal.files import temporary_path, write_bytes
from xreal.images import fit_square

__all__ = ["CopyCheck", "prepare_copy_check"]

_SIDE = 128  # at which privacy.py compares pictures
_HELD_OUT = 199  # `val` images that set the threshold, the second largest similarity; more would cost minutes
_PART = 256


@dataclass(frozen=True)
class CopyCheck:
    """What tells copies.

    Attributes:
        folders: prepared data sets whose `train` images must not be copied.
        thumbnails: .npy file, (M, 576) float32, mapped into memory by every process.
        limit: similarity above which an image is a copy.
    """

    folders: tuple[str, ...]
    thumbnails: Path
    limit: float

    def similarity(self, images: np.ndarray) -> np.ndarray:
        """Return (B,) the similarity of images (B, H, W) to the nearest training image of each."""
        return nearest_training_images(images, _training_images(self.folders, self.thumbnails)).similarity


def prepare_copy_check(folders: tuple[str, ...], cache: Path) -> CopyCheck:
    """Make thumbnails of the training images, set the threshold by images of `val`; or take what an earlier run made.

    Args:
        folders: prepared data sets.
        cache: folder to keep it in, by the data's and the detector's fingerprint.

    Raises:
        DataError: no such data set, or its `val` images are among those of `train`.
        InputError: fewer than 99 images in `val`, too few for a threshold at 1% false alarms.
        OutputError: ``cache`` cannot be written.
    """
    folders = tuple(str(Path(folder).resolve()) for folder in folders)
    detector = "".join(inspect.getsource(module) for module in (privacy, sys.modules[__name__]))
    data = "".join(fingerprint(folders, split) for split in ("train", "val"))
    kept = cache / "near-copies" / hashlib.sha256((detector + data).encode()).hexdigest()[:32]
    file, record = kept / "thumbnails.npy", kept / "limit.json"
    if record.exists():
        return CopyCheck(folders, file, json.loads(record.read_text(encoding="utf-8"))["limit"])
    val = PreparedDataset(folders, "val")
    if len(val) < FEWEST_HELD_OUT:  # now, not after minutes of comparing
        raise InputError(
            f"{', '.join(folders)}: {len(val)} X-rays in `val` cannot set a threshold of 1% false alarms for "
            f"near-copies; give data sets with {FEWEST_HELD_OUT} or more together, or leave checks: train out"
        )
    _write_thumbnails(PreparedDataset(folders, "train"), file)
    chosen = np.linspace(0, len(val) - 1, min(_HELD_OUT, len(val))).round().astype(int)
    similarities = CopyCheck(folders, file, 1.0).similarity(_small(val, chosen))
    limit = threshold(similarities)
    write_bytes(record, json.dumps({"limit": limit, "held_out": sorted(similarities.round(4).tolist())}).encode())
    return CopyCheck(folders, file, limit)


def _write_thumbnails(train: PreparedDataset, file: Path) -> None:
    temporary = temporary_path(file)
    try:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            made = np.lib.format.open_memmap(temporary, "w+", np.float32, (len(train), 576))
            for first in range(0, len(train), _PART):
                indices = np.arange(first, min(first + _PART, len(train)))
                made[indices] = thumbnails(_small(train, indices))
            made.flush()
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{file} cannot be written ({error}); name a folder that takes files in the environment variable "
            "XREAL_CACHE"
        ) from error


@lru_cache(maxsize=1)
def _training_images(folders: tuple[str, ...], file: Path) -> TrainingImages:
    train = PreparedDataset(folders, "train")
    return TrainingImages(np.load(file, mmap_mode="r"), lambda indices: _small(train, indices), _SIDE)


def _small(data: PreparedDataset, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    pictures = (data[int(index)].image for index in indices)
    return np.stack([fit_square(picture.astype(np.float32) / 255, _SIDE) for picture in pictures])
