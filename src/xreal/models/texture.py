"""What a decoder leaves out of an X-ray: grain and detail too fine for latents, drawn with real ones' strength."""

from __future__ import annotations

import math

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

__all__ = ["Texture"]


class Texture(ModelMixin, ConfigMixin):
    """Gaussian of X-rays about what their latents are decoded to: octave bands, each with a deviation in each place.

    A decoder trained on the error per pixel returns the mean of all X-rays of the same latents, which is smoother than
    any of them. This network reads off the decoded image how much of each band real X-rays have there, and adds it as
    noise: the likelihood of a variational autoencoder, sampled instead of cut off at its mean.
    """

    @register_to_config
    def __init__(self, bands: int = 5, width: int = 16) -> None:
        super().__init__()
        reflect = {"padding_mode": "reflect"}
        self.network = nn.Sequential(
            nn.Conv2d(1, width, 5, padding=2, **reflect),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=2, dilation=2, **reflect),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=2, dilation=2, **reflect),
            nn.SiLU(),
            nn.Conv2d(width, bands, 1),
        )
        with torch.no_grad():
            self.network[-1].weight.mul_(0.1)
            self.network[-1].bias.fill_(-5.0)  # about 0.007 of white, a likely loss of a band

    def forward(self, images: Tensor, generators: list[torch.Generator], strength: float = 1.0) -> Tensor:
        """Add texture.

        Args:
            images: decoded (B, 1, H, W) in [0, 1].
            generators: one per image; equal ones draw equal noise.
            strength: 1 as in real X-rays, 0 none.

        Returns:
            (B, 1, H, W), clamped to [0, 1].
        """
        size = (self.config.bands, *images.shape[-2:])
        white = torch.stack([torch.randn(size, generator=one) for one in generators]).to(images)
        noise = self.split(white) / self._filters(images).square().mean((1, 2)).sqrt().view(-1, 1, 1)
        drawn = (self.deviations(images) * noise).sum(1, keepdim=True)
        return (images + strength * drawn).clamp(0, 1)

    def deviations(self, images: Tensor) -> Tensor:
        """Return the standard deviation of each band's noise in each place, (B, bands, H, W)."""
        return self.network(images).float().clamp(-12, 0).exp()

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
        power = self._filters(decoded).square().flatten(1)
        shares = power @ power.T / power.sum(1)  # (band seen, band drawn): of unit noise that is seen
        return torch.einsum("jk,bkhw->bjhw", shares, self.deviations(decoded).square()) + 1e-9

    def split(self, images: Tensor) -> Tensor:
        """Filter channel k of (B, bands, H, W) with band k."""
        return torch.fft.ifft2(torch.fft.fft2(images.float()) * self._filters(images)).real

    def _filters(self, like: Tensor) -> Tensor:
        """Return raised cosines over the octaves, from the highest down; their squares add up to 1, (bands, H, W)."""
        rows, columns = (torch.fft.fftfreq(side, device=like.device) for side in like.shape[-2:])
        frequency = torch.hypot(rows[:, None], columns).clamp_min(1e-6)  # cycles per pixel
        octave = (0.5 / frequency).log2().clamp_min(0)  # 0 from the pixels' own frequency to the corners
        distances = [(octave - band).abs().clamp_max(1) for band in range(self.config.bands)]
        return torch.stack([(math.pi / 2 * distance).cos() for distance in distances])
