"""MONAI's residual U-Net in plain PyTorch: same layers, same names of weights, same start.

The segmenter runs at every `xreal generate`; importing MONAI for it takes longer than drawing the image.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["ResidualUNet"]


class ResidualUNet(nn.Module):
    """``monai.networks.nets.UNet`` of two dimensions with instance norm; every level but the last halves the size.

    Args:
        in_channels: of the images.
        out_channels: number of logits per pixel.
        channels: of each level.
        num_res_units: convolutions of each residual unit on the way down, at least one.
    """

    def __init__(self, in_channels: int, out_channels: int, channels: Sequence[int], num_res_units: int) -> None:
        super().__init__()
        self.model = _level(in_channels, out_channels, channels, num_res_units, top=True)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B, out_channels, H, W) of (B, in_channels, H, W); H and W are divisible by every stride."""
        logits: Tensor = self.model(image)
        return logits


def _level(inputs: int, outputs: int, channels: Sequence[int], units: int, top: bool = False) -> nn.Sequential:
    """Build a level around the next: inner first, as MONAI does, so that equal seeds give equal weights."""
    first, *rest = channels
    if len(rest) > 1:
        inner: nn.Module = _level(first, first, rest, units)
        joined = 2 * first
    else:
        inner = _ResidualUnit(first, rest[0], 1, units)
        joined = first + rest[0]
    down = _ResidualUnit(inputs, first, 2, units)
    up = nn.Sequential(_Convolution(joined, outputs, 2, up=True), _ResidualUnit(outputs, outputs, 1, 1, bare=top))
    return nn.Sequential(down, _SkipConnection(inner), up)


class _SkipConnection(nn.Module):
    def __init__(self, submodule: nn.Module) -> None:
        super().__init__()
        self.submodule = submodule

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.cat([hidden, self.submodule(hidden)], dim=1)


class _Convolution(nn.Sequential):
    """Convolution, and unless it is bare norm and activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, up: bool = False, bare: bool = False) -> None:
        super().__init__()
        if up:
            self.conv = nn.ConvTranspose2d(inputs, outputs, 3, stride, padding=1, output_padding=stride - 1)
        else:
            self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        if not bare:
            self.adn = nn.Sequential(OrderedDict(N=nn.InstanceNorm2d(outputs), A=nn.PReLU()))


class _ResidualUnit(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, units: int, bare: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential()
        for unit in range(units):
            last = unit == units - 1
            shape = (inputs, outputs, stride) if unit == 0 else (outputs, outputs, 1)
            self.conv.add_module(f"unit{unit}", _Convolution(*shape, bare=bare and last))
        self.residual: nn.Module = nn.Identity()
        if stride != 1:
            self.residual = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        elif inputs != outputs:
            self.residual = nn.Conv2d(inputs, outputs, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        result: Tensor = self.conv(hidden) + self.residual(hidden)
        return result
