"""Is a picture a copy? The nearest training image of each image, and how surely it is the same picture.

Two chests look alike long before one is a copy of the other, so a distance between whole pictures proves nothing. The
search therefore has two steps, both of which lay one picture over the other, turned, zoomed and shifted a little.
Thumbnails find the few training images that come into question. Then the fine structure (ribs, vessels, skin folds;
brightness and contrast taken out) is correlated, which agrees in the same picture only. Width, height and turn are then
refined for the likeliest few, as fine structure falls apart when it is 2 pixels off.

The constants were chosen on 5,257 training and 296 held-out radiographs of NIH ChestX-ray14. There, at 1 false alarm of
296, copies turned and stretched by random amounts to 3° and 5% were all found (40), and 38 of 40 of those turned by
the whole 3° and stretched by 5% one way and shrunk by 5% the other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.layers.simplelayers import gaussian_1d, separable_filtering
from torch import Tensor

from xreal.errors import DataError, InputError
from xreal.evaluation.intervals import share_interval

__all__ = [
    "FEWEST_HELD_OUT",
    "NearestImages",
    "TrainingImages",
    "copy_summary",
    "flag_copies",
    "nearest_training_images",
    "threshold",
    "thumbnails",
]

FEWEST_HELD_OUT = 99
"""Held-out real images below which no threshold promises 1% false alarms."""

_SMALLEST = 32
_SIDE = 128  # pixels at which pictures are verified: ribs and vessels are there, noise and sharpness mostly not
_FINE, _COARSE = 0.8, 4.0  # fine structure: difference of Gaussians of these deviations, in pixels of _SIDE
_CONTRAST = 8.0  # deviation of the neighbourhood in which it is brought to one strength
_SCALES = (1.04, 1.0, 0.96, 0.92, 0.88)
_THUMBNAIL = 24
_BACKGROUND = 6.0  # deviation of the Gaussian that is taken off a thumbnail, in its pixels
_WINDOW = 0.84  # side of the middle part that is compared: without burnt-in letters, and with room to shift
_SHIFT = 0.08
_DEGREES = (-3.0, 0.0, 3.0)
_ROWS = 16384  # training images whose thumbnails are compared at once
_REFINED = 3  # training images per image for which the pose is refined
_STEPS = ((1.5, 0.03), (0.8, 0.015), (0.4, 0.008))  # of the refinement, degrees and share of width or height
_SAME = 0.95  # exact, brighter or blurred copies lie above; pictures of the same patient reach 0.92
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)

_Pose = tuple[float, float, float, float, float]
"""Turn in degrees, width and height as factors, and the place to the right and down as shares of the side."""


@dataclass(frozen=True)
class NearestImages:
    """Nearest training image of each of N images.

    Attributes:
        index: (N,) int64, its place in the training set.
        similarity: (N,) float64 in [−1, 1], correlation of the fine structure; 1 is the same picture.
    """

    index: np.ndarray
    similarity: np.ndarray


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """A training set as the search needs it: thumbnails of all, and the pictures of those that come into question.

    Attributes:
        thumbnails: (M, 576) float32, made by :func:`thumbnails`; may be mapped from a file.
        read: indices (K,) -> pictures (K, H', W') float32 in [0, 1].
        side: of the pictures, the shorter one.
    """

    thumbnails: np.ndarray
    read: Callable[[np.ndarray], np.ndarray]
    side: int


def nearest_training_images(
    images: np.ndarray, train: np.ndarray | TrainingImages, candidates: int = 10
) -> NearestImages:
    """Find for each image the training image that it is most likely a copy of.

    Changes of brightness, contrast and sharpness, turns to about 4°, width and height stretched by about 5%, and crops
    that take to about a tenth of the side do not hide a copy. Mirror images and copied parts are not looked for.

    Args:
        images: (N, H, W) float32 in [0, 1].
        train: (M, H', W') float32 in [0, 1], of any size; both squares, or both of one shape. Or what was made of them
            once, for a set that is searched again and again or does not fit into memory.
        candidates: how many training images per image are compared closely.

    Raises:
        InputError: a set is empty, below 32 pixels a side or no finite numbers, or ``candidates`` is below 1.
    """
    _check(images, "images")
    if not isinstance(train, TrainingImages):
        _check(train, "train")
        train = TrainingImages(thumbnails(train), train.__getitem__, min(train.shape[1:]))
    if candidates < 1:
        raise InputError(f"candidates is {candidates}; expected at least 1 training image to compare with")
    side = min(_SIDE, *images.shape[1:], train.side)
    likely = _candidates(images, train.thumbnails, min(candidates, len(train.thumbnails)))
    coarse = [(degrees, scale, scale, 0.0, 0.0) for scale, degrees in itertools.product(_SCALES, _DEGREES)]
    poses = _Poses(side, coarse)
    index, similarity = [], []
    for image, ours in zip(images, likely, strict=True):
        structure, theirs = _structure(image[None], side), _structure(train.read(ours), side)
        agreement = poses.fine_similarity(structure, theirs)
        scores = agreement.amax(1)
        for k in scores.topk(min(_REFINED, len(ours))).indices.tolist():
            pose = coarse[int(agreement[k].argmax())]
            scores[k] = max(float(scores[k]), _refined(structure, theirs[k : k + 1], pose))
        index.append(int(ours[int(scores.argmax())]))
        similarity.append(float(scores.max()))
    return NearestImages(np.array(index, np.int64), np.clip(similarity, -1.0, 1.0).astype(np.float64))


def threshold(held_out_similarities: np.ndarray, false_alarms: float = 0.01) -> float:
    """Choose the similarity above which an image counts as a copy.

    An image like the held-out ones exceeds the k-th smallest of their n similarities with probability
    1 − k / (n + 1) (split conformal prediction), so k = ⌈(n + 1) (1 − false alarms)⌉.

    Args:
        held_out_similarities: (n,), of real images of patients who are not in the training set.
        false_alarms: largest accepted share of such images above the threshold, in (0, 1).

    Raises:
        InputError: too few similarities for so rare a false alarm: 99 are needed for 0.01.
        DataError: more held-out images than that are pictures of the training set.
    """
    similarities = np.sort(np.asarray(held_out_similarities, np.float64).ravel())
    if not 0 < false_alarms < 1 or not np.isfinite(similarities).all():
        raise InputError(f"false_alarms is {false_alarms}; expected a share between 0 and 1, and finite similarities")
    rank = math.ceil((len(similarities) + 1) * (1 - false_alarms) - 1e-9)
    if rank > len(similarities):
        raise InputError(
            f"{len(similarities)} held-out images cannot tell a false-alarm share of {false_alarms:g}; "
            f"give at least {math.ceil(1 / false_alarms - 1e-9) - 1} or accept more false alarms"
        )
    limit = float(similarities[rank - 1])
    if limit >= _SAME:
        raise DataError(
            f"{int((similarities >= _SAME).sum())} of {len(similarities)} held-out images are pictures of the training "
            f"set (similarity {_SAME} or more); give real images of other patients"
        )
    return limit


def flag_copies(similarities: np.ndarray, limit: float) -> np.ndarray:
    """Tell which of N images are copies: similarity above the limit of :func:`threshold`. Returns (N,) bool."""
    return np.asarray(np.asarray(similarities) > limit)


def copy_summary(
    similarities: np.ndarray, held_out_similarities: np.ndarray, false_alarms: float = 0.01
) -> dict[str, Any]:
    """Sum up how many images are copies, beside real images that are none.

    Args:
        similarities: (N,), of the judged images.
        held_out_similarities: (n,), of real images of patients who are not in the training set.
        false_alarms: see :func:`threshold`.

    Returns:
        "n", "held_out_n", "false_alarms", "threshold"; "flagged", the share of images above it, with its 95% Wilson
        interval "flagged_low" and "flagged_high"; "quantiles" and "held_out_quantiles", share -> similarity.

    Raises:
        InputError: no images, or too few held-out ones.
        DataError: the held-out images are pictures of the training set.
    """
    similarities, held_out = np.asarray(similarities, np.float64), np.asarray(held_out_similarities, np.float64)
    if len(similarities) == 0:
        raise InputError("no similarities; expected those of at least 1 image")
    limit = threshold(held_out, false_alarms)
    flagged = int(flag_copies(similarities, limit).sum())
    low, high = share_interval(flagged / len(similarities), len(similarities))
    return {
        "n": len(similarities),
        "held_out_n": len(held_out),
        "false_alarms": false_alarms,
        "threshold": limit,
        "flagged": flagged / len(similarities),
        "flagged_low": low,
        "flagged_high": high,
        "quantiles": {f"{share:g}": float(np.quantile(similarities, share)) for share in _QUANTILES},
        "held_out_quantiles": {f"{share:g}": float(np.quantile(held_out, share)) for share in _QUANTILES},
    }


def _check(images: np.ndarray, name: str) -> None:
    if images.ndim != 3 or len(images) == 0 or min(images.shape[1:]) < _SMALLEST:
        raise InputError(
            f"{name} has shape {images.shape}; expected (N, H, W), at least 1 image and {_SMALLEST} pixels a side"
        )
    if not np.isfinite(images).all():
        raise InputError(f"{name} holds NaN or infinity; expected values in [0, 1]")


def _resized(images: np.ndarray, side: int) -> Tensor:
    """Bring (N, H, W) to (N, 1, side, side)."""
    pictures = torch.from_numpy(np.ascontiguousarray(images, np.float32))[:, None]
    return F.interpolate(pictures, size=(side, side), mode="bilinear", antialias=True)


def _blur(pictures: Tensor, deviation: float) -> Tensor:
    kernel = gaussian_1d(torch.tensor(deviation), truncated=3.0)
    return separable_filtering(pictures, [kernel, kernel], mode="reflect")


def _structure(images: np.ndarray, side: int) -> Tensor:
    """Take brightness and contrast out of (N, H, W); returns (N, 1, side, side) of mean 0 and local strength 1."""
    pictures, pixels = _resized(images, side), side / _SIDE
    structure = _blur(pictures, _FINE * pixels) - _blur(pictures, _COARSE * pixels)
    strength = _blur(structure**2, _CONTRAST * pixels).clamp_min(0).sqrt()
    # A quarter of the mean strength: air beside the patient must not become as strong as ribs.
    return structure / (strength + 0.25 * strength.mean((2, 3), keepdim=True) + 1e-4)


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Make what the search first looks at, of images (N, H, W) float32 in [0, 1]: (N, 576) float32."""
    small = torch.cat([_resized(part, _THUMBNAIL) for part in np.array_split(images, math.ceil(len(images) / 256))])
    return (small - _blur(small, _BACKGROUND)).flatten(1).numpy()


