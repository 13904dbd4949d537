"""One call of the U-Net for a whole batch: all prompts, and what the model is told of the organs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xreal.control.pathology import LatentLesions, regional_guidance

__all__ = ["BoundDenoiser", "Denoiser"]


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

    def bind(self, count: int, lesions: LatentLesions | None = None, first: int = 0) -> BoundDenoiser:
        """Lay out, once for all steps, the rows that the network is given at each: all prompts in one call.

        Args:
            count: rows of latents, n · B; row r is of image r modulo B.
            lesions: guided where they are; those of image i act on row ``first + i``.
            first: see ``lesions``.
        """
        rows = torch.arange(count, device=self.prompts.device)
        embeds, owners = [self.prompts.repeat(count // len(self.prompts), 1, 1)], None
        if self.unprompted is not None:
            embeds.append(self.unprompted.expand(count, -1, -1))
        own = seen = rows.repeat(len(embeds))
        if lesions is not None:
            owners = lesions.owners + first
            embeds.append(lesions.embeds)
            seen = torch.cat([own, owners])
        known = self._known(own, owners)
        guidance = None if self.unprompted is None else self.guidance
        return BoundDenoiser(self.network, count, seen, torch.cat(embeds), known, guidance, lesions, owners)

    def _known(self, rows: Tensor, owners: Tensor | None = None) -> dict[str, Any]:
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


@dataclass(frozen=True)
class BoundDenoiser:
    """ε_θ of n · B rows of latents; a network call has these, again without prompt where prompts guide, and lesions.

    Attributes:
        network: as the ``Denoiser``'s.
        count: n · B.
        seen: which row of latents each row of the call sees, (R,) int64.
        embeds: its prompt, (R, L, d).
        known: what else the network is told, by the name of its argument.
        guidance: w of the X-rays' own prompts; None where they do not guide.
        lesions: guided, or None.
        owners: row of latents that each lesion acts on, (K,) int64; None without lesions.
    """

    network: Any
    count: int
    seen: Tensor
    embeds: Tensor
    known: dict[str, Any]
    guidance: float | None
    lesions: LatentLesions | None
    owners: Tensor | None

    def __call__(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """Predict for all prompts at once.

        Args:
            latents: (n · B, c, h, w), scaled as the solver wants.
            timestep: the solver's, a scalar.

        Returns:
            (n · B, c, h, w)
        """
        prediction = self._predict(latents.index_select(0, self.seen), timestep)
        prompted = predicted = prediction[: self.count]
        if self.lesions is not None and self.owners is not None:
            found = prediction[-len(self.owners) :]
            predicted = regional_guidance(prompted, found, self.lesions.strengths, self.owners)
        if self.guidance is not None:
            predicted = predicted + (self.guidance - 1) * (prompted - prediction[self.count : 2 * self.count])
        return predicted

    def _predict(self, latents: Tensor, timestep: Tensor) -> Tensor:
        # Lists anew at each call: diffusers empties those that it is given.
        known = {name: list(told) if isinstance(told, list) else told for name, told in self.known.items()}
        prediction: Tensor = self.network(latents, timestep, self.embeds, **known).sample
        return prediction
