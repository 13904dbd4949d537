"""Where the walk from noise begins: with the trace of an X-ray that the network was trained to find there."""

from __future__ import annotations

import torch
from torch import Tensor

from xreal.errors import DataError
from xreal.models.gaussian import LatentGaussian

__all__ = ["SignalLeak", "fit_signal_leak"]

_WAVES = 2  # cosines along each side, of 0 and 1 half waves: finer ones would speak against the organ mask
_SPREAD = 3.0  # times as far from the mean as X-rays are: few steps take it away again (docs/log.md)


class SignalLeak(LatentGaussian):
    """Gaussian of what whole X-rays differ in, exposure and contrast, about their mean.

    At the first of few steps latents are noise and a few hundredths of an X-ray. A walk that begins with noise alone
    tells the network that the X-ray has neither bright nor dark places, and what is drawn is flat and of one exposure.
    The trace that is missing is drawn here, as scaled latents without noise (signal leak, arXiv 2309.15842).
    """


@torch.no_grad()
def fit_signal_leak(latents: Tensor) -> SignalLeak:
    """Learn from the scaled latents of X-rays.

    Their covariance is kept in the mean X-ray, more or less of which is contrast, and in the slowest waves of each
    channel.

    Args:
        latents: of training images, (N, c, h, w); a few hundred tell how they differ.

    Raises:
        DataError: a single image.
    """
    if len(latents) < 2:
        raise DataError(f"{len(latents)} training images do not tell how X-rays differ; give more")
    mean = latents.mean(0)
    patterns = _patterns(mean)
    scores = (latents - mean).flatten(1) @ patterns.flatten(1).T
    variances, axes = torch.linalg.eigh(scores.T.cov().double())
    root = (axes * variances.clamp_min(0).sqrt()).to(patterns)
    leak = SignalLeak(len(patterns), latents.shape[1], latents.shape[-1])
    leak.mean.copy_(mean)
    leak.directions.copy_(_SPREAD * torch.einsum("nk,nchw->kchw", root, patterns))
    return leak


def _patterns(mean: Tensor) -> Tensor:
    """Return slow cosines of each channel and what they leave of the mean, orthonormal, (4c + 1, c, h, w)."""
    channels, height, width = mean.shape
    rows, columns = _cosines(height).to(mean), _cosines(width).to(mean)
    waves = torch.einsum("uh,vw->uvhw", rows, columns).flatten(0, 1)  # (4, h, w)
    slow = torch.einsum("ab,nhw->anbhw", torch.eye(channels).to(mean), waves).flatten(0, 1)
    rest = mean - torch.einsum("n,nchw->chw", torch.einsum("nchw,chw->n", slow, mean), slow)
    return torch.cat([slow, (rest / rest.norm().clamp_min(1e-6))[None]])


def _cosines(side: int) -> Tensor:
    """Return the first rows of the orthonormal cosine transform, (2, side)."""
    place = (torch.arange(side) + 0.5) * torch.pi / side
    waves = torch.cos(torch.arange(_WAVES)[:, None] * place)
    return waves / waves.norm(dim=1, keepdim=True)
