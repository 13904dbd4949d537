"""One call of the U-Net for a whole batch: all prompts, and the organ masks where the model sees them at every call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xreal.control.pathology import LatentLesions, regional_guidance

__all__ = ["Denoiser"]


@dataclass(frozen=True)
class Denoiser:
    """ε_θ of a batch of B images.

    Attributes:
        network: the U-Net, or one that sees organs.
        prompt: embeddings of the X-ray's own prompt, (1, L, d).
        organ_mask: (B, H, W) uint8 ``Organ`` for a network that sees organs; else None.
    """

    network: Any
    prompt: Tensor
    organ_mask: Tensor | None = None

    def __call__(
        self, latents: Tensor, timestep: Tensor, lesions: LatentLesions | None = None, first: int = 0
    ) -> Tensor:
        """Predict for all prompts at once.

        Args:
            latents: (n · B, c, h, w), scaled as the solver wants; row r is of image r modulo B.
            timestep: the solver's, a scalar.
            lesions: guided where they are; those of image i act on ``latents[first + i]``.
            first: see ``lesions``.

        Returns:
            (n · B, c, h, w)
        """
        rows = torch.arange(len(latents), device=latents.device)
        embeds = self.prompt.expand(len(latents), -1, -1)
        if lesions is None:
            return self._predict(latents, timestep, embeds, rows)
        count, owners = len(latents), lesions.owners + first
        embeds = torch.cat([embeds, lesions.embeds])
        rows = torch.cat([rows, owners])
        predictions = self._predict(latents[rows], timestep, embeds, rows)
        return regional_guidance(predictions[:count], predictions[count:], lesions.masks, lesions.scales, owners)

    def _predict(self, latents: Tensor, timestep: Tensor, embeds: Tensor, rows: Tensor) -> Tensor:
        organs = {}
        if self.organ_mask is not None:
            organs["organ_mask"] = self.organ_mask[rows % len(self.organ_mask)]
        prediction: Tensor = self.network(latents, timestep, embeds, **organs).sample
        return prediction
