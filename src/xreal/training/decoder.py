"""Stage: the decoder alone, for disturbed latents; latents, and every network trained on them, stay as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from xreal.config import Preset
from xreal.data.contract import collate
from xreal.models.autoencoder import PatchAutoencoderKL
from xreal.training.autoencoder import AutoencoderStage
from xreal.training.stage import Loss

__all__ = ["DecoderStage", "disturbance", "mean_tile"]


def disturbance(latents: Tensor, errors: Sequence[float], generator: torch.Generator) -> Tensor:
    """Draw what drawn latents are wrong by: noise of 0 to 1 times ``errors``, another share for each image.

    Args:
        latents: (B, c, h, w), of unit variance.
        errors: standard deviation of each channel's, or one of all.
        generator: of the shares and the noise.
    """
    noise = torch.randn(latents.shape, generator=generator)
    share = torch.rand(len(latents), 1, 1, 1, generator=generator)
    return (share * torch.tensor(errors).view(-1, 1, 1) * noise).to(latents)


def mean_tile(images: Tensor, side: int) -> Tensor:
    """Average (B, C, H, W) over its tiles of ``side`` pixels, (B, C, side, side): what is not 0 in it is a grid."""
    batch, channels, height, width = images.shape
    return images.reshape(batch, channels, height // side, side, width // side, side).mean((2, 4))


class DecoderStage(AutoencoderStage):
    """Reconstruction from the frozen encoder's latents, which are disturbed a little, as drawn ones are.

    With a patch discriminator, where the preset asks for one, the decoder also draws some of what latents do not say;
    without, that is left to the stage ``texture``.
    """

    name = "decoder"
    adversarial_weight = 0.02  # pix2pix (arXiv 1611.07004) weighs L1 100 times; twice as much texture here
    grid_weight = 3.0  # the mean tile's error is a tenth of a pixel's, and seen all the more
    refit_images = 150

    def __init__(self, preset: Preset, data: Sequence[Path], autoencoder: AutoencoderKL) -> None:
        """Take a trained autoencoder, its ``scaling_factor`` set."""
        self.autoencoder = autoencoder
        super().__init__(preset, data)

    def _build(self) -> AutoencoderKL:
        network = self.autoencoder.train()
        wanted = self.preset.autoencoder.refine_channels
        if wanted > 0 and isinstance(network, PatchAutoencoderKL) and network.refine is None:
            network.add_refinement(wanted)
        for name, part in network.named_children():
            if name in ("encoder", "quant_conv", "patch_encoder"):
                part.requires_grad_(False)
        return network

    def losses(self, batch: Tensor, step: int, generator: torch.Generator) -> Iterator[Loss]:
        """Yield the decoder's loss, then the discriminator's."""
        autoencoder = self.networks["autoencoder"]
        target = batch.to(next(autoencoder.parameters()).device)
        with torch.no_grad(), self.autocast():
            latents = autoencoder.encode(target).latent_dist.mode()
        error = disturbance(latents, self.preset.latent_errors, generator) / autoencoder.config.scaling_factor
        with self.autocast():
            output = autoencoder.decode(latents + error).sample.float()
        adversarial = 0 <= self.config.adversarial_from <= step
        loss, parts = self.reconstruction.generator_terms(output, target, adversarial)
        if isinstance(autoencoder, PatchAutoencoderKL):
            grid = mean_tile(output - target, autoencoder.downsampling).abs().mean()
            loss, parts = loss + self.grid_weight * grid, parts | {"grid": grid.item()}
        yield Loss("autoencoder", loss, parts)
        if adversarial:
            yield self.reconstruction.discriminator_loss(output, target)

    def _refit(self, network: PatchAutoencoderKL) -> None:
        stride = max(1, len(self.train_data) // self.refit_images)
        image = collate([self.train_data[i] for i in range(0, len(self.train_data), stride)]).image
        pixels = self._pixels(image).to(next(network.parameters()).device)
        generator = torch.Generator().manual_seed(self.config.seed)
        parts = []
        for part in pixels.split(16):
            latents = network.encode(part).latent_dist.mode()
            error = disturbance(latents, self.preset.latent_errors, generator)
            parts.append(latents + error / network.config.scaling_factor)
        network.refit(torch.cat(parts), pixels)

    def export(self, folder: Path) -> None:
        """Write ``vae/``; the latents' scale is the one that the backbone was trained on."""
        if isinstance(self.network, PatchAutoencoderKL):
            self._refit(self.network)
        self.network.register_to_config(_name_or_path="")  # where the autoencoder lay is nobody's business
        self.network.save_pretrained(folder / "vae")