def _candidates(images: np.ndarray, theirs: np.ndarray, count: int) -> np.ndarray:
    """Return (N, count) indices of the training images whose thumbnails correlate best in any pose."""
    shifts = (-0.04, 0.0, 0.04)
    grid = itertools.product((1.0, 0.94, 0.88), _DEGREES, shifts, shifts)
    poses = _Poses(_THUMBNAIL, [(degrees, scale, scale, right, down) for scale, degrees, right, down in grid])
    window = poses.placed_window.flatten(1)
    area = window.sum(1)
    ours = []
    for thumbnail in torch.from_numpy(thumbnails(images)).view(-1, 1, 1, _THUMBNAIL, _THUMBNAIL):
        placed = poses.place(thumbnail).flatten(1)
        ours.append(placed - window * (placed.sum(1) / area)[:, None])
    likeness = torch.empty(len(images), len(theirs))
    for first in range(0, len(theirs), _ROWS):
        some = torch.from_numpy(np.array(theirs[first : first + _ROWS]))
        energy = some**2 @ window.T - (some @ window.T) ** 2 / area  # (rows, poses), about the mean under the window
        for row, placed in zip(likeness, ours, strict=True):
            agreement = some @ placed.T / (energy * (placed**2).sum(1)).clamp_min(1e-12).sqrt()
            row[first : first + _ROWS] = agreement.amax(1)
    return np.asarray(likeness.topk(count).indices.numpy())


