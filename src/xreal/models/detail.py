"""What a decoder leaves out of an X-ray's finest octave: a network that draws its lines from the decoded image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn

from xreal.models.grid import find_grid

__all__ = ["DetailGenerator", "DetailJudge", "with_lines"]

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


def _enlarge(features: Tensor) -> Tensor:
    return F.interpolate(features, scale_factor=2.0, mode="bilinear")


class DetailGenerator(ModelMixin, ConfigMixin):
    """Lines, edges and grain that real X-rays have besides what the latents tell.

    A decoder that is taught by the error per pixel returns the mean of all X-rays of the same latents, which is
    smoother than any of them. This network is taught by another that tells real X-rays from its own
    (``xreal train detail``), and draws one of them: which, noise says. Without noise it draws lines and edges alone and
    leaves grain to the texture, which knows better how strong it is.

    Features are enlarged without phase, and the last layers see whole pixels: a network that deals pixels out of
    channels (``pixel_shuffle``) draws a grid of its own.
    """

    @register_to_config
    def __init__(
        self,
        width: int = 32,
        coarse_blocks: int = 4,
        fine_blocks: int = 2,
        pixel_width: int = 16,
        pixel_blocks: int = 1,
    ) -> None:
        """Make an untrained network, which adds nothing.

        Args:
            width: at half the size of the image; twice that at a quarter.
            coarse_blocks: residual blocks at a quarter of the size.
            fine_blocks: at half.
            pixel_width: at the whole size.
            pixel_blocks: at the whole size.
        """
        super().__init__()
        self.look = _conv(8, width)
        self.coarsen = _conv(width, 2 * width, stride=2)
        self.scatter = nn.Conv2d(16, 2 * width, 1)
        self.coarse = nn.Sequential(*(_Block(2 * width) for _ in range(coarse_blocks)))
        self.refine = nn.Conv2d(2 * width, width, 1)
        self.fine = nn.Sequential(*(_Block(width) for _ in range(fine_blocks)))
        self.spread = nn.Conv2d(width, pixel_width, 1)
        self.see = _conv(2, pixel_width)
        self.pixels = nn.Sequential(*(_Block(pixel_width) for _ in range(pixel_blocks)))
        self.draw = _conv(pixel_width, 1)
        nn.init.zeros_(self.draw.weight)
        nn.init.zeros_(self.draw.bias)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return what is to be added to decoded images.

        Args:
            images: (B, 1, H, W) in [0, 1], without the decoder's grid; sides multiples of 4.
            noise: standard normal, (B, 2, H, W), as in training; None: lines without grain.

        Returns:
            (B, 1, H, W), about 0.
        """
        if noise is None:
            noise = torch.zeros_like(images).expand(-1, 2, -1, -1)
        seen = torch.cat([2 * images - 1, noise[:, :1]], 1)
        fine = F.leaky_relu(self.look(F.pixel_unshuffle(seen, 2)), _SLOPE)
        coarse = self.coarsen(fine) + self.scatter(F.pixel_unshuffle(noise[:, 1:], _SIDE))
        coarse = self.coarse(F.leaky_relu(coarse, _SLOPE))
        fine = self.fine(F.leaky_relu(fine + _enlarge(self.refine(coarse)), _SLOPE))
        pixels = self.pixels(F.leaky_relu(self.see(seen) + _enlarge(self.spread(fine)), _SLOPE))
        added: Tensor = self.draw(pixels)
        return added

    def added(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Compute as ``forward``, but in the number format of the input: mixed precision would lose grain."""
        return DetailGenerator.forward(self, images, noise)


def with_lines(
    draw: Callable[[Tensor], Tensor], tracks: Sequence[Tensor], tile: int, strength: float = 1.0
) -> list[Tensor]:
    """Take the decoder's grid from images, and add the lines that it left out.

    Args:
        draw: a ``DetailGenerator``, or what stands in for it.
        tracks: decoded X-rays, (B, 1, H, W) in [0, 1], and others of the same patients. Grid and lines are those of the
            first, as ribs and vessels are: sharpened itself, a haze would look like a thing with an edge.
        tile: side of the decoder's patches in pixels.
        strength: 1 as learnt, 0 none.

    Returns:
        (B, 1, H, W) each, clamped to [0, 1].
    """
    grid = find_grid(tracks[0], tile)
    lines = _in_two_phases(draw, tracks[0] - grid)
    return [(track + strength * (lines - grid)).clamp(0, 1) for track in tracks]


def _in_two_phases(draw: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return the mean of what is drawn, and of what is drawn one pixel further down and across, moved back.

    A network that halves its features twice has a grid of its own, of two and four pixels, which lies the other way
    round then.
    """
    height, width = images.shape[-2:]
    moved = F.pad(images, (1, 0, 1, 0), mode="replicate")[..., :height, :width]
    here, there = draw(torch.cat([images, moved])).chunk(2)
    return (here + F.pad(there[..., 1:, 1:], (0, 1, 0, 1), mode="replicate")) / 2


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
