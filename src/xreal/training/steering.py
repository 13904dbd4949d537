"""Stages that steer a diffusion model by organ masks: the adapter, and the paper's baseline, ControlNet."""

from __future__ import annotations

import abc
import copy
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from xreal.config import Preset
from xreal.control.anatomy import start_noise_scale
from xreal.errors import TrainingError
from xreal.inputs import default_blend
from xreal.models.adopt import adopt
from xreal.models.autoencoder import downsampling
from xreal.models.backbone import Backbone
from xreal.models.folder import load_components, save_component, start_from
from xreal.models.organs import AdaptedUNet, ControlledUNet, adapter_features, build_adapter, build_controlnet
from xreal.models.precision import default_device, fast_dtype
from xreal.training.backbone import BackboneStage, LatentBatch

__all__ = ["AdapterStage", "ControlNetStage", "JointStage", "Known", "UNetStage"]


class _SteeringStage(BackboneStage):
    """A frozen model and, trained on its own loss, a network that tells it where the organs are.

    Attributes:
        component: of the model folder, in which the trained network is kept.
        carried: components beside the diffusion model that a new model folder gets from the one it starts with.
    """

    sees_organs = True
    component: ClassVar[str]
    carried: ClassVar[tuple[str, ...]] = ("segmenter", "signal_leak", "detail", "texture")

    def __init__(self, preset: Preset, data: Sequence[Path], start: Path, cache: Path) -> None:
        """Open the model that is to be steered.

        Args:
            preset: length of the stage; sizes are the model's own.
            data: prepared folders, at the model's image size.
            start: model folder, ours or of another latent text-to-image pipeline.
            cache: folder for the encoded latents.

        Raises:
            TrainingError: the data have another image size than the model.
        """
        self.start = start
        loaded = load_components(start, self.carried)
        self.components = {name: loaded[name] for name in self.carried if name in loaded} | adopt(loaded)
        super().__init__(preset, data, self.components["vae"], cache)
        side, wanted = self.validation_latents.shape[-1], self.components["unet"].config.sample_size
        if side != wanted:
            factor = downsampling(self.components["vae"])
            raise TrainingError(
                f"{start} draws {wanted * factor} pixels a side, the data have {side * factor}; "
                f"run `xreal prepare --image-size {wanted * factor}`"
            )

    @abc.abstractmethod
    def _steer(self, unet: UNet2DConditionModel) -> tuple[nn.Module, nn.Module]:
        """Return the steered U-Net and, in it, the network that is trained."""

    def _tokenizer(self, kept: Path, start: Path | None) -> PreTrainedTokenizerBase:
        tokenizer = self.components["tokenizer"]
        longest = self.components["text_encoder"].config.max_position_embeddings
        tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
        return tokenizer

    def _schedule(self) -> DDIMScheduler:
        return self.components["scheduler"]

    def _build(self, start: Path | None) -> Backbone:
        unet, text_encoder = (self.components[name].requires_grad_(False) for name in ("unet", "text_encoder"))
        steered, self.steering = self._steer(unet)
        self.steering.train()
        return Backbone(steered, text_encoder)

    def averaged(self) -> Iterator[nn.Parameter]:
        """Return what is averaged: nothing of the frozen model."""
        return self.steering.parameters()

    def export(self, folder: Path) -> None:
        """Write the trained network and, once, the model that it steers."""
        save_component(self.steering, folder / self.component)
        for name, component in self.components.items():
            if not (folder / name).is_dir():
                save_component(component, folder / name)


class AdapterStage(_SteeringStage):
    """T2I-Adapter (arXiv 2302.08453): trained, a small network that adds what it sees in a mask to the encoder."""

    name = "adapter"
    sees_lesions = True
    organ_dropout = 0.1  # so that it can place findings where no organs are given
    component = "anatomy_adapter"
    carried = ("segmenter", "anatomy_controller", "anatomy_variation", "signal_leak", "detail", "texture")

    def _steer(self, unet: UNet2DConditionModel) -> tuple[nn.Module, nn.Module]:
        adapter = build_adapter(unet, downsampling(self.autoencoder))
        start_from(adapter, self.start / self.component, widened=("adapter.conv_in.weight",))
        return AdaptedUNet(unet, adapter), adapter