def _refined(structure: Tensor, candidate: Tensor, pose: _Pose) -> float:
    """Return the best correlation of two structures (1, 1, side, side) in poses near the given one."""
    best = -1.0
    for turn, stretch in _STEPS:
        degrees, width, height = pose[:3]
        around = itertools.product((-turn, 0.0, turn), (-stretch, 0.0, stretch), (-stretch, 0.0, stretch))
        near = [(degrees + d, width + w, height + h, 0.0, 0.0) for d, w, h in around]
        agreement = _Poses(structure.shape[-1], near).fine_similarity(structure, candidate)[0]
        pose, best = near[int(agreement.argmax())], max(best, float(agreement.max()))
    return best


class _Poses:
    """Ways to lay the middle of a picture over another one.

    Attributes:
        placed_window: (poses, 1, side, side), where the middle comes to lie, 0 to 1.
    """

    def __init__(self, side: int, poses: Iterable[_Pose]) -> None:
        theta = []
        for degrees, width, height, right, down in poses:
            cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
            theta.append([[cosine / width, -sine / height, 2 * right], [sine / width, cosine / height, 2 * down]])
        self._grid = F.affine_grid(torch.tensor(theta), [len(theta), 1, side, side], align_corners=False)
        margin = round((1 - _WINDOW) / 2 * side)
        self._window = F.pad(torch.ones(1, 1, side - 2 * margin, side - 2 * margin), (margin,) * 4)
        self.placed_window = self.place(torch.ones(1, 1, side, side))
        reach = round(_SHIFT * side)
        self._shifts = torch.arange(-reach, reach + 1) % side

    def place(self, picture: Tensor) -> Tensor:
        """Move the middle of a picture (1, 1, side, side) to every pose, (poses, 1, side, side), 0 around it."""
        middle = (picture * self._window).expand(len(self._grid), -1, -1, -1)
        return F.grid_sample(middle, self._grid, align_corners=False)

    def fine_similarity(self, structure: Tensor, candidates: Tensor) -> Tensor:
        """Return (K, poses), the best correlation over shifts of a structure (1, 1, side, side) with each of K."""
        placed = self.place(structure)
        agreement = self._over_shifts(candidates, placed)
        energy = self._over_shifts(candidates**2, self.placed_window) * (placed**2).sum((1, 2, 3)).view(1, -1, 1, 1)
        return (agreement / energy.clamp_min(1e-6).sqrt()).amax((2, 3))

    def _over_shifts(self, candidates: Tensor, placed: Tensor) -> Tensor:
        """Correlate (K, 1, side, side) with (poses, 1, side, side) by FFT: (K, poses, shifts, shifts)."""
        product = torch.fft.rfft2(candidates) * torch.fft.rfft2(placed[:, 0]).conj()
        everywhere = torch.fft.irfft2(product, s=placed.shape[2:])
        return everywhere[:, :, self._shifts][:, :, :, self._shifts]
