"""Bands of detail, half an octave apart, that add up to the image they were split from."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["amplify", "changes", "noise_in_bands", "split"]

_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))  # rows down, columns to the right
_FINE = 128  # frequencies along a side, enough to sum over
_MARGIN = 16  # pixels by which an image is mirrored at its border, so that opposite sides do not meet


def split(images: Tensor, count: int) -> Tensor:
    """Split images into bands: triangles over the logarithm of the frequency.

    Args:
        images: (B, 1, H, W).
        count: n, bands; band k is centred on 2^(−1 − k/2) cycles per pixel.

    Returns:
        (B, n + 1, H, W), the finest band first, last what is coarser than all of them; their sum is the image.
    """
    return _filtered(images, count, lambda filters: filters)


def amplify(images: Tensor, gains: Tensor) -> Tensor:
    """Make bands stronger or weaker: what ``split`` returns, weighed and added up again.

    Args:
        images: (B, 1, H, W).
        gains: factor of each band, (B, n); what is coarser stays.
    """
    return _filtered(
        images, gains.shape[1], lambda filters: 1 + torch.einsum("bn,nhw->bhw", gains - 1, filters[:-1])[:, None]
    )


def _filtered(images: Tensor, count: int, transfer: Callable[[Tensor], Tensor]) -> Tensor:
    margin = min(_MARGIN, *(side - 1 for side in images.shape[-2:]))
    height, width = (side + 2 * margin for side in images.shape[-2:])
    spectrum = torch.fft.rfft2(F.pad(images.float(), (margin,) * 4, mode="reflect"))
    filters = transfer(_filters(count, height, width, images.device).half_plane)
    parts = torch.fft.irfft2(spectrum * filters, s=(height, width))
    return parts[..., margin : height - margin, margin : width - margin]


def noise_in_bands(white: Tensor, count: int) -> Tensor:
    """Split white noise of unit variance, (B, 1, H, W), into ``count`` bands of unit variance, (B, count, H, W)."""
    height, width = white.shape[-2:]
    filters = _filters(count, height, width, white.device)
    parts = torch.fft.irfft2(torch.fft.rfft2(white.float()) * filters.half_plane[:-1], s=(height, width))
    return parts / filters.deviations[:, None, None]


def changes(bands: Tensor) -> list[Tensor]:
    """Return by how much bands change from one pixel to the next, in each of four directions.

    An edge does not change along itself, however strong it is; grain changes in all directions alike.

    Args:
        bands: (B, n, H, W), the n finest of ``split``.

    Returns:
        to the right, downwards and along both diagonals, (B, n, H, W) each, 0 past the border; of white noise all have
        the variance that it has in its band.
    """
    ahead = F.pad(bands, (1, 1, 0, 1), mode="replicate")
    height, width = bands.shape[-2:]
    scales = _change_scales(bands.shape[1], bands.device)
    return [
        (ahead[..., down : down + height, 1 + across : 1 + across + width] - bands) * scale
        for (down, across), scale in zip(_DIRECTIONS, scales, strict=True)
    ]


class _Filters(NamedTuple):
    """Of the bands and of what is coarser.

    Attributes:
        half_plane: (count + 1, H, W // 2 + 1), adding up to 1 everywhere.
        deviations: of white noise of unit variance in each band, (count,).
    """

    half_plane: Tensor
    deviations: Tensor


@functools.lru_cache(maxsize=16)
@torch.inference_mode(mode=False)
def _change_scales(count: int, device: torch.device) -> Tensor:
    """Return what changes of each direction are multiplied by, (4, count, 1, 1)."""
    rows, columns = (torch.fft.fftfreq(_FINE) * 2 * torch.pi, torch.fft.rfftfreq(_FINE) * 2 * torch.pi)
    power = _filters(count, _FINE, _FINE, torch.device("cpu")).half_plane[:-1].square()
    power = power * torch.where((columns > 0) & (columns < torch.pi), 2, 1)  # the other half of the plane
    moved = torch.stack([2 - 2 * (down * rows[:, None] + across * columns).cos() for down, across in _DIRECTIONS])
    share = (moved[:, None] * power).sum((2, 3)) / power.sum((1, 2))
    return share.rsqrt()[..., None, None].to(device)


@functools.lru_cache(maxsize=16)
@torch.inference_mode(mode=False)  # whoever asks first, training can use them
def _filters(count: int, height: int, width: int, device: torch.device) -> _Filters:
    rows, columns = (torch.fft.fftfreq(side, device=device) for side in (height, width))
    frequency = torch.hypot(rows[:, None], columns).clamp_min(1e-6)  # cycles per pixel
    place = 2 * (0.5 / frequency).log2().clamp_min(0)  # 0 from the pixels' own frequency to the corners
    bands = torch.stack([(1 - (place - band).abs()).clamp_min(0) for band in range(count)])
    filters = torch.cat([bands, 1 - bands.sum(0, keepdim=True)])
    return _Filters(filters[..., : width // 2 + 1].contiguous(), bands.square().mean((1, 2)).sqrt())