class JointStage(AdapterStage):
    """The diffusion model trained on, together with its adapter: what a frozen one cannot be told, it learns here.

    Some images keep their prompt alone, so that it goes on drawing without organ masks.
    """

    name = "joint"
    organ_dropout = 0.3

    def _build(self, start: Path | None) -> Backbone:
        backbone = super()._build(start)
        return backbone.requires_grad_(True).train()

    def averaged(self) -> Iterator[nn.Parameter]:
        """Return what is averaged: all of the network."""
        return self.network.parameters()

    def export(self, folder: Path) -> None:
        """Write the three networks that are trained and, once, the rest of the model."""
        super().export(folder)
        for name in ("unet", "text_encoder"):
            save_component(self.components[name], folder / name)


Known = tuple[Tensor, list[Tensor]]
"""What a U-Net is told: prompt embeddings (B, L, d), and what the adapter adds to each level."""


class UNetStage(JointStage):
    """The U-Net alone trained on, beside a frozen copy of itself; text encoder and adapter stay.

    Attributes:
        before: the frozen copy.
        strength: of the adapter, as the pipeline has it.
        outside_noise: deviation of the noise beside the organs that trajectories begin with, likewise.
    """

    organ_dropout = 0.1
    unprompted: ClassVar[float] = 0.5  # share of X-rays without a prompt, as healthy ones are drawn

    def __init__(self, preset: Preset, data: Sequence[Path], start: Path, cache: Path) -> None:
        """Open the model, and copy its U-Net; arguments as of ``AdapterStage``, ``start`` with an adapter."""
        super().__init__(preset, data, start, cache)
        device = default_device()
        self.network.to(device)
        self.before = copy.deepcopy(self.components["unet"]).requires_grad_(False).eval()
        blend = default_blend("regional", adapted=True)
        self.strength, self.outside_noise = blend.adapter, blend.outside_noise
        self.dropout = self._dropout(self.unprompted)
        number_format = fast_dtype(device)  # also of what is drawn before the run sets up its own precision
        self.autocast = partial(torch.autocast, device.type, number_format, enabled=number_format != torch.float32)

    def _build(self, start: Path | None) -> Backbone:
        backbone = super()._build(start)
        backbone.requires_grad_(False)
        self.components["unet"].requires_grad_(True)
        return backbone.eval()

    def averaged(self) -> Iterator[nn.Parameter]:
        """Return what is averaged: the U-Net."""
        averaged: Iterator[nn.Parameter] = self.components["unet"].parameters()
        return averaged

    @torch.no_grad()
    def _known(self, batch: LatentBatch) -> Known:
        masks = {name: mask.to(self.device) for name, mask in batch.masks.items()}
        with self.autocast():
            embeds = self.network.text_encoder(batch.ids.to(self.device), return_dict=False)[0]
            told = adapter_features(self.steering, self.before, masks["organ_mask"], masks.get("lesions"))
        return embeds, told

    def _predicted(self, unet: Any, latents: Tensor, timestep: Tensor, known: Known, strength: float = 1.0) -> Tensor:
        embeds, told = known
        with self.autocast():
            prediction: Tensor = unet(
                latents, timestep, embeds, down_intrablock_additional_residuals=[strength * one for one in told]
            ).sample
        return prediction.float()

    def _start(self, noise: Tensor, batch: LatentBatch) -> Tensor:
        """Weaken the noise (B, c, h, w) that trajectories begin with beside the organs, as the pipeline does."""
        organs = batch.masks["organ_mask"].to(noise.device)
        return noise * start_noise_scale(organs, (noise.shape[-2], noise.shape[-1]), self.outside_noise)

    def _walk(self, unet: Any, latents: Tensor, solver: Any, timesteps: Tensor, known: Known) -> Tensor:
        """Take steps of a solver from latents (B, c, h, w), as the pipeline does."""
        for timestep in timesteps:
            prediction = self._predicted(unet, latents, timestep.to(latents.device), known, self.strength)
            latents = solver.step(prediction, timestep, latents).prev_sample
        return latents


class ControlNetStage(_SteeringStage):
    """ControlNet (arXiv 2302.05543), the paper's baseline: trained, a copy of the encoder that sees organ masks."""

    name = "controlnet"
    component = "controlnet"

    def _steer(self, unet: UNet2DConditionModel) -> tuple[nn.Module, nn.Module]:
        controlnet = build_controlnet(unet, downsampling(self.autoencoder))
        return ControlledUNet(unet, controlnet), controlnet
