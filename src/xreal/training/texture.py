"""Stage: the texture that a decoder leaves out; latents, and every network trained on them, stay as they are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from xreal.config import Preset
from xreal.models.autoencoder import decode_latents, downsampling, encode_image
from xreal.models.detail import DetailGenerator, with_lines
from xreal.models.precision import default_device
from xreal.models.texture import Texture
from xreal.training.autoencoder import AutoencoderStage
from xreal.training.decoder import disturbance
from xreal.training.stage import Loss

__all__ = ["TextureStage"]


class TextureStage(AutoencoderStage):
    """Likelihood of what the frozen autoencoder loses of X-rays, band by band, given what it returns."""

    name = "texture"

    def __init__(
        self,
        preset: Preset,
        data: Sequence[Path],
        autoencoder: AutoencoderKL,
        detail: DetailGenerator | None = None,
    ) -> None:
        """Take a trained autoencoder and, where there is one, what draws the detail that it leaves out."""
        self.autoencoder = autoencoder.eval().requires_grad_(False).to(default_device())
        self.detail = None if detail is None else detail.eval().requires_grad_(False).to(default_device())
        super().__init__(preset, data)
        self.networks = {self.name: self.networks["autoencoder"]}

    def _build(self) -> nn.Module:
        return Texture(tile=downsampling(self.autoencoder))

    def _pixels(self, image: Tensor) -> Tensor:
        return image

    @torch.no_grad()
    def _decoded(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Decode disturbed latents: what is lost of drawn X-rays is also what their latents do not say."""
        parts = []
        for part in images.split(8):
            latents = encode_image(self.autoencoder, part.to(self.autoencoder.device))
            latents = latents + disturbance(latents, self.preset.latent_errors, generator)
            decoded = decode_latents(self.autoencoder, latents)
            if self.detail is not None:
                (decoded,) = with_lines(self.detail, [decoded], downsampling(self.autoencoder))
            parts.append(decoded)
        return torch.cat(parts)

    def losses(self, batch: Tensor, step: int, generator: torch.Generator) -> Iterator[Loss]:
        """Yield the error of the log amplitudes."""
        network: Texture = self.networks["texture"]
        films = [generator] * len(batch)
        loss = network.loss(self._decoded(batch, generator), batch.to(self.device), films)
        yield Loss("texture", loss, {"loss": loss.item()})

    def validate(self) -> dict[str, float]:
        """Return the loss on validation images, and by how many dB each band is too strong, a mean over places."""
        network: Texture = self.network
        real = self.validation.image.to(self.device)
        decoded = self._decoded(real, torch.Generator().manual_seed(1))
        sizes = [network.sizes(network.bands(images)).mean((0, 2, 3)) for images in (self._textured(decoded), real)]
        excess = 20 / math.log(10) * (sizes[0] - sizes[1])[: network.config.grain_bands]
        generators = [torch.Generator().manual_seed(i) for i in range(len(real))]
        return {"validation_loss": network.loss(decoded, real, generators).item()} | {
            f"band_{band}_dB": float(value) for band, value in enumerate(excess)
        }

    def _textured(self, decoded: Tensor) -> Tensor:
        network: Texture = self.network
        generators = [torch.Generator().manual_seed(i) for i in range(len(decoded))]
        drawn: Tensor = network(decoded, network.film(decoded, generators))
        return drawn

    def sheet(self) -> list[list[np.ndarray]]:
        """Draw real X-rays, what is decoded of them, and that with texture."""
        real = self.validation.image[:: max(1, len(self.validation.image) // 4)][:4]
        decoded = self._decoded(real, torch.Generator().manual_seed(1))
        return [[image[0].cpu().numpy() for image in images] for images in (real, decoded, self._textured(decoded))]

    def export(self, folder: Path) -> None:
        """Write ``texture/``."""
        self.network.save_pretrained(folder / "texture")
