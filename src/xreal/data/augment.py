"""Paired changes of geometry for images and organ masks, and changes of intensity for images.

Never a mirror image: heart, stomach bubble and burnt-in letters have a side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["STILL_EDGES", "random_affine", "random_intensity"]

STILL_EDGES = 0.25
"""How far from the edges, as a share of the side, copies that a generator learns from begin to stand still."""


def _uniform(low: float, high: float, size: int, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(size, generator=generator)


def random_affine(
    image: Tensor,
    generator: torch.Generator,
    organ_mask: Tensor | None = None,
    degrees: float = 4.0,
    zoom: float = 0.06,
    shift: float = 0.03,
    bend: float = 0.0,
    edges: float = 0.0,
) -> tuple[Tensor, Tensor | None]:
    """Turn, zoom, shift and bend each image and its organ mask alike.

    Args:
        image: (B, 1, H, W), of any range; cubic interpolation leaves none.
        generator: source of the random numbers, on the CPU, wherever the image is.
        organ_mask: (B, H, W) uint8, beside the image; sampled by nearest neighbour, the image by cubic interpolation,
            which keeps detail.
        degrees: largest rotation.
        zoom: largest relative change of height and of width.
        shift: largest shift as a share of the side.
        bend: largest displacement of a smooth 5×5 deformation field, as a share of the side.
        edges: within this share of the side from its edges the image moves the less, the nearer, and at the edge not at
            all: frames and letters of the film stay as they are. At 0 all moves alike, and what comes from beyond the
            edge is mirrored, which a generator would learn to draw.

    Returns:
        Image and mask of the same shapes.
    """
    batch = len(image)
    angle = torch.deg2rad(_uniform(-degrees, degrees, batch, generator))
    scale_x, scale_y = (1 + _uniform(-zoom, zoom, batch, generator) for _ in range(2))
    shift_x, shift_y = (2 * _uniform(-shift, shift, batch, generator) for _ in range(2))
    theta = torch.stack(
        [
            torch.stack([scale_x * angle.cos(), -scale_y * angle.sin(), shift_x], 1),
            torch.stack([scale_x * angle.sin(), scale_y * angle.cos(), shift_y], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    if bend > 0:
        coarse = 2 * bend * (2 * torch.rand(batch, 2, 5, 5, generator=generator) - 1)
        field = F.interpolate(coarse, size=image.shape[-2:], mode="bicubic", align_corners=True)
        grid = grid + field.movedim(1, -1)
    if edges > 0:
        still = F.affine_grid(torch.eye(2, 3)[None], [1, *image.shape[1:]], align_corners=False)
        inwards = ((1 - still.abs().amax(-1, keepdim=True)) / (2 * edges)).clamp(max=1)
        grid = still + inwards * (grid - still)
    grid = grid.to(image.device)
    moved = F.grid_sample(image, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    moved = moved.clamp(image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True))
    if organ_mask is None:
        return moved, None
    labels = F.grid_sample(
        organ_mask[:, None].float(), grid, mode="nearest", padding_mode="reflection", align_corners=False
    )
    return moved, labels[:, 0].to(organ_mask.dtype)


def random_intensity(image: Tensor, generator: torch.Generator) -> Tensor:
    """Vary what differs between X-ray sources: gamma, contrast, uneven exposure, blur, noise, opacities, black borders.

    Args:
        image: (B, 1, H, W) in [0, 1].
        generator: source of the random numbers, on the CPU.
    """
    batch, _, height, width = image.shape

    def per_image(low: float, high: float) -> Tensor:
        return _uniform(low, high, batch, generator).view(-1, 1, 1, 1)

    def sometimes(share: float) -> Tensor:
        return (torch.rand(batch, 1, 1, 1, generator=generator) < share).float()

    def smooth_field(cells: int) -> Tensor:
        coarse = torch.rand(batch, 1, cells, cells, generator=generator)
        return F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)

    image = image.clamp(0, 1) ** torch.exp(per_image(-0.6, 0.6))
    image = image * per_image(0.6, 1.3) + per_image(-0.1, 0.2)
    image = image + per_image(0.0, 0.35) * (smooth_field(3) - 0.5)
    blotch = (smooth_field(6) - 0.62).clamp_min(0) * per_image(0.0, 2.5) * sometimes(0.5)
    image = image + blotch  # opacities: the organ is there although it is white
    blurred = F.avg_pool2d(image, 3, stride=1, padding=1)
    image = torch.lerp(image, blurred, sometimes(0.4) * per_image(0.0, 1.0))
    image = image + per_image(0.0, 0.05) * torch.randn(image.shape, generator=generator)
    rows, columns = torch.arange(height).view(1, 1, -1, 1), torch.arange(width).view(1, 1, 1, -1)
    border = per_image(0.0, 0.08) * sometimes(0.4)
    inside = (rows >= border * height) & (columns >= border * width) & (columns < (1 - border) * width)
    return (image * inside).clamp(0, 1)
