"""A judge of latents, which looks at them through a frozen U-Net: it teaches another and is then thrown away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor, nn

__all__ = ["LatentJudge", "unet_features"]

_SLOPE = 0.2  # of what is negative


def _conv(inputs: int, outputs: int, side: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, padding_mode="replicate")


def unet_features(unet: UNet2DConditionModel, *args: Any, **known: Any) -> list[Tensor]:
    """Call a U-Net and return what its first layer and each of its blocks make of the latents, (B, c_i, h_i, w_i)."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    parts = [unet.conv_in, *unet.down_blocks, unet.mid_block, *unet.up_blocks]
    hooks = [part.register_forward_hook(keep) for part in parts]
    try:
        unet(*args, **known)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


class LatentJudge(nn.Module):
    """Scores places of noisy latents by how real they are.

    One head looks at the latents, the others at what each block of a trained denoiser makes of them, which knows prompt
    and organs (arXiv 2403.12015).
    """

    def __init__(self, latent_channels: int, features: Sequence[Tensor], width: int = 64) -> None:
        """Make an untrained judge.

        Args:
            latent_channels: c.
            features: of real latents, by whose mean and deviation each channel is measured.
            width: of the heads.
        """
        super().__init__()
        for number, level in enumerate(features):
            self.register_buffer(f"mean_{number}", level.mean((0, 2, 3), keepdim=True).float())
            self.register_buffer(f"scale_{number}", level.float().std((0, 2, 3), keepdim=True).clamp_min(1e-3))
        slope = nn.LeakyReLU(_SLOPE)
        self.heads = nn.ModuleList(
            nn.Sequential(
                _conv(level.shape[1], width, 1), slope, _conv(width, width), slope, _conv(width, width), slope,
                _conv(width, 1),
            )
            for level in features
        )  # fmt: skip
        wide = 2 * width
        self.plain = nn.Sequential(
            _conv(latent_channels, width), slope, _conv(width, width), slope, _conv(width, wide, stride=2), slope,
            _conv(wide, wide), slope, _conv(wide, wide, stride=2), slope, _conv(wide, wide), slope, _conv(wide, 1),
        )  # fmt: skip

    def forward(self, latents: Tensor, features: Sequence[Tensor]) -> list[Tensor]:
        """Score noisy latents (B, c, h, w) and their features: (B, places) for each head, the higher, the more real."""
        scores = [self.plain(latents).flatten(1)]
        for number, (head, level) in enumerate(zip(self.heads, features, strict=True)):
            mean, scale = getattr(self, f"mean_{number}"), getattr(self, f"scale_{number}")
            scores.append(head((level - mean) / scale).flatten(1))
        return [one.float() for one in scores]
