"""Is there an opacity in this place? Asked of a classifier of places, learnt from the boxes of real X-rays.

A classifier of whole X-rays hardly answers to one small opacity among all that X-rays differ by. Whoever looks at the
place sees it: boxes that radiologists drew are told from other places of the same lungs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from xreal.data.contract import Box, Sample
from xreal.data.prepared import PreparedDataset
from xreal.errors import DataError
from xreal.evaluation.detection import discriminant
from xreal.evaluation.judges import Extractor
from xreal.vocabulary import Finding, Organ

__all__ = ["FEWEST_BOXES", "PlaceJudge", "learn_places", "look_at_places", "real_places"]

FEWEST_BOXES = 50
"""Boxes below which a classifier of places is not trained."""

_OPACITIES = (
    Finding.ATELECTASIS,
    Finding.CONSOLIDATION,
    Finding.EDEMA,
    Finding.INFILTRATION,
    Finding.LUNG_OPACITY,
    Finding.MASS,
    Finding.NODULE,
    Finding.PLEURAL_EFFUSION,
    Finding.PNEUMONIA,
)
_LUNGS = (Organ.LEFT_LUNG, Organ.RIGHT_LUNG)
_CONTEXT = 1.4  # side of what is looked at ÷ longer side of the place
_SIDE = 128  # pixels of what is looked at
_OTHERS, _TRIES = 2, 200  # other places per image
_ON_LUNG, _IN_BOX = 0.6, 0.05  # of another place, at least and at most


def look_at_places(images: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Cut a square window around each place, with some context, and bring it to 128 pixels.

    Args:
        images: (N, H, W) float32 in [0, 1].
        boxes: (N, 4), x, y, width and height in pixels.

    Returns:
        (N, 128, 128) float32; beyond the image, its edge.
    """
    height, width = images.shape[1:]
    sides = _CONTEXT * boxes[:, 2:].max(1, keepdims=True)
    steps = (np.arange(_SIDE) + 0.5) / _SIDE - 0.5
    across = 2 * (boxes[:, :1] + boxes[:, 2:3] / 2 + sides * steps) / width - 1  # (N, 128), −1 to 1 over the image
    down = 2 * (boxes[:, 1:2] + boxes[:, 3:] / 2 + sides * steps) / height - 1
    shape = (len(boxes), _SIDE, _SIDE)
    grid = np.stack([np.broadcast_to(across[:, None], shape), np.broadcast_to(down[:, :, None], shape)], -1)
    windows = F.grid_sample(
        torch.from_numpy(images).float()[:, None],
        torch.from_numpy(grid).float(),
        padding_mode="border",
        align_corners=False,
    )
    seen: np.ndarray = windows[:, 0].numpy()
    return seen


@dataclass(frozen=True)
class PlaceJudge:
    """A linear classifier of places on an encoder's features of their windows.

    Attributes:
        encode: windows (N, 128, 128) -> features (N, d).
        features: of real places, (M, d).
        truth: 1 where there is an opacity, −1 where there is none, (M,).
    """

    encode: Extractor
    features: np.ndarray
    truth: np.ndarray

    def __call__(self, images: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Return how much places (N, 4) of images (N, H, W) look like an opacity, (N,); no probability."""
        said: np.ndarray = discriminant(self.features, self.truth, self.encode(look_at_places(images, boxes)))
        return said


def learn_places(encode: Extractor, data: PreparedDataset, seed: int = 0) -> PlaceJudge:
    """Learn what tells the boxes of opacities from other places of the same lungs.

    Args:
        encode: features of windows.
        data: X-rays with boxes and organ masks.
        seed: of the other places.

    Raises:
        DataError: fewer than 50 boxes.
    """
    windows, truth = real_places(data, seed)
    if (count := int((truth > 0).sum())) < FEWEST_BOXES:
        raise DataError(
            f"{count} boxes of opacities in X-rays with organ masks are too few to learn from; "
            f"{FEWEST_BOXES} are needed"
        )
    return PlaceJudge(encode, encode(windows), truth)


def real_places(data: PreparedDataset, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Collect the boxes of opacities and, in the same lungs, two other places of the same sizes.

    Returns:
        Windows (M, 128, 128) float32 in [0, 1], and 1 or −1 of each, (M,).
    """
    rng = np.random.default_rng(seed)
    masked = set(data.with_organ_mask())
    windows, truth = [np.zeros((0, _SIDE, _SIDE), np.float32)], [np.zeros(0)]
    for index in (i for i, names in enumerate(data.box_findings) if i in masked and set(names) & set(_OPACITIES)):
        sample = data[index]
        own = {_corners(box) for box in sample.boxes if box.finding in _OPACITIES}
        places = [*sorted(own), *_other_places(sample, sorted(own), rng)]
        image = np.repeat(sample.image[None].astype(np.float32) / 255, len(places), 0)
        windows.append(look_at_places(image, np.array(places)))
        truth.append(np.where(np.arange(len(places)) < len(own), 1.0, -1.0))
    return np.concatenate(windows), np.concatenate(truth)


def _corners(box: Box) -> tuple[float, float, float, float]:
    return box.x, box.y, box.width, box.height


def _other_places(
    sample: Sample, own: list[tuple[float, float, float, float]], rng: np.random.Generator
) -> Iterator[tuple[float, float, float, float]]:
    """Draw places in the lungs that have the size of one of the boxes and lie beside all of them."""
    lungs, boxed = np.isin(np.asarray(sample.organ_mask), _LUNGS), sample.box_mask > 0
    rows, columns = np.nonzero(lungs)
    found = 0
    for _ in range(_TRIES if len(rows) else 0):
        _, _, width, height = own[rng.integers(len(own))]
        pick = rng.integers(len(rows))
        x, y = columns[pick] - width / 2, rows[pick] - height / 2
        part = (slice(max(0, round(y)), max(0, round(y + height))), slice(max(0, round(x)), max(0, round(x + width))))
        if lungs[part].mean() >= _ON_LUNG and boxed[part].mean() <= _IN_BOX:
            yield x, y, width, height
            found += 1
        if found == _OTHERS:
            return
