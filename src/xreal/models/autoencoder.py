"""Pixels <-> latents: the KL autoencoder, and the one door between images and its tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import Tensor, nn

from xreal.config import AutoencoderConfig
from xreal.models.configuration import OwnConfigMixin

__all__ = [
    "PatchAutoencoderKL",
    "build_autoencoder",
    "channel_effects",
    "decode_latents",
    "decode_pixels",
    "downsampling",
    "encode_image",
    "from_pixels",
    "grey",
    "pixel_range",
    "to_pixels",
]

UNIT_RANGE = (0.0, 1.0)  # pixels of the autoencoders trained here, and of the authors'
DIFFUSERS_RANGE = (-1.0, 1.0)  # those of every autoencoder whose configuration says nothing: Stable Diffusion's


class PatchAutoencoderKL(OwnConfigMixin, AutoencoderKL):
    """KL autoencoder that works on pixel patches, with a linear path beside the convolutions.

    The convolutions see ``patch_size``² pixels as channels, which saves the costly full-resolution layers. The linear
    path maps each f×f patch to its latent and back; it starts as the principal components of real patches
    (``initialise``), so the convolutions only learn what those cannot do (residual autoencoding, arXiv 2410.10733).
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        patch_size: int = 4,
        block_out_channels: tuple[int, ...] = (64, 128),
        layers_per_block: int = 1,
        latent_channels: int = 4,
        norm_num_groups: int = 16,
        mid_block_add_attention: bool = False,
        sample_size: int = 256,
        scaling_factor: float = 1.0,
        refine_channels: int = 0,
    ) -> None:
        levels = len(block_out_channels)
        super().__init__(
            in_channels=in_channels * patch_size**2,
            out_channels=out_channels * patch_size**2,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            latent_channels=latent_channels,
            norm_num_groups=norm_num_groups,
            mid_block_add_attention=mid_block_add_attention,
            sample_size=sample_size,
            scaling_factor=scaling_factor,
        )
        # The parent registered the channels that its convolutions see; the configuration states those of an image.
        self.register_to_config(in_channels=in_channels, out_channels=out_channels, _pixel_range=UNIT_RANGE)
        self.downsampling = patch_size * 2 ** (levels - 1)
        patch_values = in_channels * self.downsampling**2
        self.patch_encoder = nn.Conv2d(patch_values, latent_channels, 1)
        self.patch_decoder = nn.Conv2d(latent_channels, patch_values, 1)
        self.refine: nn.Module | None = None
        if refine_channels > 0:
            self.add_refinement(refine_channels)

    def add_refinement(self, channels: int) -> None:
        """Add convolutions over whole pixels to the decoder, silent at first; without them no patch sees the next."""
        sides = int(self.config.out_channels)
        self.refine = nn.Sequential(
            nn.Conv2d(sides, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, sides, 3, padding=1),
        )
        nn.init.zeros_(self.refine[-1].weight)
        nn.init.zeros_(self.refine[-1].bias)
        self.register_to_config(refine_channels=channels)

    @torch.no_grad()
    def initialise(self, images: Tensor) -> None:
        """Set the linear path to the principal components of the patches of ``images`` and silence the convolutions.

        Args:
            images: (N, C, H, W) in [0, 1]; a few hundred are enough. Latents start with unit variance.
        """
        patches = F.pixel_unshuffle(images, self.downsampling).movedim(1, -1).flatten(0, -2).double()
        mean = patches.mean(0)
        variances, directions = torch.linalg.eigh(torch.cov(patches.T))
        channels = self.config.latent_channels
        scale = variances[-channels:].flip(0).sqrt()
        basis = directions[:, -channels:].flip(1)  # (patch_values, channels), largest variance first
        basis = basis * torch.ones_like(basis[0]).copysign(basis[0])  # eigh leaves the signs to the machine
        encode = (basis / scale).T
        self.patch_encoder.weight.copy_(encode[..., None, None])
        self.patch_encoder.bias.copy_(-encode @ mean)
        self.patch_decoder.weight.copy_((basis * scale)[..., None, None])
        self.patch_decoder.bias.copy_(mean)
        for convolution in (self.quant_conv, self.decoder.conv_out):
            nn.init.zeros_(convolution.weight)
            nn.init.zeros_(convolution.bias)
        self.quant_conv.bias[channels:] = -6.0  # log variance: noise of 0.05 beside latents of unit variance

    @torch.no_grad()
    def refit(self, latents: Tensor, images: Tensor) -> None:
        """Add to the linear path of the decoder what it can still tell of images, by least squares.

        A pattern that repeats in every patch, however faint, is seen as a grid: no gradient finds it all, this does.

        Args:
            latents: of ``images``, unscaled, (N, c, h, w).
            images: (N, C, H, W); a few hundred.
        """
        known = torch.cat([latents, torch.ones_like(latents[:, :1])], 1).movedim(1, -1).flatten(0, -2).double()
        for _ in range(1 if self.refine is None else 2):  # what is refined answers to what is changed, a little
            lost = [i - self.decode(z).sample for z, i in zip(latents.split(16), images.split(16), strict=True)]
            patches = F.pixel_unshuffle(torch.cat(lost), self.downsampling).movedim(1, -1).flatten(0, -2).double()
            slopes = torch.linalg.lstsq(known, patches).solution.to(latents.dtype)  # (c + 1, patch_values)
            self.patch_decoder.weight += slopes[:-1].T[..., None, None]
            self.patch_decoder.bias += slopes[-1]

    def _encode(self, image: Tensor) -> Tensor:
        moments = super()._encode(F.pixel_unshuffle(image, self.config.patch_size))
        mean, log_variance = moments.chunk(2, dim=1)
        mean = mean + self.patch_encoder(F.pixel_unshuffle(image, self.downsampling))
        return torch.cat([mean, log_variance], dim=1)

    def correct(self, latents: Tensor) -> Tensor:
        """Return what the convolutions add to the linear path: (B, c, h, w) -> (B, C · p², H / p, W / p)."""
        corrections: Tensor = super()._decode(latents, return_dict=False)[0]
        return corrections

    def paint(self, latents: Tensor, corrections: Tensor) -> Tensor:
        """Bring latents (B, c, h, w) and what ``correct`` gives to pixels, (B, C, H, W)."""
        image = F.pixel_shuffle(corrections, self.config.patch_size)
        image = image + F.pixel_shuffle(self.patch_decoder(latents), self.downsampling)
        return image if self.refine is None else image + self.refine(image)

    def _decode(self, latents: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        image = self.paint(latents, self.correct(latents))
        return DecoderOutput(sample=image) if return_dict else (image,)


def build_autoencoder(config: AutoencoderConfig, image_size: int) -> AutoencoderKL:
    """Make an untrained autoencoder (or anatomy controller: the same network) of that shape."""
    common = {
        "in_channels": config.image_channels,
        "out_channels": config.image_channels,
        "block_out_channels": config.block_out_channels,
        "layers_per_block": config.layers_per_block,
        "latent_channels": config.latent_channels,
        "norm_num_groups": config.norm_num_groups,
        "mid_block_add_attention": config.mid_attention,
        "sample_size": image_size,
    }
    if config.patch_size > 1:
        return PatchAutoencoderKL(patch_size=config.patch_size, refine_channels=config.refine_channels, **common)
    levels = len(config.block_out_channels)
    network = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels, **common
    )
    network.register_to_config(_pixel_range=UNIT_RANGE)
    return network


