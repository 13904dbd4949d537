"""What a decoder leaves out of an X-ray: grain and detail too fine for latents, drawn with real ones' strength."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

__all__ = ["Texture"]


class Texture(ModelMixin, ConfigMixin):
    """Gaussian of X-rays about what their latents are decoded to: octave bands, each with a deviation in each place.

    A decoder trained on the error per pixel returns the mean of all X-rays of the same latents, which is smoother than
    any of them. This network reads off the decoded image how much of each band real X-rays have there, and adds it as
    noise: the likelihood of a variational autoencoder, sampled instead of cut off at its mean.

    It sees 26 pixels around a place, and what is common to the whole film: grain is a matter of dose and detector.
    """

    @register_to_config
    def __init__(self, bands: int = 5, width: int = 16) -> None:
        super().__init__()
        reflect = {"padding_mode": "reflect"}
        self.local = nn.Sequential(
            nn.PixelUnshuffle(2),  # deviations change slowly: half the resolution is enough, and costs a quarter
            nn.Conv2d(4, width, 5, padding=2, **reflect),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=2, dilation=2, **reflect),
            nn.SiLU(),
        )
        self.film = nn.Linear(width, width)
        self.deviation = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=2, dilation=2, **reflect),
            nn.SiLU(),
            nn.Conv2d(width, bands, 1),
        )
        with torch.no_grad():
            self.deviation[-1].weight.mul_(0.1)
            self.deviation[-1].bias.fill_(-5.0)  # about 0.007 of white, a likely loss of a band

    def forward(self, images: Tensor, noise: Tensor, strength: float = 1.0) -> Tensor:
        """Add texture.

        Args:
            images: decoded (B, 1, H, W) in [0, 1], H and W even.
            noise: of ``noise``, (B, bands, H, W).
            strength: 1 as in real X-rays, 0 none.

        Returns:
            (B, 1, H, W), clamped to [0, 1].
        """
        drawn = (self.deviations(images) * noise).sum(1, keepdim=True)
        return (images + strength * drawn).clamp(0, 1)

    def noise(self, size: tuple[int, int], generators: list[torch.Generator]) -> Tensor:
        """Draw each band's noise of unit variance, one image per generator, (B, bands, H, W)."""
        white = [torch.randn(self.config.bands, *size, generator=one) for one in generators]
        bands = _bands(self.config.bands, *size, self.device)
        return self.split(torch.stack(white).to(self.device)) / bands.deviations.view(-1, 1, 1)

    def deviations(self, images: Tensor) -> Tensor:
        """Return the standard deviation of each band's noise in each place, (B, bands, H, W)."""
        hidden = self.local(images)
        film = self.film(hidden.mean((2, 3)))
        logarithm = self.deviation(hidden + film[..., None, None]).float()
        logarithm = F.interpolate(logarithm, scale_factor=2, mode="bilinear", align_corners=False)
        return logarithm.clamp(-12, 0).exp()

    def loss(self, decoded: Tensor, real: Tensor) -> Tensor:
        """Return the negative log-likelihood of what was lost, by Laplace's distribution, a mean over bands and pixels.

        It is least where the mean of |texture| is that of |what was lost|. A Gaussian's asks for the mean square, which
        a few edges make: the grain would be that of edges, everywhere that one might be.

        Args:
            decoded: (B, 1, H, W).
            real: the X-rays that were encoded, (B, 1, H, W).
        """
        lost = self.split((real - decoded).float().expand(-1, self.config.bands, -1, -1))
        mean_size = (self.variances(decoded) * (2 / math.pi)).sqrt()  # of Gaussian noise
        return (mean_size.log() + lost.abs() / mean_size).mean()

    def variances(self, decoded: Tensor) -> Tensor:
        """Return the variance of each band of the drawn texture in each place, (B, bands, H, W).

        Neighbouring bands overlap: the noise of one is seen in the next as well.
        """
        shares = _bands(self.config.bands, *decoded.shape[-2:], decoded.device).shares
        return torch.einsum("jk,bkhw->bjhw", shares, self.deviations(decoded).square()) + 1e-9

    def split(self, images: Tensor) -> Tensor:
        """Filter channel k of (B, bands, H, W) with band k."""
        size = images.shape[-2:]
        bands = _bands(self.config.bands, *size, images.device)
        return torch.fft.irfft2(torch.fft.rfft2(images.float()) * bands.filters, s=size)


class _Bands(NamedTuple):
    """Raised cosines over the octaves, from the highest down; their squares add up to 1.

    Attributes:
        filters: over the half plane of frequencies, (bands, H, W // 2 + 1).
        deviations: of white noise of unit variance in each band, (bands,).
        shares: of the variance of one band's noise that is seen in another, (band seen, band drawn).
    """

    filters: Tensor
    deviations: Tensor
    shares: Tensor


@functools.lru_cache(maxsize=8)
@torch.inference_mode(mode=False)  # whoever asks first, training can use them
def _bands(count: int, height: int, width: int, device: torch.device) -> _Bands:
    rows, columns = (torch.fft.fftfreq(side, device=device) for side in (height, width))
    frequency = torch.hypot(rows[:, None], columns).clamp_min(1e-6)  # cycles per pixel
    octave = (0.5 / frequency).log2().clamp_min(0)  # 0 from the pixels' own frequency to the corners
    distances = [(octave - band).abs().clamp_max(1) for band in range(count)]
    filters = torch.stack([(math.pi / 2 * distance).cos() for distance in distances])
    power = filters.square().flatten(1)
    shares = power @ power.T / power.sum(1)
    return _Bands(filters[..., : width // 2 + 1].contiguous(), power.mean(1).sqrt(), shares)
