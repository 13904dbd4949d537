"""What a small network can learn from X-rays, to see whether synthetic ones teach it: a finding, or the organs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from monai.losses.dice import DiceCELoss
from monai.networks.nets.densenet import DenseNet
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc

from xreal.config import SegmenterConfig
from xreal.data.augment import random_affine
from xreal.errors import InputError
from xreal.evaluation.cases import Cases
from xreal.images import fit_square, fit_square_mask
from xreal.masks.organs import dice_per_organ
from xreal.masks.segmenter import Segmenter, build_segmenter, segment
from xreal.vocabulary import Finding, Organ

__all__ = [
    "BATCH",
    "FEWEST_TEST",
    "FEWEST_TRAIN",
    "Classify",
    "Pool",
    "Segment",
    "Task",
    "build_classifier",
    "standardised",
]

FEWEST_TRAIN, FEWEST_TEST = 2, 5
"""Images of each kind that there must be: with and without the finding, or with organ masks."""

BATCH = 16
"""Images of one optimisation step."""


@dataclass(frozen=True)
class Pool:
    """Training or test images (N, 1, S, S), what to learn of them, and the strata that a batch draws from evenly."""

    images: Tensor
    targets: Tensor
    strata: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Tensor) -> Pool:
        """Return the images of those indices."""
        return Pool(self.images[indices], self.targets[indices], self.strata[indices])

    def joined(self, other: Pool) -> Pool:
        """Return both as one."""
        pairs = ((self.images, other.images), (self.targets, other.targets), (self.strata, other.strata))
        return Pool(*(torch.cat(pair) for pair in pairs))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw indices with replacement, as many from each stratum."""
        per_stratum = 1 / torch.bincount(self.strata).double()
        return torch.multinomial(per_stratum[self.strata], count, replacement=True, generator=generator)

    def sample(self, count: int, generator: torch.Generator) -> Pool:
        """Keep ``count`` random images, no stratum below the minimum."""
        order = torch.randperm(len(self), generator=generator)
        strata = self.strata[order]
        first = torch.cat([order[strata == stratum][:FEWEST_TRAIN] for stratum in strata.unique()])
        rest = order[~torch.isin(order, first)]
        return self.take(torch.cat([first, rest])[:count])


