"""The text-to-latents diffusion model: U-Net, noise schedule, training target and weight."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn

from xreal.config import BackboneConfig, Preset
from xreal.models.configuration import OwnConfigMixin
from xreal.models.organs import organ_planes

__all__ = ["Backbone", "PatchUNet2DConditionModel", "build_scheduler", "build_unet", "loss_weight", "training_target"]


class PatchUNet2DConditionModel(OwnConfigMixin, UNet2DConditionModel):
    """U-Net that works on patches of latents: ``patch_size``² latents become channels, and back at the end.

    At f = 8 and 256 pixels the costly 32×32 level goes; masks and blending still see every latent. The prompt also
    reaches every layer through the time embedding (``addition_embed_type="text"``), which learns from few images what
    cross-attention alone does not.

    With ``organ_channels`` it is the paper's baseline of concatenation: the organ mask, on the latent grid, is part of
    the input.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 32,
        in_channels: int = 4,
        out_channels: int = 4,
        patch_size: int = 2,
        down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types: tuple[str, ...] = ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels: tuple[int, ...] = (128, 192),
        layers_per_block: int = 1,
        attention_head_dim: int = 4,
        cross_attention_dim: int = 192,
        norm_num_groups: int = 16,
        addition_embed_type: str | None = "text",
        addition_embed_type_num_heads: int = 4,
        organ_channels: int = 0,
    ) -> None:
        super().__init__(
            sample_size=sample_size // patch_size,
            in_channels=(in_channels + organ_channels) * patch_size**2,
            out_channels=out_channels * patch_size**2,
            down_block_types=down_block_types,
            up_block_types=up_block_types,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            attention_head_dim=attention_head_dim,
            cross_attention_dim=cross_attention_dim,
            norm_num_groups=norm_num_groups,
            addition_embed_type=addition_embed_type,
            addition_embed_type_num_heads=addition_embed_type_num_heads,
        )
        # The parent registered what its convolutions see; the configuration states what the caller sees.
        self.register_to_config(sample_size=sample_size, in_channels=in_channels, out_channels=out_channels)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        return_dict: bool = True,
        organ_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> UNet2DConditionOutput | tuple[Tensor]:
        """Predict from latents (B, c, h, w); h and w are multiples of ``patch_size``.

        Args:
            sample: noisy latents.
            timestep: one, or one per sample.
            encoder_hidden_states: prompt embeddings, (B, L, d).
            return_dict: return an object instead of a tuple.
            organ_mask: (B, H, W) uint8 ``Organ``, for a network with ``organ_channels``; None: no organ anywhere.
            kwargs: what else diffusers' U-Net takes.
        """
        patch_size = self.config.patch_size
        if self.config.organ_channels:
            planes = sample.new_zeros(len(sample), self.config.organ_channels, *sample.shape[-2:])
            if organ_mask is not None:
                planes = F.adaptive_avg_pool2d(organ_planes(organ_mask).to(planes), planes.shape[-2:])
            sample = torch.cat([sample, planes], dim=1)
        patches = F.pixel_unshuffle(sample, patch_size)
        prediction = super().forward(patches, timestep, encoder_hidden_states, return_dict=False, **kwargs)[0]
        prediction = F.pixel_shuffle(prediction, patch_size)
        return UNet2DConditionOutput(sample=prediction) if return_dict else (prediction,)


class Backbone(nn.Module):
    """U-Net and text encoder as the one network that a training step calls."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, noisy: Tensor, timesteps: Tensor, input_ids: Tensor, **masks: Tensor) -> Tensor:
        """Predict the target from noisy latents (B, c, h, w), timesteps (B,) and token numbers (B, L).

        A U-Net that knows organs takes ``organ_mask`` too, (B, H, W) uint8 ``Organ``, and with an adapter ``lesions``.
        """
        embeds = self.text_encoder(input_ids, return_dict=False)[0]
        prediction: Tensor = self.unet(noisy, timesteps, embeds, **masks).sample
        return prediction


def build_unet(preset: Preset, organ_channels: int = 0) -> UNet2DConditionModel:
    """Make an untrained U-Net with cross-attention; with ``organ_channels``, one that takes the organ mask."""
    config = preset.backbone
    down = ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in config.attention]
    up = ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(config.attention)]
    network = UNet2DConditionModel
    extra: dict[str, Any] = {}
    if config.patch_size > 1 or organ_channels:
        network = PatchUNet2DConditionModel
        extra = {"patch_size": config.patch_size, "organ_channels": organ_channels}
        if config.patch_size == 1:
            extra["addition_embed_type"] = None  # as the plain U-Net of such a preset
    return network(
        sample_size=preset.image_size // preset.autoencoder.downsampling,
        in_channels=preset.autoencoder.latent_channels,
        out_channels=preset.autoencoder.latent_channels,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        attention_head_dim=config.heads,  # diffusers' name; the number of heads
        cross_attention_dim=preset.text_encoder.width,
        norm_num_groups=config.norm_num_groups,
        **extra,
    )


def build_scheduler(config: BackboneConfig) -> DDIMScheduler:
    """Make the noise schedule, set so that DDIM takes the authors' timesteps (1, 11, …, 991 for 100 steps)."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule="scaled_linear",
        prediction_type=config.prediction_type,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )


def training_target(scheduler: DDIMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return what the U-Net is to predict."""
    kind: Literal["epsilon", "v_prediction"] = scheduler.config.prediction_type
    return noise if kind == "epsilon" else scheduler.get_velocity(latents, noise, timesteps)


def loss_weight(scheduler: DDIMScheduler, timesteps: Tensor, gamma: float) -> Tensor:
    """Return min-SNR-γ weights (B,) of the squared error (arXiv 2303.09556, eq. 5 and its v form); γ = 0: all 1."""
    if gamma == 0:
        return torch.ones_like(timesteps, dtype=torch.float32)
    alpha = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    snr = alpha / (1 - alpha)
    denominator = snr if scheduler.config.prediction_type == "epsilon" else snr + 1
    return snr.clamp_max(gamma) / denominator
