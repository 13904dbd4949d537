"""Is there an opacity in this place? Asked of a classifier of places, learnt from the boxes of real X-rays.

A classifier of whole X-rays hardly answers to one small opacity among all that X-rays differ by. Whoever looks at the
place sees it: boxes that radiologists drew are told from the same places of healthy lungs. Other places of the same
lungs would not do: such a classifier learns where opacities lie, and hardly tells a lesion from what was there before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from xreal.data.contract import Box, Sample
from xreal.data.prepared import PreparedDataset
from xreal.errors import DataError
from xreal.evaluation.detection import discriminant
from xreal.evaluation.judges import Extractor
from xreal.masks.areas import extent
from xreal.vocabulary import Finding, Organ

__all__ = ["FEWEST_BOXES", "PlaceJudge", "RealPlaces", "learn_places", "look_at_places", "real_places"]

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
_CONTEXT = 1.4  # side of what is looked at ÷ longer side of the place
_SIDE = 128  # pixels of what is looked at
_OTHERS = 3  # healthy X-rays per X-ray with boxes


def look_at_places(images: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Cut a square window around each place, with some context, and bring it to 128 pixels.

    Args:
        images: (N, H, W) float32 in [0, 1].
        boxes: (N, 4), x0, y0, x1 and y1 in pixels, the last two exclusive.

    Returns:
        (N, 128, 128) float32; beyond the image, its edge.
    """
    height, width = images.shape[1:]
    sides = _CONTEXT * (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    steps = (np.arange(_SIDE) + 0.5) / _SIDE - 0.5
    across = 2 * (middle[:, :1] + sides * steps) / width - 1  # (N, 128), −1 to 1 over the image
    down = 2 * (middle[:, 1:] + sides * steps) / height - 1
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

    @property
    def boxes(self) -> np.ndarray:
        """Features of the boxes of real opacities, (K, d)."""
        return self.features[self.truth > 0]

    def look(self, images: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Return the features of places (N, 4) of images (N, H, W), (N, d)."""
        return self.encode(look_at_places(images, boxes))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return how much places, by their features (N, d), look like an opacity, (N,); no probability."""
        said: np.ndarray = discriminant(self.features, self.truth, features)
        return said


def learn_places(encode: Extractor, data: PreparedDataset, seed: int = 0) -> PlaceJudge:
    """Learn what tells the boxes of opacities from the same places of healthy lungs.

    Args:
        encode: features of windows.
        data: X-rays with boxes, healthy ones, and organ masks of both.
        seed: of the choice among the healthy.

    Raises:
        DataError: fewer than 50 boxes, or no healthy X-ray.
    """
    windows, truth, _ = real_places(data, seed)
    if (count := int((truth > 0).sum())) < FEWEST_BOXES:
        raise DataError(
            f"{count} boxes of opacities in X-rays with organ masks are too few to learn from; "
            f"{FEWEST_BOXES} are needed"
        )
    if count == len(truth):
        raise DataError("no healthy X-ray with an organ mask to tell boxes from; add some labelled No Finding")
    return PlaceJudge(encode, encode(windows), truth)


class RealPlaces(NamedTuple):
    """Places of real X-rays: K boxes of opacities, and the same places of healthy lungs.

    Attributes:
        windows: (M, 128, 128) float32 in [0, 1].
        truth: 1 for a box and −1 for a healthy place, (M,).
        brighter: by how much each box is brighter than the same place of healthy lungs, of white, (K,): its grey less
            that of the lungs beside boxes, as X-rays differ in exposure. NaN without healthy X-rays.
    """

    windows: np.ndarray
    truth: np.ndarray
    brighter: np.ndarray


def real_places(data: PreparedDataset, seed: int = 0) -> RealPlaces:
    """Collect the boxes of opacities and, for each, the same place in the lungs of healthy X-rays.

    The healthy ones are of the same view where there are such.

    Args:
        data: X-rays with boxes, healthy ones, and organ masks of both.
        seed: of the choice among the healthy.
    """
    rng = np.random.default_rng(seed)
    masked, views = data.with_organ_mask(), [view for view, _, _ in data.demographics]
    findings, boxed = data.findings, data.box_findings
    healthy = [i for i in masked if findings[i] == (Finding.NO_FINDING,) and not boxed[i]]
    windows, truth, brighter = [np.zeros((0, _SIDE, _SIDE), np.float32)], [np.zeros(0)], [np.zeros(0)]
    for index in (i for i in masked if set(boxed[i]) & set(_OPACITIES)):
        sample = data[index]
        if not _lungs(sample).any():
            continue
        alike = [i for i in healthy if views[i] == views[index]] or healthy
        others = [data[int(i)] for i in rng.choice(alike, min(_OTHERS, len(alike)), replace=False)] if alike else []
        boxes = np.unique([_corners(box) for box in sample.boxes if box.finding in _OPACITIES], axis=0)
        places = [(one, _carried(boxes, sample, one)) for one in (sample, *others) if _lungs(one).any()]
        windows += [look_at_places(np.repeat(_grey(one)[None], len(boxes), 0), there) for one, there in places]
        truth += [np.full(len(boxes), 1.0 if one is sample else -1.0) for one, _ in places]
        contrast = np.stack([_contrast(one, there) for one, there in places])
        brighter.append(contrast[0] - contrast[1:].mean(0) if len(places) > 1 else np.full(len(boxes), np.nan))
    return RealPlaces(np.concatenate(windows), np.concatenate(truth), np.concatenate(brighter))


def _grey(sample: Sample) -> np.ndarray:
    grey: np.ndarray = sample.image.astype(np.float32) / 255
    return grey


def _contrast(sample: Sample, boxes: np.ndarray) -> np.ndarray:
    """Return the mean grey of each box less that of the lungs outside the X-ray's own boxes, (N,)."""
    image, beside = _grey(sample), _lungs(sample) & (sample.box_mask == 0)
    corners = np.rint(boxes).astype(int).clip(0, image.shape[0])
    means = [image[y0:y1, x0:x1].mean() if x1 > x0 and y1 > y0 else np.nan for x0, y0, x1, y1 in corners]
    return np.array(means) - (image[beside].mean() if beside.any() else np.nan)


def _corners(box: Box) -> tuple[float, float, float, float]:
    return box.x, box.y, box.x + box.width, box.y + box.height


def _lungs(sample: Sample) -> np.ndarray:
    return np.isin(np.asarray(sample.organ_mask), (Organ.LEFT_LUNG, Organ.RIGHT_LUNG))


def _carried(boxes: np.ndarray, sample: Sample, other: Sample) -> np.ndarray:
    """Move boxes (N, 4) to where they lie in another X-ray, by the extent of both lungs."""
    here, there = (np.array(extent(_lungs(one))).reshape(2, 2) for one in (sample, other))
    share = (boxes.reshape(-1, 2, 2) - here[0]) / (here[1] - here[0])
    return (there[0] + share * (there[1] - there[0])).reshape(-1, 4)