def downsampling(autoencoder: AutoencoderKL) -> int:
    """Return pixels per latent, f."""
    if isinstance(autoencoder, PatchAutoencoderKL):
        return autoencoder.downsampling
    return int(2 ** (len(autoencoder.config.block_out_channels) - 1))


def pixel_range(autoencoder: AutoencoderKL) -> tuple[float, float]:
    """Return which values of its tensors are black and white: ``_pixel_range`` of its configuration.

    diffusers keeps entries with a leading underscore that a network's ``__init__`` does not take, so that a plain
    ``AutoencoderKL`` can carry this one. Without it: −1 and 1, diffusers' own convention.
    """
    low, high = autoencoder.config.get("_pixel_range", DIFFUSERS_RANGE)
    return float(low), float(high)


def to_pixels(autoencoder: AutoencoderKL, image: Tensor) -> Tensor:
    """Bring images in [0, 1] to what the encoder eats; with other channels than its own, they are made grey first."""
    low, high = pixel_range(autoencoder)
    channels = autoencoder.config.in_channels
    plain = image if image.shape[1] == channels else grey(image)
    return plain.to(autoencoder.dtype).expand(-1, channels, -1, -1) * (high - low) + low


def grey(images: Tensor) -> Tensor:
    """Return the mean of the channels of images (B, 1 or 3, H, W), (B, 1, H, W)."""
    return images if images.shape[1] == 1 else images.mean(1, keepdim=True)


