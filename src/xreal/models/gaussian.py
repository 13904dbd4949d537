"""A Gaussian of latents: what a pass over the data can tell of them without any training."""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

__all__ = ["LatentGaussian"]


class LatentGaussian(ModelMixin, ConfigMixin):
    """A mean and a few directions, each as long as the deviation along it."""

    @register_to_config
    def __init__(self, components: int = 64, latent_channels: int = 4, latent_size: int = 32) -> None:
        super().__init__()
        shape = (latent_channels, latent_size, latent_size)
        self.mean = nn.Parameter(torch.zeros(shape), requires_grad=False)
        self.directions = nn.Parameter(torch.zeros(components, *shape), requires_grad=False)

    def forward(self, generators: list[torch.Generator]) -> Tensor:
        """Draw one per generator, scaled latents (B, c, h, w)."""
        scores = torch.stack([torch.randn(len(self.directions), generator=one) for one in generators])
        return self.mean + torch.einsum("bk,kchw->bchw", scores.to(self.directions), self.directions)
