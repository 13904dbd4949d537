"""The grid of a decoder of patches: what patches nearby have in common is the decoder's, not the patient's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["find_grid"]

_SMOOTHER = (1.0, 4.0, 6.0, 4.0, 1.0)  # sixteenths, nearly a Gaussian of one pixel's deviation
_SMOOTH = 1e-5  # of white², variance of the smoothest tiles; smoother ones weigh no more
_BLACK = 0.004  # of white: clamped pixels show no grid
_REACH = 4.0  # tiles, a Gaussian's deviation: the grid of a lung is not that of a shoulder


def find_grid(images: Tensor, side: int) -> Tensor:
    """Estimate what repeats from tile to tile of ``side`` pixels, from images (B, 1, H, W) in [0, 1].

    It is sought in the finest detail, where anatomy is faint: a mean over the tiles around each place, each weighed by
    the inverse of its own variance. Edges, letters and the film's border, which a plain mean would repeat in every
    tile, hardly count.

    Returns:
        (B, 1, H, W), of mean 0 in each tile, to be taken away.
    """
    fine = F.pixel_unshuffle(images - _smooth(images), side)  # (B, side², tiles down, tiles across)
    lit = F.pixel_unshuffle(images, side).amin(1, keepdim=True) > _BLACK
    weights = lit / (fine.square().mean(1, keepdim=True) + _SMOOTH)
    tiles = _around(fine * weights) / _around(weights).clamp_min(1e-9)
    return F.pixel_shuffle(tiles - tiles.mean(1, keepdim=True), side)


def _smooth(images: Tensor) -> Tensor:
    row = images.new_tensor(_SMOOTHER) / 16
    return F.conv2d(F.pad(images, (2,) * 4, mode="reflect"), torch.outer(row, row)[None, None])


def _around(values: Tensor) -> Tensor:
    """Sum over a Gaussian around each place, (B, C, h, w): as products of matrices, for it reaches far."""
    down, across = (_gaussian(values, side) for side in values.shape[-2:])
    summed: Tensor = down @ values @ across
    return summed


def _gaussian(values: Tensor, side: int) -> Tensor:
    at = torch.arange(side, device=values.device, dtype=values.dtype)
    return (-0.5 * ((at[:, None] - at) / _REACH).square()).exp()