def from_pixels(autoencoder: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Bring what its decoder draws to float32 with black at 0 and white at 1; not clamped, channels as they are."""
    low, high = pixel_range(autoencoder)
    return (pixels.float() - low) / (high - low)


def encode_image(autoencoder: AutoencoderKL, image: Tensor, generators: list[torch.Generator] | None = None) -> Tensor:
    """Encode images to scaled latents.

    Args:
        autoencoder: any diffusers KL autoencoder; its configuration says in which range its pixels lie.
        image: (B, 1, H, W) in [0, 1], repeated for a network of three channels, or with the network's channels.
        generators: one per image to sample the posterior as the paper does; ``None`` takes its mode.

    Returns:
        latents (B, c, H / f, W / f), × the autoencoder's scaling factor.
    """
    posterior = autoencoder.encode(to_pixels(autoencoder, image)).latent_dist
    if generators is None:
        latents = posterior.mode()
    else:
        noise = torch.stack([torch.randn(posterior.mean.shape[1:], generator=g) for g in generators])
        latents = posterior.mean + posterior.std * noise.to(posterior.mean)
    return latents * autoencoder.config.scaling_factor


def decode_pixels(autoencoder: AutoencoderKL, latents: Tensor) -> Tensor:
    """Decode scaled latents (B, c, h, w) to float32 images (B, 1 or 3, H, W), clamped to [0, 1]."""
    pixels = autoencoder.decode((latents / autoencoder.config.scaling_factor).to(autoencoder.dtype)).sample
    return from_pixels(autoencoder, pixels).clamp(0, 1)


def decode_latents(autoencoder: AutoencoderKL, latents: Tensor) -> Tensor:
    """Decode scaled latents (B, c, h, w) to grey float32 images (B, 1, H, W) in [0, 1]: the mean of the channels."""
    return grey(decode_pixels(autoencoder, latents))


@torch.no_grad()
def channel_effects(autoencoder: AutoencoderKL, latents: Tensor, nudge: float = 0.1) -> Tensor:
    """Measure how much each latent channel moves pixels: root mean square change per unit of latent, (c,).

    Args:
        autoencoder: decodes.
        latents: scaled latents of a few real images, (B, c, h, w).
        nudge: size of the finite difference; its sign is random at each place, so that it is not only a shift.
    """
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, latents[:, :1].shape, generator=generator).to(latents) * 2 - 1
    decoded = decode_latents(autoencoder, latents)
    effects = []
    for channel in range(latents.shape[1]):
        nudged = latents.clone()
        nudged[:, channel : channel + 1] += nudge * signs
        effects.append((decode_latents(autoencoder, nudged) - decoded).square().mean().sqrt() / nudge)
    return torch.stack(effects)
