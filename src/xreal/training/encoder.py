"""Stage: the encoder, X-ray -> view position, sex, age and findings; it judges images and makes none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from monai.metrics.rocauc import compute_roc_auc
from torch import Tensor

from xreal.config import Preset
from xreal.data.augment import random_affine
from xreal.data.contract import collate
from xreal.data.prepared import PreparedDataset
from xreal.errors import DataError
from xreal.models.encoder import Reading, build_encoder
from xreal.sheets import overlay
from xreal.training.backbone import balanced_weights
from xreal.training.stage import Loss, Stage
from xreal.vocabulary import Finding

__all__ = ["EncoderStage", "Labels"]

_VIEWS, _SEXES = {"PA": 0.0, "AP": 1.0}, {"M": 0.0, "F": 1.0}


class Labels(NamedTuple):
    """What is known of N images, as the encoder reads it; NaN where nothing is known."""

    view_position: Tensor
    sex: Tensor
    age: Tensor
    findings: Tensor

    def take(self, indices: Sequence[int]) -> Labels:
        """Return the labels of those images."""
        return Labels(*(values[list(indices)] for values in self))


def _labels(data: PreparedDataset, findings: Sequence[Finding]) -> Labels:
    unknown = float("nan")
    views, sexes, ages = zip(*data.demographics, strict=True)
    rows = [
        [float(finding in names) for finding in findings] if names else [unknown] * len(findings)
        for names in data.findings
    ]
    return Labels(
        torch.tensor([_VIEWS.get(view, unknown) for view in views]),
        torch.tensor([_SEXES.get(sex, unknown) for sex in sexes]),
        torch.tensor([unknown if age is None else (age - 50) / 20 for age in ages]),
        torch.tensor(rows),
    )


def masked_mean(losses: Tensor, known: Tensor) -> Tensor:
    """Average losses over what is known; 0, with a gradient of 0, where nothing is."""
    return torch.where(known, losses, 0).sum() / known.sum().clamp_min(1)


def _auroc(logits: Tensor, wanted: Tensor) -> tuple[float, int]:
    """Return the AUROC over what is known and the smaller class's size; (NaN, 0) where only one class is there."""
    known = wanted.isfinite()
    positives = int((wanted[known] == 1).sum())
    few = min(positives, int(known.sum()) - positives)
    return (float(compute_roc_auc(logits[known], wanted[known])), few) if few else (float("nan"), 0)


