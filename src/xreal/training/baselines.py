"""Stages of the paper's baselines: other ways to make a diffusion model obey an organ mask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from diffusers import AutoencoderKL, DDIMScheduler
from torch import nn
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from xreal.config import Preset
from xreal.errors import TrainingError
from xreal.models.adopt import adopt
from xreal.models.autoencoder import downsampling
from xreal.models.backbone import Backbone
from xreal.models.folder import load_components
from xreal.models.organs import ControlledUNet, build_controlnet
from xreal.training.backbone import BackboneStage

__all__ = ["ConcatStage", "ControlNetStage"]


class ConcatStage(BackboneStage):
    """The backbone again, with the organ mask beside the latents in its input; only images with organ masks."""

    name = "concat"
    sees_organs = True
    organ_dropout = 0.1

    def export(self, folder: Path) -> None:
        """Write what the backbone writes, and the autoencoder if it came from elsewhere."""
        super().export(folder)
        if not (folder / "vae").is_dir():
            _save(self.autoencoder, folder / "vae")


class ControlNetStage(BackboneStage):
    """ControlNet (arXiv 2302.05543): a frozen model and, trained, a copy of its encoder that sees organ masks."""

    name = "controlnet"
    sees_organs = True

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
        loaded = load_components(start, ("segmenter",))
        self.components = {"segmenter": loaded["segmenter"]} if "segmenter" in loaded else {}
        self.components |= adopt(loaded)
        super().__init__(preset, data, self.components["vae"], cache)
        side, wanted = self.validation_latents.shape[-1], self.components["unet"].config.sample_size
        if side != wanted:
            factor = downsampling(self.components["vae"])
            raise TrainingError(
                f"{start} draws {wanted * factor} pixels a side, the data have {side * factor}; "
                f"run `xreal prepare --image-size {wanted * factor}`"
            )

    def _tokenizer(self, kept: Path, start: Path | None) -> PreTrainedTokenizerBase:
        tokenizer = self.components["tokenizer"]
        longest = self.components["text_encoder"].config.max_position_embeddings
        tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
        return tokenizer

    def _schedule(self) -> DDIMScheduler:
        return self.components["scheduler"]

    def _build(self, start: Path | None) -> Backbone:
        unet, text_encoder = (self.components[name].requires_grad_(False) for name in ("unet", "text_encoder"))
        self.controlnet = build_controlnet(unet, downsampling(self.autoencoder)).train()
        return Backbone(ControlledUNet(unet, self.controlnet), text_encoder)

    def averaged(self) -> Iterator[nn.Parameter]:
        """Return what is averaged: nothing of the frozen model."""
        return self.controlnet.parameters()

    def export(self, folder: Path) -> None:
        """Write ``controlnet/`` and, once, the model that it steers."""
        _save(self.controlnet, folder / "controlnet")
        for name, component in self.components.items():
            if not (folder / name).is_dir():
                _save(component, folder / name)


def _save(component: AutoencoderKL | nn.Module | PreTrainedTokenizerBase, folder: Path) -> None:
    if hasattr(component, "register_to_config"):
        component.register_to_config(_name_or_path="")  # where it lay is nobody's business
    component.save_pretrained(folder)
