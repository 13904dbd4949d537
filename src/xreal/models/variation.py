"""What X-rays of one organ mask differ in: exposure, build, arms, collimation; the Anatomy Controller draws a mean."""

from __future__ import annotations

import torch
from torch import Tensor

from xreal.errors import DataError
from xreal.models.gaussian import LatentGaussian

__all__ = ["AnatomyVariation", "fit_variation"]


class AnatomyVariation(LatentGaussian):
    """Gaussian of the latents of real X-rays about those of their masks' priors, in its principal components.

    A controller trained on the error per pixel draws one mean chest per mask: with it alone every X-ray of a mask has
    the same exposure and build, and a mean that, encoded, lies beside the X-rays' latents. What is drawn is to be added
    to a prior's scaled latents.
    """


@torch.no_grad()
def fit_variation(differences: Tensor, components: int) -> AnatomyVariation:
    """Learn from differences (N, c, h, w): scaled latents of X-rays less those of their masks' priors.

    Args:
        differences: of training images; more than ``components``.
        components: K, directions of largest variance.

    Raises:
        DataError: too few differences.
    """
    if len(differences) <= components:
        raise DataError(
            f"{len(differences)} training images with organ masks for {components} components; give more images"
        )
    variation = AnatomyVariation(components, differences.shape[1], differences.shape[-1])
    mean = differences.mean(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # svd_lowrank starts from random directions
        _, scales, directions = torch.svd_lowrank((differences - mean).flatten(1), q=2 * components, niter=8)
    scaled = directions.T[:components] * scales[:components, None] / (len(differences) - 1) ** 0.5
    signs = torch.ones_like(scaled[:, :1]).copysign(scaled.sum(1, keepdim=True))  # left open by the decomposition
    variation.mean.copy_(mean)
    variation.directions.copy_((scaled * signs).view_as(variation.directions))
    return variation