class EncoderStage(Stage):
    """Cross-entropy on findings, balanced, and on view position and sex, and the error of age, as far as known.

    Sources and labels go with exposure (the healthy images of a list may simply be darker), so gamma is drawn at
    random. Blur, noise and painted opacities are not: the features are to notice the first two, and the last are what
    the findings are about.
    """

    name = "encoder"
    person_weight = 0.3  # of view, sex and age beside findings
    most_positive_weight = 20.0
    gamma = 0.6  # largest |log γ|

    def __init__(self, preset: Preset, data: Sequence[Path]) -> None:
        """Read the labels; images are read as they are needed.

        Raises:
            DataError: no finding has enough images to be learnt.
        """
        super().__init__(preset)
        train, validation = self.train_data, self.validation = [
            PreparedDataset(data, part) for part in ("train", "val")
        ]
        counts = Counter(finding for names in train.findings for finding in names)
        fewest = preset.encoder.fewest
        self.findings = tuple(finding for finding in Finding if fewest <= counts[finding] < len(train))
        if not self.findings:
            raise DataError(f"no finding has {fewest} training images or more in {', '.join(map(str, data))}")
        self.labels, self.validation_labels = (_labels(part, self.findings) for part in (train, validation))
        self.sampling_weights = balanced_weights(train.findings)
        known = self.labels.findings.isfinite()
        drawn = self.sampling_weights[:, None] * known
        positive = (drawn * self.labels.findings.nan_to_num()).sum(0) / drawn.sum(0)
        self.positive_weight = ((1 - positive) / positive).clamp_max(self.most_positive_weight)
        torch.manual_seed(self.config.seed)
        self.networks = {"encoder": build_encoder(preset.encoder, self.findings)}

    def batch(self, indices: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Labels]:
        """Return images (B, 1, side, side), moved a little and exposed at random, and their labels."""
        image, _ = random_affine(self._images(self.train_data, indices), generator, degrees=6, zoom=0.1, shift=0.05)
        exponent = torch.exp(self.gamma * (2 * torch.rand(len(image), 1, 1, 1, generator=generator) - 1))
        return image.clamp(0, 1) ** exponent, self.labels.take(indices)

    def _images(self, data: PreparedDataset, indices: Sequence[int]) -> Tensor:
        """Read images at the network's size, (B, 1, side, side) in [0, 1]."""
        size = (self.preset.encoder.input_size,) * 2
        image = collate([data[i] for i in indices]).image
        return F.interpolate(image, size=size, mode="bilinear", antialias=True).clamp(0, 1)

    def losses(self, batch: tuple[Tensor, Labels], step: int, generator: torch.Generator) -> Iterator[Loss]:
        """Yield the sum over what is known of each image."""
        network = self.networks["encoder"]
        device = next(network.parameters()).device
        reading: Reading = network(batch[0].to(device))
        labels = Labels(*(values.to(device) for values in batch[1]))
        parts = {
            "findings": masked_mean(
                F.binary_cross_entropy_with_logits(
                    reading.findings,
                    labels.findings.nan_to_num(),
                    pos_weight=self.positive_weight.to(device),
                    reduction="none",
                ),
                labels.findings.isfinite(),
            ),
            "age": masked_mean((reading.age - labels.age.nan_to_num()).abs(), labels.age.isfinite()),
        }
        for name in ("view_position", "sex"):
            logits, wanted = getattr(reading, name), getattr(labels, name)
            loss = F.binary_cross_entropy_with_logits(logits, wanted.nan_to_num(), reduction="none")
            parts[name] = masked_mean(loss, wanted.isfinite())
        person = parts["age"] + parts["view_position"] + parts["sex"]
        value = parts["findings"] + self.person_weight * person
        yield Loss("encoder", value, {name: part.item() for name, part in parts.items()})

    def _look(self, exponents: Sequence[float]) -> list[Reading]:
        """Read the validation images once, exposed in each of these ways."""
        device = next(self.network.parameters()).device
        parts: list[list[Reading]] = [[] for _ in exponents]
        for indices in torch.arange(len(self.validation)).split(64):
            images = self._images(self.validation, indices.tolist()).to(device)
            for exponent, readings in zip(exponents, parts, strict=True):
                reading: Reading = self.network(images**exponent)
                # Maps of a whole data set would fill the memory, and nobody looks at them.
                readings.append(reading._replace(maps=reading.maps[:0]))
        return [Reading(*(torch.cat(column).float().cpu() for column in zip(*some, strict=True))) for some in parts]

    def validate(self) -> dict[str, float]:
        """Measure on the validation split.

        Returns:
            "auroc NAME" of each finding (against all images that have other findings or none), of view and of sex, each
            with "n NAME", the size of its smaller class; "auroc findings", their mean; "age error" in years; and
            "exposure shift", by how much γ = 0.8 instead of 1.25 moves a finding's probability in the mean. What
            the split does not hold is left out.
        """
        labels, metrics = self.validation_labels, {}
        reading, bright, dark = self._look((1.0, 0.8, 1.25))
        areas = {
            finding.value: _auroc(reading.findings[:, k], labels.findings[:, k])
            for k, finding in enumerate(self.findings)
        }
        means = [area for area, few in areas.values() if few]
        if means:
            metrics["auroc findings"] = float(np.mean(means))
        areas["view"] = _auroc(reading.view_position, labels.view_position)
        areas["sex"] = _auroc(reading.sex, labels.sex)
        for name, (area, few) in areas.items():
            if few:
                metrics |= {f"auroc {name}": area, f"n {name}": float(few)}
        known = labels.age.isfinite()
        if known.any():
            metrics["age error"] = 20 * float((reading.age - labels.age)[known].abs().mean())
        metrics["exposure shift"] = float((bright.findings.sigmoid() - dark.findings.sigmoid()).abs().mean())
        return metrics

    def sheet(self) -> list[list[np.ndarray]]:
        """Draw images that have a finding, over where the encoder sees the finding that it thinks most probable."""
        ill = [k for k, finding in enumerate(self.findings) if finding is not Finding.NO_FINDING]
        has = self.validation_labels.findings[:, ill].nan_to_num().amax(1) if ill else torch.zeros(0)
        chosen = torch.nonzero(has)[:, 0].tolist()[:6] or list(range(min(6, len(self.validation))))
        images = self._images(self.validation, chosen)
        looked: Reading = self.network(images.to(next(self.network.parameters()).device))
        reading = Reading(*(values.float().cpu() for values in looked))
        pictures = [image[0].numpy() for image in images]
        maps = F.interpolate(reading.maps, size=images.shape[-2:], mode="bilinear", align_corners=False)
        marked = []
        for picture, logits, seen in zip(pictures, reading.findings, maps, strict=True):
            k = max(ill or [0], key=lambda k: float(logits[k]))
            heat = (seen[k] - seen[k].min()) / (seen[k].max() - seen[k].min()).clamp_min(1e-6)
            marked.append(overlay(picture, heat.numpy()))
        return [pictures, marked]

    def export(self, folder: Path) -> None:
        """Write ``encoder/``."""
        self.network.save_pretrained(folder / "encoder")
