"""One call of the U-Net for a whole batch: all prompts, and what the model is told of the organs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
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
        organ_features: what the anatomy adapter adds to each level of the encoder, [(B, c_i, h_i, w_i)], or nothing.
    """

    network: Any
    prompt: Tensor
    organ_mask: Tensor | None = None
    organ_features: Sequence[Tensor] = ()

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
            return self._predict(latents, timestep, embeds, self._organs(rows))
        count, owners = len(latents), lesions.owners + first
        embeds = torch.cat([embeds, lesions.embeds])
        rows = torch.cat([rows, owners])
        predictions = self._predict(latents[rows], timestep, embeds, self._organs(rows, lesions, first))
        return regional_guidance(predictions[:count], predictions[count:], lesions.masks, lesions.scales, owners)

    def _organs(self, rows: Tensor, lesions: LatentLesions | None = None, first: int = 0) -> dict[str, Any]:
        """Tell each row of its image's organs; rows from ``first`` on, which have lesions, not where these are."""
        if self.organ_mask is not None:
            return {"organ_mask": self.organ_mask[rows % len(self.organ_mask)]}
        if not self.organ_features:
            return {}
        features, images = self.organ_features, len(self.organ_features[0])
        rows = rows if lesions is None else rows % images + images * (rows >= first)
        if lesions is not None:
            heard = 1 - lesions.silent(images)
            features = [torch.cat([one, one * F.adaptive_avg_pool2d(heard, one.shape[-2:])]) for one in features]
        return {"down_intrablock_additional_residuals": [level[rows % len(level)] for level in features]}

    def _predict(self, latents: Tensor, timestep: Tensor, embeds: Tensor, organs: dict[str, Any]) -> Tensor:
        prediction: Tensor = self.network(latents, timestep, embeds, **organs).sample
        return prediction
