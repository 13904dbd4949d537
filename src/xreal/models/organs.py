"""Denoisers that see the organ mask: steered by an adapter or a ControlNet, or with the mask in their input."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel
from torch import Tensor, nn

from xreal.errors import ModelError
from xreal.vocabulary import Organ

__all__ = [
    "ADAPTER_PLANES",
    "ORGAN_CHANNELS",
    "AdaptedUNet",
    "ControlledUNet",
    "adapter_features",
    "build_adapter",
    "build_controlnet",
    "knows_lesions",
    "organ_planes",
    "sees_organs",
]

_ORGANS = tuple(organ for organ in Organ if organ != Organ.BACKGROUND)
ORGAN_CHANNELS = len(_ORGANS)
ADAPTER_PLANES = ORGAN_CHANNELS + 1
_HINT_CHANNELS = (16, 32, 64, 96, 256, 256)  # of the hint, layer by layer; each but the first halves its size


def organ_planes(organ_mask: Tensor) -> Tensor:
    """Turn labels (B, H, W) into one plane per organ, (B, 4, H, W) float32, 1 where the organ is."""
    return torch.stack([(organ_mask == organ.value).float() for organ in _ORGANS], dim=1)


def build_adapter(unet: UNet2DConditionModel, downsampling: int) -> T2IAdapter:
    """Make an untrained T2I-Adapter (arXiv 2302.08453) for a U-Net: organs and lesions -> what its encoder adds.

    It sees masks alone, neither latents nor timestep, and so is called once for an image, not at every step: one plane
    per organ, and one for where the finding is that the prompt names.

    Args:
        unet: trained.
        downsampling: pixels per latent, f.
    """
    factor = downsampling * unet.config.get("patch_size", 1)
    adapter = T2IAdapter(
        in_channels=ADAPTER_PLANES,
        channels=list(unet.config.block_out_channels),
        num_res_blocks=2,
        downscale_factor=factor,
    )
    # Data without places of findings teach nothing about the last plane: it then says nothing.
    torch.nn.init.zeros_(adapter.adapter.conv_in.weight[:, -(factor**2) :])
    return adapter


def knows_lesions(adapter: T2IAdapter) -> bool:
    """Return whether an adapter has learnt what to say of a finding's place: the data that taught it had some."""
    weight = adapter.adapter.conv_in.weight
    return bool(weight[:, -(weight.shape[1] // ADAPTER_PLANES) :].any())


def adapter_features(
    adapter: T2IAdapter, unet: UNet2DConditionModel, organ_mask: Tensor, lesions: Tensor | None = None
) -> list[Tensor]:
    """Return what an adapter adds to each level of a U-Net's encoder, [(B, c_i, h_i, w_i)].

    Args:
        adapter: of ``build_adapter``.
        unet: that it was made for.
        organ_mask: (B, H, W) uint8 ``Organ``, where the adapter is.
        lesions: where the finding is that the prompt names, (B, 1, h, w) in [0, 1] on the latent grid; None: nowhere.

    Returns:
        0 for an image that has neither organs nor lesion: it is drawn as without an adapter.

    Raises:
        ModelError: an adapter of other planes.
    """
    if adapter.config.in_channels != ADAPTER_PLANES:
        raise ModelError(
            f"anatomy_adapter takes {adapter.config.in_channels} planes, expected {ADAPTER_PLANES}: one per organ and "
            "one for lesions; train it again with `xreal train adapter`"
        )
    organs = organ_planes(organ_mask)
    lesions = torch.zeros_like(organs[:, :1]) if lesions is None else lesions.to(organs)
    planes = torch.cat([organs, F.interpolate(lesions, organs.shape[-2:])], 1)
    told = planes.flatten(1).amax(1).gt(0).view(-1, 1, 1, 1)
    features = [one * told for one in adapter(planes)]
    return [_fitted(one, block) for one, block in zip(features, unet.down_blocks, strict=True)]


def _fitted(features: Tensor, block: Any) -> Tensor:
    """Halve what diffusers adds behind a block instead of in it: where that does not attend, and downsamples."""
    behind = not getattr(block, "has_cross_attention", False) and block.downsamplers is not None
    return F.avg_pool2d(features, 2) if behind else features


class AdaptedUNet(nn.Module):
    """A U-Net and its adapter as one network, called as a U-Net that knows organs: what training needs."""

    def __init__(self, unet: UNet2DConditionModel, adapter: T2IAdapter) -> None:
        super().__init__()
        self.unet, self.adapter = unet, adapter

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        organ_mask: Tensor | None = None,
        lesions: Tensor | None = None,
    ) -> Any:
        """Predict from latents (B, c, h, w), organ masks (B, H, W) and lesions (B, 1, h, w) in [0, 1]."""
        added = None if organ_mask is None else adapter_features(self.adapter, self.unet, organ_mask, lesions)
        return self.unet(sample, timestep, encoder_hidden_states, down_intrablock_additional_residuals=added)


def build_controlnet(unet: UNet2DConditionModel, downsampling: int) -> ControlNetModel:
    """Make an untrained ControlNet (arXiv 2302.05543) for a U-Net: a copy of its encoder that also sees organ masks.

    It is diffusers' own network and works on what the U-Net's convolutions see: for a U-Net on patches of latents, the
    patches. Its residuals start at zero.

    Args:
        unet: trained.
        downsampling: pixels per latent, f.
    """
    halvings = round(math.log2(downsampling * unet.config.get("patch_size", 1)))
    shared = inspect.signature(ControlNetModel.__init__).parameters.keys() & unet.config.keys()
    settings = {name: unet.config[name] for name in sorted(shared)}
    settings |= {
        "in_channels": unet.conv_in.in_channels,
        "conditioning_channels": ORGAN_CHANNELS,
        "conditioning_embedding_out_channels": _HINT_CHANNELS[: halvings + 1],
    }
    network = ControlNetModel(**settings)
    own = network.state_dict()
    network.load_state_dict({key: value for key, value in unet.state_dict().items() if key in own}, strict=False)
    return network


class ControlledUNet(nn.Module):
    """A U-Net and its ControlNet as one network, called as a U-Net that knows organs."""

    def __init__(self, unet: UNet2DConditionModel, controlnet: ControlNetModel) -> None:
        super().__init__()
        self.unet, self.controlnet = unet, controlnet

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, organ_mask: Tensor | None = None
    ) -> Any:
        """Predict from latents (B, c, h, w); without organ mask (B, H, W) as the U-Net alone."""
        if organ_mask is None:
            return self.unet(sample, timestep, encoder_hidden_states)
        down, middle = self.controlnet(
            F.pixel_unshuffle(sample, self.unet.config.get("patch_size", 1)),
            timestep,
            encoder_hidden_states,
            controlnet_cond=organ_planes(organ_mask).to(sample),
            return_dict=False,
        )
        return self.unet(
            sample,
            timestep,
            encoder_hidden_states,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        )


def sees_organs(denoiser: nn.Module) -> bool:
    """Return whether a U-Net takes the organ mask at every call."""
    return isinstance(denoiser, ControlledUNet) or bool(denoiser.config.get("organ_channels", 0))
