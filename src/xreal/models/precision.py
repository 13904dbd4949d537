"""Which number format computes fast on this machine."""

from __future__ import annotations

import torch

__all__ = ["default_device", "device_of", "fast_dtype"]


def default_device() -> torch.device:
    """Return the first CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of(network: torch.nn.Module) -> torch.device:
    """Return where a network's weights lie; diffusers' own ``device`` looks through every layer, for milliseconds."""
    return next(network.parameters()).device


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the hardware multiplies it, else float32.

    On a CPU without bfloat16 instructions (AVX2 only) the emulation is about 100 times slower than float32.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32
