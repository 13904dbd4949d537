"""Stages: the segmenter, X-ray -> organ mask, and the second one that judges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from monai.losses.dice import DiceCELoss
from torch import Tensor

from xreal.config import Preset
from xreal.data.augment import random_affine, random_intensity
from xreal.data.contract import Sample, collate
from xreal.data.prepared import PreparedDataset
from xreal.errors import DataError
from xreal.masks.organs import dice_per_organ
from xreal.masks.segmenter import JudgeSegmenter, Segmenter, build_judge_segmenter, build_segmenter, segment
from xreal.sheets import colour_labels
from xreal.training.stage import Loss, Stage

__all__ = ["JudgeSegmenterStage", "SegmenterStage", "samples_with_masks"]


def samples_with_masks(data: Sequence[Path], split: str) -> Sequence[Sample]:
    """Return the samples that have an organ mask, each read when it is asked for.

    Raises:
        DataError: none has one.
    """
    prepared = PreparedDataset(data, split)
    samples = prepared.take(prepared.with_organ_mask())
    if not samples:
        raise DataError(f"no {split} sample of {', '.join(map(str, data))} has an organ mask")
    return samples


class SegmenterStage(Stage):
    """Dice and cross-entropy on expert masks, with strong geometry and intensity augmentation.

    Attributes:
        component: folder of the model that the network is written to.
    """

    name = "segmenter"
    component = "segmenter"

    def __init__(self, preset: Preset, data: Sequence[Path]) -> None:
        super().__init__(preset)
        self.samples = samples_with_masks(data, "train")
        self.validation = collate(samples_with_masks(data, "val"))
        torch.manual_seed(self.config.seed)
        self.networks = {self.component: self.build(preset)}
        self.sampling_weights = torch.ones(len(self.samples))
        self.loss = DiceCELoss(to_onehot_y=True, softmax=True, include_background=True)

    def build(self, preset: Preset) -> Segmenter | JudgeSegmenter:
        """Make the untrained network."""
        return build_segmenter(preset.segmenter, preset.image_size)

    def batch(self, indices: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return augmented images (B, 1, H, W) and masks (B, H, W)."""
        batch = collate([self.samples[i] for i in indices])
        image, mask = random_affine(
            batch.image, generator, batch.organ_mask, degrees=12, zoom=0.2, shift=0.08, bend=0.04
        )
        assert mask is not None
        return random_intensity(image, generator), mask

    def losses(self, batch: tuple[Tensor, Tensor], step: int, generator: torch.Generator) -> Iterator[Loss]:
        """Yield Dice + cross-entropy."""
        image, mask = batch
        device = next(self.network.parameters()).device
        loss = self.loss(self.networks[self.component](image.to(device)).float(), mask[:, None].long().to(device))
        yield Loss(self.component, loss, {"loss": loss.item()})

    def validate(self) -> dict[str, float]:
        """Return mean Dice per organ."""
        found = segment(self.network, self.validation.image)
        dice = [dice_per_organ(a, b) for a, b in zip(self.validation.organ_mask.numpy(), found, strict=True)]
        return {f"dice {organ}": float(np.mean([d[organ] for d in dice if organ in d])) for organ in dice[0]}

    def sheet(self) -> list[list[np.ndarray]]:
        """Draw images, expert masks, found masks."""
        image = self.validation.image[:6]
        found = segment(self.network, image)
        expert = self.validation.organ_mask[:6].numpy()
        grey = [np.repeat(img[0].numpy()[..., None], 3, axis=2) for img in image]
        return [grey, [colour_labels(mask) for mask in expert], [colour_labels(mask) for mask in found]]

    def export(self, folder: Path) -> None:
        """Write the component's folder."""
        self.network.save_pretrained(folder / self.component)


class JudgeSegmenterStage(SegmenterStage):
    """The second segmenter: another architecture and, by its settings, another seed."""

    name = "judge-segmenter"
    component = "judge_segmenter"

    def build(self, preset: Preset) -> JudgeSegmenter:
        """Make the untrained network."""
        return build_judge_segmenter(preset.judge_segmenter)
