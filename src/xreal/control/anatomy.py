"""Anatomy Controller: organ mask -> prior image, and where and until which step it is kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from xreal.control.blending import per_step_strength
from xreal.errors import InputError
from xreal.models.autoencoder import from_pixels, to_pixels

__all__ = [
    "AnatomyBlend",
    "anatomy_keep_mask",
    "anatomy_keep_steps",
    "draw_prior",
    "organ_mask_to_pixels",
    "start_noise_scale",
]

_SURROUNDINGS = 1 / 16  # of the side: what lies so near to an organ begins with all of its noise


@dataclass(frozen=True)
class AnatomyBlend:
    """How strongly the prior is kept (METHOD, step 1; defaults are the paper's).

    Attributes:
        inside: strength inside the organs, per step of 100.
        outside: strength elsewhere, per step of 100.
        until: share of the steps, from the first, at which the prior is blended in.
        contour_until: the same along the organs' contours, if longer. A contour is what the mask asks for; what is
            within is the model's own, and the earlier it is let go, the more ribs and vessels it draws.
        variety: how far the prior is moved from the mean chest towards one of its own exposure and build, in standard
            deviations of X-rays of one mask; 0 is the mean chest, 1 as real ones differ. Needs a model that has
            learnt how they differ (``anatomy_variation``).
        adapter: how strongly the organ mask acts on the U-Net itself at every step; 0 not at all, as in the paper, 1 as
            trained. Needs a model with an ``anatomy_adapter``.
        outside_noise: deviation of the noise that a trajectory begins with away from the organs, 1 as in training.
            A little less draws arms, letters and borders of the film plainer, which a small model draws worst.
    """

    inside: float = 1.0
    outside: float = 0.2
    until: float = 0.5
    contour_until: float = 0.0
    variety: float = 0.0
    adapter: float = 0.0
    outside_noise: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("inside", "outside", "until", "contour_until", "outside_noise"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise InputError(f"anatomy blend {name} is {value}; expected 0 to 1")
        for name in ("variety", "adapter"):
            value = getattr(self, name)
            if not 0 <= value <= 2:
                raise InputError(f"anatomy blend {name} is {value}; expected 0 to 2")

    @property
    def keeps(self) -> bool:
        """Whether anything of the prior is kept at any step."""
        return max(self.inside, self.outside) > 0 and max(self.until, self.contour_until) > 0


def organ_mask_to_pixels(organ_mask: Tensor, channels: int = 1) -> Tensor:
    """Turn labels (B, H, W) into what the controller's encoder eats: label ÷ 4 in [0, 1], (B, channels, H, W)."""
    return organ_mask[:, None].float().div(4).expand(-1, channels, -1, -1)


def draw_prior(controller: AutoencoderKL, organ_mask: Tensor) -> Tensor:
    """Draw the X-ray that a mask suggests: x̂ = D_v(E_v(m_a)), mode of the encoder, clamped to [0, 1].

    Args:
        controller: E_v and D_v; its configuration says in which range its pixels lie.
        organ_mask: (B, H, W) uint8 ``Organ``.

    Returns:
        Prior images in [0, 1], (B, 1, H, W) or with the controller's channels.
    """
    pixels = to_pixels(controller, organ_mask_to_pixels(organ_mask).to(controller.device))
    return from_pixels(controller, controller.decode(controller.encode(pixels).latent_dist.mode()).sample).clamp(0, 1)


def anatomy_keep_mask(organ_mask: Tensor, latent_size: tuple[int, int], blend: AnatomyBlend, steps: int) -> Tensor:
    """Return the keep mask of one step (B, 1, h, w): ``inside`` on organs, ``outside`` elsewhere, by nearest neighbour.

    Args:
        organ_mask: (B, H, W) uint8 ``Organ``.
        latent_size: (h, w).
        blend: strengths per step of 100, converted to ``steps``.
        steps: of the solver.
    """
    organs = F.interpolate((organ_mask[:, None] > 0).float(), size=latent_size, mode="nearest-exact")
    inside, outside = (per_step_strength(strength, steps) for strength in (blend.inside, blend.outside))
    return outside + (inside - outside) * organs


def anatomy_keep_steps(organ_mask: Tensor, latent_size: tuple[int, int], blend: AnatomyBlend, steps: int) -> Tensor:
    """Return for how many of the first steps each latent is kept, (B, 1, h, w) float32.

    ``contour_until`` holds for latents that a contour's neighbourhood touches, one latent wide on either side;
    ``until`` for all others.

    Args:
        organ_mask: (B, H, W) uint8 ``Organ``.
        latent_size: (h, w).
        blend: shares of the steps.
        steps: of the solver.
    """
    labels = organ_mask[:, None].float()
    reach = organ_mask.shape[-1] // latent_size[-1]
    size = 2 * reach + 1
    highest, lowest = (_max_filter(sign * labels, size) for sign in (1, -1))
    contour = F.adaptive_max_pool2d((highest != -lowest).float(), latent_size)
    until = torch.where(contour > 0, max(blend.contour_until, blend.until), blend.until)
    return (until * steps).round()


def start_noise_scale(organ_mask: Tensor, latent_size: tuple[int, int], outside: float) -> Tensor:
    """Return what the noise that a trajectory begins with is multiplied by, (B, 1, h, w) in [``outside``, 1].

    Args:
        organ_mask: (B, H, W) uint8 ``Organ``; an image without organs keeps all of its noise.
        latent_size: (h, w).
        outside: the factor away from the organs, reached smoothly.
    """
    organs = F.adaptive_avg_pool2d((organ_mask[:, None] > 0).float(), latent_size)
    near = _max_filter(organs, 2 * round(_SURROUNDINGS * latent_size[-1]) + 1)
    scale = outside + (1 - outside) * F.avg_pool2d(near, 3, stride=1, padding=1, count_include_pad=False)
    return torch.where(organs.amax((1, 2, 3), keepdim=True) > 0, scale, 1.0)


def _max_filter(values: Tensor, size: int) -> Tensor:
    """Return the largest value around each pixel, size × size: along rows, then columns, which is the same, faster."""
    along_rows = F.max_pool2d(values, (1, size), stride=1, padding=(0, size // 2))
    return F.max_pool2d(along_rows, (size, 1), stride=1, padding=(size // 2, 0))
