"""What makes a decoded image look like film: no grid, grain as strong as real X-rays have it, each film another way."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from xreal.models.bands import amplify, changes, noise_in_bands, split
from xreal.models.grid import find_grid

__all__ = ["Film", "Texture"]

_STEP = 4  # pixels: the strength of grain is predicted on every fourth, and changes by chance from one to the next
_WIDE = 5  # of those, the side of the square whose detail it is read off
_FURTHEST = 2.0  # deviations of the draw of a patch: what lies beyond is seen as single white and black pixels
_ABOVE = 1.0  # log amplitude, 9 dB: edges get no more grain than this above the film's own
_DETAIL = 0.5  # weight of all detail beside that of the grain: power matters too
_FAINT = 1e-8  # of white²: power of detail below this is rounding to 8 bits
_MOST = 1.25  # log amplitude, 11 dB: no film is sharper or softer than another by more


class Film(NamedTuple):
    """What an X-ray shares with its healthy twin, whatever is drawn on it.

    Attributes:
        grid: the decoder's, (B, 1, H, W).
        grain: (B, 1, H, W).
        gains: log amplitude by which this film shows each band, grain and all, more than others do, (B, bands).
    """

    grid: Tensor
    grain: Tensor
    gains: Tensor


class Texture(ModelMixin, ConfigMixin):
    """Grain, and how films differ in sharpness.

    A decoder trained on the error per pixel returns the mean of all X-rays of the same latents, which is smoother than
    any of them. How much grain real X-rays have besides is read off what the decoded image has in each band and
    place, and added as noise; no finer than that, it tells nothing of the patient. Grain is what a band has in the
    direction in which it changes least: lines that a decoder leaves out are not made up for by noise.

    Real grain is not alike everywhere: it comes in patches, smooth next to sharp, that nothing in the decoded image
    foretells. How much its strength varies so is a number per band, in log amplitude.

    Dose, detector and processing, which latents do not hold, differ from film to film: each band of an image is made
    stronger or weaker, by a draw from a Gaussian of what drawn X-rays lack of real ones. Most of that are lines, so
    their grain is made weaker by as much as films would show too much of it.

    The network learns from X-rays and what is decoded of them (``xreal train texture``), patches and films from what
    the whole model draws (``xreal train film``).
    """

    @register_to_config
    def __init__(self, bands: int = 9, grain_bands: int = 6, width: int = 16, tile: int = 8) -> None:
        """Make an untrained texture.

        Args:
            bands: half octaves that films differ in.
            grain_bands: the finest of them, which get noise.
            width: of the network.
            tile: side of the decoder's patches in pixels.
        """
        super().__init__()
        self.deviation = nn.Sequential(
            nn.Conv2d(bands + 1 + grain_bands, width, 1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate"),
            nn.SiLU(),
            nn.Conv2d(width, grain_bands, 1),
        )
        with torch.no_grad():
            self.deviation[-1].weight.mul_(0.1)
            self.deviation[-1].bias.fill_(-0.5)  # grain not much weaker than what is there
        self.grain_mean = nn.Parameter(torch.zeros(grain_bands), requires_grad=False)
        self.patches = nn.Parameter(torch.zeros(grain_bands), requires_grad=False)
        self.film_mean = nn.Parameter(torch.zeros(bands), requires_grad=False)
        self.film_root = nn.Parameter(torch.zeros(bands, bands), requires_grad=False)

    def forward(self, images: Tensor, film: Film, strength: float = 1.0) -> Tensor:
        """Add texture.

        Args:
            images: decoded (B, 1, H, W) in [0, 1], sides multiples of the tile's.
            film: of ``film``.
            strength: 1 as in real X-rays, 0 none.

        Returns:
            (B, 1, H, W), clamped to [0, 1].
        """
        grained = images + strength * (film.grain - film.grid)
        return amplify(grained, (strength * film.gains).clamp(-_MOST, _MOST).exp()).clamp(0, 1)

    def film(self, images: Tensor, generators: list[torch.Generator], drawn: bool = True) -> Film:
        """Draw a film for each decoded image.

        Args:
            images: (B, 1, H, W) in [0, 1].
            generators: one per image.
            drawn: False for real X-rays through the autoencoder, which have what ``xreal train film`` learns, as it is
                what drawn ones lack of them.
        """
        grid = find_grid(images, self.config.tile)
        grain = self.grain(images - grid, generators, drawn)
        scores = torch.stack([torch.randn(self.config.bands, generator=one) for one in generators]).to(images)
        return Film(grid, grain, drawn * (self.film_mean + scores @ self.film_root.T))

    def grain(self, images: Tensor, generators: list[torch.Generator], drawn: bool = True) -> Tensor:
        """Draw the grain that images without grid, (B, 1, H, W), lack, in patches or not; of the same shape."""
        height, width = images.shape[-2:]
        noise = noise_in_bands(_white(images, height, width, generators), self.config.grain_bands)
        patch = _white(images, height // _STEP, width // _STEP, generators).clamp(-_FURTHEST, _FURTHEST)
        uneven = self.grain_mean.view(-1, 1, 1) + self.patches.view(-1, 1, 1) * patch
        strengths = self.strengths(self.bands(images)) + drawn * uneven
        deviations = F.interpolate(strengths, scale_factor=_STEP, mode="bilinear").exp()
        return (deviations * noise).sum(1, keepdim=True)

    def bands(self, images: Tensor) -> Tensor:
        """Split (B, 1, H, W) into bands and what is coarser, (B, bands + 1, H, W)."""
        return split(images, self.config.bands)

    def strengths(self, bands: Tensor) -> Tensor:
        """Return the log amplitude of each band's noise around every fourth pixel, (B, grain bands, H / 4, W / 4).

        Args:
            bands: of ``bands``, (B, bands + 1, H, W).
        """
        # A mean of logarithms: the few edges of a place, far stronger than its grain, hardly count.
        parts = (self.sizes(bands), _around(bands[:, -1:]), self.grain_sizes(bands))
        size, grey, grain = (_averaged(part, _WIDE, 1) for part in parts)
        seen = torch.cat([size / 2 + 3, 2 * grey - 1, grain / 2 + 3], 1)  # all about 0, of unit size
        logarithm = self.deviation(seen) + grain
        logarithm = torch.minimum(logarithm, logarithm.mean((2, 3), keepdim=True) + _ABOVE)
        return logarithm.clamp(-12, -1)

    def sizes(self, bands: Tensor) -> Tensor:
        """Return the log amplitude of each band of ``bands`` around every fourth pixel, (B, bands, H / 4, W / 4)."""
        return (_around(bands[:, :-1].square()) + _FAINT).log() / 2

    def grain_sizes(self, bands: Tensor) -> Tensor:
        """Return the log amplitude of the grain in each grain band of ``bands``, (B, grain bands, H / 4, W / 4).

        Like ``sizes``, but of the change along the direction in which there is least.
        """
        power = torch.stack([_around(change.square()) for change in changes(bands[:, : self.config.grain_bands])])
        return (power.amin(0) + _FAINT).log() / 2

    def loss(self, decoded: Tensor, real: Tensor, generators: list[torch.Generator]) -> Tensor:
        """Return by how much grain is too strong or too weak in a place, and half of that of all detail, log amplitude.

        Args:
            decoded: (B, 1, H, W).
            real: the X-rays that were encoded, (B, 1, H, W).
            generators: of the films, one per image; how films differ is left out.
        """
        clean = decoded - find_grid(decoded, self.config.tile)
        grained = clean + self.grain(clean, generators, drawn=False)
        drawn, wanted = (self.bands(images) for images in (grained, real))
        detail = (self.sizes(drawn) - self.sizes(wanted))[:, : self.config.grain_bands].abs().mean()
        return (self.grain_sizes(drawn) - self.grain_sizes(wanted)).abs().mean() + _DETAIL * detail


def _white(images: Tensor, height: int, width: int, generators: list[torch.Generator]) -> Tensor:
    return torch.stack([torch.randn(1, height, width, generator=one) for one in generators]).to(images)


def _around(images: Tensor) -> Tensor:
    return _averaged(images, 2 * _STEP, _STEP)


def _averaged(images: Tensor, side: int, stride: int) -> Tensor:
    return F.avg_pool2d(images, side, stride, (side - stride + 1) // 2, count_include_pad=False)