class Task(ABC):
    """What is learnt: a network, its loss and its scores."""

    @abstractmethod
    def build(self) -> nn.Module:
        """Make an untrained network."""

    @abstractmethod
    def pool(self, cases: Cases, name: str, fewest: int) -> Pool:
        """Take the images that have what is to be learnt.

        Raises:
            InputError: fewer than ``fewest`` of a kind.
        """

    @abstractmethod
    def blank(self) -> Pool:
        """Make a pool that shows nothing, to time training on."""

    @abstractmethod
    def batch(self, pool: Pool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return augmented images and targets."""

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Compare what the network says with the target."""

    @abstractmethod
    def scores(self, network: nn.Module, test: Pool) -> dict[str, float]:
        """Test the network."""


class Classify(Task):
    """One finding against everything else; images whose findings are not known are left out."""

    def __init__(self, finding: Finding, image_size: int) -> None:
        self.finding, self.image_size = finding, image_size

    def build(self) -> nn.Module:
        """Make a DenseNet with one logit."""
        return build_classifier()

    def pool(self, cases: Cases, name: str, fewest: int) -> Pool:
        """Take standardised images of known findings; strata: without, with the finding."""
        known = cases.take([i for i, findings in enumerate(cases.findings) if findings])
        present = torch.tensor([self.finding in findings for findings in known.findings], dtype=torch.long)
        counts = int(present.sum()), int((1 - present).sum())
        if min(counts) < fewest:
            raise InputError(
                f"{name} has {counts[0]} images with {self.finding.value} and {counts[1]} without; expected at least "
                f"{fewest} of each. Give more, or another finding."
            )
        return Pool(standardised(known.images, self.image_size), present, present)

    def blank(self) -> Pool:
        """Make images without the finding."""
        nothing = torch.zeros(BATCH, dtype=torch.long)
        return Pool(torch.zeros(BATCH, 1, self.image_size, self.image_size), nothing, nothing)

    def batch(self, pool: Pool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return moved images (B, 1, S, S) and 1 or 0 for each (B,)."""
        picked = pool.take(pool.draw(BATCH, generator))
        return random_affine(picked.images, generator)[0], picked.targets

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the binary cross-entropy."""
        return F.binary_cross_entropy_with_logits(output[:, 0], target.float())

    def scores(self, network: nn.Module, test: Pool) -> dict[str, float]:
        """Return the area under the ROC curve."""
        logits = torch.cat([network(part)[:, 0] for part in test.images.split(BATCH)])
        return {"AUROC": float(binary_auroc(logits.sigmoid(), test.targets))}


class Segment(Task):
    """Lungs and heart; images without an organ mask are left out."""

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size
        self._loss = DiceCELoss(to_onehot_y=True, softmax=True)

    def build(self) -> nn.Module:
        """Make a residual U-Net."""
        return build_segmenter(SegmenterConfig(channels=(8, 16, 32, 64), num_res_units=1), self.image_size)

    def pool(self, cases: Cases, name: str, fewest: int) -> Pool:
        """Take images with organ masks."""
        masked = cases.take(np.flatnonzero(cases.organ_masks.any(axis=(1, 2))))
        if len(masked) < fewest:
            raise InputError(f"{name} has {len(masked)} images with organ masks; expected at least {fewest}")
        masks = np.stack([fit_square_mask(mask, self.image_size) for mask in masked.organ_masks])
        masks[masks > Organ.HEART] = Organ.BACKGROUND  # what the segmenter does not know
        return Pool(
            _fitted(masked.images, self.image_size), torch.from_numpy(masks), torch.zeros(len(masked), dtype=torch.long)
        )

    def blank(self) -> Pool:
        """Make images without organs."""
        images = torch.zeros(BATCH, 1, self.image_size, self.image_size)
        return Pool(images, images[:, 0].to(torch.uint8), torch.zeros(BATCH, dtype=torch.long))

    def batch(self, pool: Pool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return moved images (B, 1, S, S) and their masks (B, S, S)."""
        picked = pool.take(pool.draw(BATCH, generator))
        images, masks = random_affine(picked.images, generator, picked.targets)
        assert masks is not None
        return images, masks

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return Dice + cross-entropy."""
        loss: Tensor = self._loss(output, target[:, None].long())
        return loss

    def scores(self, network: nn.Module, test: Pool) -> dict[str, float]:
        """Return the mean Dice of each organ."""
        assert isinstance(network, Segmenter)
        found = segment(network, test.images)
        dice = [dice_per_organ(wanted, seen) for wanted, seen in zip(test.targets.numpy(), found, strict=True)]
        organs = sorted({organ for one in dice for organ in one})
        return {f"dice {organ}": float(np.mean([one[organ] for one in dice if organ in one])) for organ in organs}


def build_classifier() -> nn.Module:
    """Make a DenseNet with one logit, for images (B, 1, S, S) of ``standardised``."""
    return DenseNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        init_features=16,
        growth_rate=8,
        block_config=(2, 2, 2),
        norm=("group", {"num_groups": 4}),  # batch statistics of real and synthetic images would not mix
    )


def standardised(images: np.ndarray, size: int) -> Tensor:
    """Bring images (N, H, W) to ``size`` pixels a side, mean 0 and deviation 1 each, (N, 1, S, S)."""
    fitted = _fitted(images, size)
    return (fitted - fitted.mean((2, 3), keepdim=True)) / (fitted.std((2, 3), keepdim=True) + 1e-3)


def _fitted(images: np.ndarray, size: int) -> Tensor:
    return torch.from_numpy(np.stack([fit_square(image, size) for image in images]))[:, None]
