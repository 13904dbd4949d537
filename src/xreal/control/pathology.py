"""Pathology Controller: which finding, where, how strongly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from xreal.vocabulary import Finding

__all__ = ["LatentLesions", "lesions_to_latents", "regional_guidance", "silences"]


@dataclass(frozen=True)
class LatentLesions:
    """All lesions of a batch, one after another; K lesions.

    Attributes:
        embeds: of each finding's prompt, (K, L, d).
        masks: m_k (K, 1, h, w) in [0, 1].
        scales: w_k, guidance × strength, (K,).
        owners: which image each belongs to, (K,) int64.
        silences: how far an organ mask, which tells of a healthy lung, is silent there, (K,) in [0, 1].
    """

    embeds: Tensor
    masks: Tensor
    scales: Tensor
    owners: Tensor
    silences: Tensor

    def union(self, images: int) -> Tensor:
        """Return per image where any of its lesions is, (images, 1, h, w): the largest of its masks."""
        return self._largest(self.masks, images)

    def silent(self, images: int) -> Tensor:
        """Return per image how far an organ mask is silent, (images, 1, h, w) in [0, 1]."""
        return self._largest(self.masks * self.silences.view(-1, 1, 1, 1), images)

    def _largest(self, values: Tensor, images: int) -> Tensor:
        nowhere = values.new_zeros(images, *values.shape[1:])
        owners = self.owners.view(-1, 1, 1, 1).expand_as(values)
        return nowhere.scatter_reduce(0, owners, values, "amax")


def silences(findings: Sequence[Finding], scales: Tensor) -> Tensor:
    """Return how far an organ mask is silent in each lesion, (K,): min(w_k, 1), and 0 for ``Finding.NO_FINDING``.

    Wholly where the finding's own prompt counts for as much as without guidance, w_k = 1, or more; not at all where a
    lesion has no strength, nor where a healthy lung is what is asked for.
    """
    healthy = torch.tensor([finding is Finding.NO_FINDING for finding in findings], device=scales.device)
    return scales.clamp(max=1).masked_fill(healthy, 0)


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


def regional_guidance(unprompted: Tensor, prompted: Tensor, masks: Tensor, scales: Tensor, owners: Tensor) -> Tensor:
    """Guide several findings at once, each in its own place: ε = ε_∅ + Σ_k w_k · m_k · (ε_k − ε_∅).

    Args:
        unprompted: ε_∅ (B, c, h, w).
        prompted: ε_k (K, c, h, w), of all findings of all images.
        masks: m_k (K, 1, h, w) in [0, 1].
        scales: w_k (K,).
        owners: which image each finding belongs to, (K,) int64.

    Returns:
        (B, c, h, w)
    """
    pull = scales.view(-1, 1, 1, 1) * masks * (prompted - unprompted[owners])
    return unprompted.index_add(0, owners, pull)
