"""Pathology Controller: which finding, where, how strongly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LatentLesions", "lesions_to_latents", "regional_guidance"]


@dataclass(frozen=True)
class LatentLesions:
    """All lesions of a batch, one after another; K lesions.

    Attributes:
        embeds: of each finding's prompt, (K, L, d).
        masks: where each is, (K, 1, h, w) in [0, 1].
        weights: m_k (K, 1, h, w) in [0, 1], how much of its guidance acts: the masks, or less towards their borders.
        scales: w_k, guidance × strength, (K,).
        owners: which image each belongs to, (K,) int64.
        present: 1 where the finding is to be there, 0 where there is to be none, (K,).
    """

    embeds: Tensor
    masks: Tensor
    weights: Tensor
    scales: Tensor
    owners: Tensor
    present: Tensor

    @property
    def places(self) -> Tensor:
        """Where each finding is to be, (K, 1, h, w) in [0, 1]: 0 for what is to go."""
        return self.masks * self.present.view(-1, 1, 1, 1)

    @cached_property
    def strengths(self) -> Tensor:
        """Guidance of each finding where it acts, w_k · m_k (K, 1, h, w)."""
        return self.scales.view(-1, 1, 1, 1) * self.weights

    def union(self, images: int) -> Tensor:
        """Return per image where any of its lesions is, (images, 1, h, w): the largest of its masks."""
        nowhere = self.masks.new_zeros(images, *self.masks.shape[1:])
        owners = self.owners.view(-1, 1, 1, 1).expand_as(self.masks)
        return nowhere.scatter_reduce(0, owners, self.masks, "amax")


def lesions_to_latents(lesion_masks: Tensor, latent_size: tuple[int, int], binary: bool = False) -> Tensor:
    """Bring lesion masks (K, H, W) in [0, 1] to the latent grid, (K, 1, h, w).

    Args:
        lesion_masks: 1 = lesion.
        latent_size: (h, w).
        binary: 1 wherever a latent holds any lesion, as in the authors' procedure; else the covered share.
    """
    if binary:
        return F.adaptive_max_pool2d(lesion_masks[:, None], latent_size).gt(0).float()
    return F.adaptive_avg_pool2d(lesion_masks[:, None], latent_size)


def regional_guidance(unprompted: Tensor, prompted: Tensor, strengths: Tensor, owners: Tensor) -> Tensor:
    """Guide several findings at once, each in its own place: ε = ε_∅ + Σ_k w_k · m_k · (ε_k − ε_∅).

    Args:
        unprompted: ε_∅ (B, c, h, w).
        prompted: ε_k (K, c, h, w), of all findings of all images.
        strengths: w_k · m_k (K, 1, h, w), guidance where each finding is.
        owners: which image each finding belongs to, (K,) int64.

    Returns:
        (B, c, h, w)
    """
    # Indexing and index_add would share so few numbers out to all threads, and wait for the slowest.
    pull = torch.sub(prompted, unprompted.index_select(0, owners)).mul_(strengths)
    members = torch.arange(len(unprompted), device=owners.device)[:, None] == owners  # (B, K)
    return torch.addmm(unprompted.flatten(1), members.to(pull.dtype), pull.flatten(1)).view_as(unprompted)
