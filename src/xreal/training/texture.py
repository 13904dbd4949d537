"""Losses on texture: what latents do not say of each pixel must still be drawn as strongly as real X-rays have it.

Errors per pixel are least where nothing uncertain is drawn, which looks soft. The losses here compare power, not
pixels: they do not mind where a grain lies.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["spectral_loss", "tile_loss"]

_WINDOWS = (16, 32, 64)  # sides in pixels, several as for audio (arXiv 1910.11480): fine in place, fine in frequency
_LOCAL_WEIGHT = 0.5
_ROUNDING = 1 / (12 * 255**2)  # power of rounding to 8 bits; below it there is nothing to match


def spectral_loss(output: Tensor, target: Tensor) -> Tensor:
    """Compare the power at each frequency: mean absolute difference of its logarithm.

    Over a whole image every frequency counts by itself (Welch's estimate, the mean over its windows), so that a
    pattern of one frequency shows; in each of the smallest windows, the mean over a ring of frequencies does.

    Args:
        output: (B, C, H, W) in [0, 1], H and W of at least 16 pixels.
        target: the same.
    """
    output, target = output.flatten(0, 1), target.flatten(0, 1)
    sizes = [size for size in _WINDOWS if size <= min(target.shape[1:])]
    whole = [_gap(_power(output, size).mean((1, 2)), _power(target, size).mean((1, 2))) for size in sizes]
    rings = _rings(sizes[0]).to(target)
    local = _gap(_power(output, sizes[0]).flatten(-2) @ rings, _power(target, sizes[0]).flatten(-2) @ rings)
    return torch.stack(whole).mean() + _LOCAL_WEIGHT * local


def tile_loss(output: Tensor, target: Tensor, period: int) -> Tensor:
    """Compare the mean tile of ``period``² pixels, brightness aside: mean absolute difference, of white.

    Whatever repeats at the decoder's own period is no anatomy but a trace of how it works.

    Args:
        output: (B, C, H, W) in [0, 1], sides multiples of ``period``.
        target: the same.
        period: pixels per latent.
    """
    tile = F.pixel_unshuffle(output - target, period).mean((2, 3)).unflatten(1, (output.shape[1], -1))
    return (tile - tile.mean(2, keepdim=True)).abs().mean()


def _power(images: Tensor, size: int) -> Tensor:
    """Return power under Hann windows that overlap by half: (B, H, W) -> (B, rows, columns, size, size / 2 + 1)."""
    window = torch.hann_window(size, device=images.device)
    window = window[:, None] * window
    parts = images.float().unfold(1, size, size // 2).unfold(2, size, size // 2)
    parts = parts - parts.mean((-2, -1), keepdim=True)
    return torch.fft.rfft2(parts * window, norm="ortho").abs().square() / window.square().mean()


def _rings(size: int) -> Tensor:
    """Return what averages a half-plane of frequencies over rings, 0 left out: (size · (size / 2 + 1), rings)."""
    radius = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)) * size
    rings = F.one_hot(radius.round().long().clamp(max=size // 2).flatten()).float()[:, 1:]
    return rings / rings.sum(0)


def _gap(power: Tensor, wanted: Tensor) -> Tensor:
    return ((power + _ROUNDING).log() - (wanted + _ROUNDING).log()).abs().mean()
