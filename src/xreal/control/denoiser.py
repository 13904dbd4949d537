"""One call of the U-Net for a whole batch: all prompts, and what the model is told of the organs."""

from __future__ import annotations

from collections.abc import Sequence
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
        prompts: embeddings of the X-rays' own prompts, (B, L, d).
        organ_mask: (B, H, W) uint8 ``Organ`` for a network that sees organs; else None.
        organ_features: what the anatomy adapter adds to each level of the encoder, [(B, c_i, h_i, w_i)], or nothing.
        lesion_features: the same for each of K lesions, told of its place too, [(K, c_i, h_i, w_i)].
        guidance: w of the X-rays' own prompts (classifier-free guidance, arXiv 2207.12598); 1 leaves them as they are.
        unprompted: embedding of no prompt, (L, d), from which they are guided away; None with guidance 1.
    """

    network: Any
    prompts: Tensor
    organ_mask: Tensor | None = None
    organ_features: Sequence[Tensor] = ()
    lesion_features: Sequence[Tensor] = ()
    guidance: float = 1.0
    unprompted: Tensor | None = None

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
        count, rows = len(latents), torch.arange(len(latents), device=latents.device)
        embeds, owners = [self.prompts.repeat(count // len(self.prompts), 1, 1)], None
        if self.unprompted is not None:
            embeds.append(self.unprompted.expand(count, -1, -1))
        own = seen = rows.repeat(len(embeds))
        if lesions is not None:
            owners = lesions.owners + first
            embeds.append(lesions.embeds)
            seen = torch.cat([own, owners])
        predictions = self._predict(latents[seen], timestep, torch.cat(embeds), self._masks(own, owners))
        prompted = predicted = predictions[:count]
        if lesions is not None:
            predicted = regional_guidance(prompted, predictions[len(own) :], lesions.weights, lesions.scales, owners)
        if self.unprompted is not None:
            predicted = predicted + (self.guidance - 1) * (prompted - predictions[count : 2 * count])
        return predicted

    def _masks(self, rows: Tensor, owners: Tensor | None = None) -> dict[str, Any]:
        """Tell rows of their images' organs, and the lesions that follow them, on rows ``owners``, of their places."""
        if self.organ_mask is not None:
            rows = rows if owners is None else torch.cat([rows, owners])
            return {"organ_mask": self.organ_mask[rows % len(self.organ_mask)]}
        if not self.organ_features:
            return {}
        features = [(level,) * (len(rows) // len(level)) for level in self.organ_features]
        if owners is not None:
            features = [(*own, of) for own, of in zip(features, self.lesion_features, strict=True)]
        return {"down_intrablock_additional_residuals": [torch.cat(level) for level in features]}

    def _predict(self, latents: Tensor, timestep: Tensor, embeds: Tensor, masks: dict[str, Any]) -> Tensor:
        prediction: Tensor = self.network(latents, timestep, embeds, **masks).sample
        return prediction
