"""The contract of shapes and value ranges between data sets, networks and evaluators.

B batch, K findings; H = W = image size.

| name | shape | dtype, values |
|---|---|---|
| ``image`` | (B, 1, H, W) | float32 in [0, 1], MONOCHROME2 (air dark) |
| ``organ_mask`` | (B, H, W) | uint8 ``Organ``; a missing organ is absent, a missing mask is all background |
| ``prompts`` | B strings | see ``vocabulary.prompt_from_findings`` |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from xreal.vocabulary import Finding, prompt_from_findings

__all__ = ["Batch", "Box", "Sample", "collate"]


@dataclass(frozen=True)
class Box:
    """A finding's bounding box, in pixels of the image that it stands beside, origin top left."""

    finding: Finding
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Sample:
    """One chest X-ray.

    Attributes:
        image: (H, W) uint8, MONOCHROME2.
        organ_mask: (H, W) uint8 ``Organ``, or None where there is none.
        findings: what its label says; (``Finding.NO_FINDING``,) for a healthy one.
        view_position: "PA", "AP" or "".
        sex: "M", "F" or "".
        boxes: where findings are.
        lesion_mask: (H, W) uint8, 1 where an expert drew a lesion, or None; the boxes are then those around the drawn
            lesions.
        jpeg_steps: quantisation table of the JPEG file that held these very pixels, 64 steps; () where it held others,
            that were resized, or was no JPEG.
    """

    image: np.ndarray
    organ_mask: np.ndarray | None = None
    image_id: str = ""
    patient_id: str = ""
    source: str = ""
    findings: tuple[Finding, ...] = ()
    view_position: str = ""
    sex: str = ""
    age: int | None = None
    boxes: tuple[Box, ...] = field(default_factory=tuple)
    lesion_mask: np.ndarray | None = None
    jpeg_steps: tuple[int, ...] = ()

    @property
    def prompt(self) -> str:
        """Findings, view and sex as text."""
        return prompt_from_findings(self.findings, self.view_position, self.sex)

    @property
    def lesion_area(self) -> np.ndarray:
        """Return (H, W) uint8, 1 inside any drawn lesion, or in the ellipses that fill the boxes where none is drawn.

        Findings are round: the corners of a box are mostly healthy.
        """
        if self.lesion_mask is not None:
            return self.lesion_mask
        mask = np.zeros_like(self.image)
        rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
        for box in self.boxes:
            across = (columns + 0.5 - box.x - box.width / 2) / (box.width / 2)
            down = (rows + 0.5 - box.y - box.height / 2) / (box.height / 2)
            mask[across**2 + down**2 <= 1] = 1
        return mask

    @property
    def box_mask(self) -> np.ndarray:
        """Return (H, W) uint8, 1 inside any drawn lesion, or any of the boxes where none is drawn."""
        if self.lesion_mask is not None:
            return self.lesion_mask
        mask = np.zeros_like(self.image)
        for box in self.boxes:
            rows, columns = (
                (round(start), round(start + size)) for start, size in ((box.y, box.height), (box.x, box.width))
            )
            mask[max(0, rows[0]) : max(0, rows[1]), max(0, columns[0]) : max(0, columns[1])] = 1
        return mask


@dataclass(frozen=True)
class Batch:
    """Samples side by side; see the table above."""

    image: Tensor
    organ_mask: Tensor
    prompts: tuple[str, ...]
    image_ids: tuple[str, ...]


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one size."""
    image = torch.from_numpy(np.stack([sample.image for sample in samples])).float().div(255).unsqueeze(1)
    masks = [np.zeros_like(s.image) if s.organ_mask is None else s.organ_mask for s in samples]
    return Batch(
        image=image,
        organ_mask=torch.from_numpy(np.stack(masks)),
        prompts=tuple(sample.prompt for sample in samples),
        image_ids=tuple(sample.image_id for sample in samples),
    )
