"""The grid of a decoder of patches: what all patches of an image have in common is the decoder's, not the patient's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["common_tile", "without_grid"]

_SMOOTHER = (1.0, 4.0, 6.0, 4.0, 1.0)  # sixteenths, nearly a Gaussian of one pixel's deviation
_SMOOTH = 1e-5  # of white², variance of the smoothest tiles; smoother ones weigh no more
_BLACK = 0.004  # of white: clamped pixels show no grid


def common_tile(images: Tensor, side: int) -> Tensor:
    """Estimate the pattern that repeats in every tile of ``side`` pixels, from images (B, 1, H, W) in [0, 1].

    It is sought in the finest detail, where anatomy is faint: a mean over tiles, each weighed by the inverse of its own
    variance. Edges, letters and the film's border, which a plain mean would repeat in every tile, hardly count.

    Returns:
        (B, 1, side, side), of mean 0.
    """
    fine = _tiles(images - _smooth(images), side)
    lit = _tiles(images, side).amin(1, keepdim=True) > _BLACK
    weights = lit / (fine.square().mean(1, keepdim=True) + _SMOOTH)  # (B, 1, N)
    tile = (fine * weights).sum(-1) / weights.sum(-1).clamp_min(1e-9)  # (B, side²)
    return (tile - tile.mean(1, keepdim=True)).view(-1, 1, side, side)


def without_grid(images: Tensor, tile: Tensor) -> Tensor:
    """Take a tile of ``common_tile`` away wherever it repeats, (B, 1, H, W)."""
    return images - tile.repeat(1, 1, images.shape[-2] // tile.shape[-2], images.shape[-1] // tile.shape[-1])


def _smooth(images: Tensor) -> Tensor:
    row = images.new_tensor(_SMOOTHER) / 16
    return F.conv2d(F.pad(images, (2,) * 4, mode="reflect"), torch.outer(row, row)[None, None])


def _tiles(images: Tensor, side: int) -> Tensor:
    return F.pixel_unshuffle(images, side).flatten(2)  # (B, side², tiles)
