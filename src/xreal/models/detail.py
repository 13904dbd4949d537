"""What a decoder leaves out of an X-ray's finest octave: a network that draws it from the decoded image and noise."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn

__all__ = ["DetailGenerator", "DetailJudge", "detail_noise"]

_SIDE = 4  # pixels: sides of an image are multiples of it
_SLOPE = 0.2  # of what is negative


class _Block(nn.Module):
    """Two convolutions beside which the input goes on; nothing is normalised: how strong detail is, matters."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = _conv(width, width), _conv(width, width)
        nn.init.zeros_(self.second.weight)

    def forward(self, features: Tensor) -> Tensor:
        added: Tensor = self.second(F.leaky_relu(self.first(features), _SLOPE))
        return F.leaky_relu(features + added, _SLOPE)


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, padding_mode="replicate")


class DetailGenerator(ModelMixin, ConfigMixin):
    """Lines, edges and grain that real X-rays have besides what the latents tell.

    A decoder that is taught by the error per pixel returns the mean of all X-rays of the same latents, which is
    smoother than any of them. This network is taught by another that tells real X-rays from its own
    (``xreal train detail``), and draws one of them: which, noise says.
    """

    @register_to_config
    def __init__(self, width: int = 32, coarse_blocks: int = 4, fine_blocks: int = 2) -> None:
        """Make an untrained network, which adds nothing.

        Args:
            width: at half the size of the image; twice that at a quarter.
            coarse_blocks: residual blocks at a quarter of the size.
            fine_blocks: at half.
        """
        super().__init__()
        self.look = _conv(8, width)
        self.coarsen = _conv(width, 2 * width, stride=2)
        self.scatter = nn.Conv2d(16, 2 * width, 1)
        self.coarse = nn.Sequential(*(_Block(2 * width) for _ in range(coarse_blocks)))
        self.refine = nn.Conv2d(2 * width, 4 * width, 1)
        self.fine = nn.Sequential(*(_Block(width) for _ in range(fine_blocks)))
        self.draw = _conv(width, 4)
        nn.init.zeros_(self.draw.weight)
        nn.init.zeros_(self.draw.bias)

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """Return what is to be added to decoded images.

        Args:
            images: (B, 1, H, W) in [0, 1], sides multiples of 4.
            noise: of ``noise``, (B, 2, H, W).

        Returns:
            (B, 1, H, W), about 0.
        """
        seen = torch.cat([2 * images - 1, noise[:, :1]], 1)
        fine = F.leaky_relu(self.look(F.pixel_unshuffle(seen, 2)), _SLOPE)
        coarse = self.coarsen(fine) + self.scatter(F.pixel_unshuffle(noise[:, 1:], _SIDE))
        coarse = self.coarse(F.leaky_relu(coarse, _SLOPE))
        fine = self.fine(F.leaky_relu(fine + F.pixel_shuffle(self.refine(coarse), 2), _SLOPE))
        added: Tensor = F.pixel_shuffle(self.draw(fine), 2)
        return added

    def added(self, images: Tensor, noise: Tensor) -> Tensor:
        """Compute as ``forward``, but in the number format of the input: mixed precision would lose grain."""
        return DetailGenerator.forward(self, images, noise)


def detail_noise(images: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Draw the noise for images (B, 1, H, W), (B, 2, H, W) beside them, one generator per image."""
    return torch.stack([torch.randn(2, *images.shape[-2:], generator=one) for one in generators]).to(images)


class DetailJudge(nn.Module):
    """Scores places of X-rays by how real their detail is: it teaches ``DetailGenerator`` and is then thrown away."""

    def __init__(self, width: int = 32, gain: float = 10.0) -> None:
        """Make an untrained judge.

        Args:
            width: at the whole size; twice that at each of three smaller ones.
            gain: of what is finer than three pixels, which is fainter than all else by about so much.
        """
        super().__init__()
        self.gain = gain
        widths = [width * 2**level for level in range(4)]
        layers: list[nn.Module] = [_conv(2, width), nn.LeakyReLU(_SLOPE)]
        for narrow, wide in pairwise(widths):
            layers += [_conv(narrow, narrow), nn.LeakyReLU(_SLOPE), _conv(narrow, wide, stride=2), nn.LeakyReLU(_SLOPE)]
        self.layers = nn.Sequential(*layers, _conv(widths[-1], widths[-1]), nn.LeakyReLU(_SLOPE), _conv(widths[-1], 1))

    def scores(self, images: Tensor) -> Tensor:
        """Score (B, 1, H, W): (B, 1, H / 8, W / 8), the higher, the more real."""
        smooth = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        scores: Tensor = self.layers(torch.cat([2 * images - 1, self.gain * (images - smooth)], 1))
        return scores
