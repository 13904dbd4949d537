"""What the pipeline returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from diffusers.utils import BaseOutput

__all__ = ["XRealEditOutput", "XRealPipelineOutput"]


@dataclass
class XRealPipelineOutput(BaseOutput):
    """What a call returns; B images of H×W pixels.

    Attributes:
        images: (B, H, W) float32 in [0, 1], MONOCHROME2.
        healthy: the same X-rays without their lesions, (B, H, W) float32; None where no image has a lesion.
        priors: what the Anatomy Controller drew, (B, H, W) float32; None where no prior is kept.
        organ_masks: (B, H, W) uint8 ``Organ`` as used; None without organ mask.
        lesion_masks: per image (K, H, W) float32 in [0, 1] as used.
        seeds: one per image.
        settings: everything else that is needed to draw the images again.
    """

    images: np.ndarray
    healthy: np.ndarray | None
    priors: np.ndarray | None
    organ_masks: np.ndarray | None
    lesion_masks: list[np.ndarray]
    seeds: list[int]
    settings: dict[str, Any]


@dataclass
class XRealEditOutput(BaseOutput):
    """What ``XRealPipeline.edit`` returns; B edits of one X-ray of H×W pixels.

    Attributes:
        images: (B, H, W) float32 in [0, 1].
        weight: (H, W) float32 in [0, 1]; where it is 0, every image has the given X-ray's pixels to the last bit.
        organ_masks: before and after, (2, S, S) uint8 ``Organ`` at the model's size; None where no organ moves.
        seeds: one per image.
        settings: everything else that is needed to draw the edits again.
    """

    images: np.ndarray
    weight: np.ndarray
    organ_masks: np.ndarray | None
    seeds: list[int]
    settings: dict[str, Any]
