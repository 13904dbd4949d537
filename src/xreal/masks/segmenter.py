"""X-ray -> organ mask: the network, and the cleaning of what it finds."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from xreal.config import JudgeSegmenterConfig, SegmenterConfig
from xreal.masks.pieces import largest_piece
from xreal.masks.residual_unet import ResidualUNet
from xreal.vocabulary import Organ

__all__ = ["JudgeSegmenter", "Segmenter", "build_judge_segmenter", "build_segmenter", "segment"]


def _standardise(image: Tensor) -> Tensor:
    """Give each image (B, 1, H, W) mean 0 and deviation 1."""
    mean, deviation = image.mean((2, 3), keepdim=True), image.std((2, 3), keepdim=True)
    return (image - mean) / (deviation + 1e-3)


class Segmenter(ModelMixin, ConfigMixin):
    """Residual U-Net over the labels of ``Organ`` up to ``organs`` − 1."""

    @register_to_config
    def __init__(
        self,
        channels: tuple[int, ...] = (12, 24, 48, 96, 160),
        num_res_units: int = 2,
        organs: int = 4,
        sample_size: int = 256,
    ) -> None:
        super().__init__()
        self.network = ResidualUNet(1, organs, channels, num_res_units)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B, organs, H, W) of images (B, 1, H, W) of any brightness and contrast."""
        logits: Tensor = self.network(_standardise(image))
        return logits


class JudgeSegmenter(ModelMixin, ConfigMixin):
    """MONAI SegResNet over the same labels: pre-activation residual blocks, group norm, sums instead of concatenation.

    It shares neither architecture nor seed with ``Segmenter``, so that images are not judged by the network that drew
    the masks they were made from.
    """

    @register_to_config
    def __init__(
        self,
        input_size: int = 128,
        filters: int = 12,
        norm_num_groups: int = 4,
        blocks_down: tuple[int, ...] = (1, 1, 2, 2),
        organs: int = 4,
    ) -> None:
        super().__init__()
        from monai.networks.nets.segresnet import SegResNet  # late: monai takes seconds to import

        self.network = SegResNet(
            spatial_dims=2,
            init_filters=filters,
            in_channels=1,
            out_channels=organs,
            norm=("GROUP", {"num_groups": norm_num_groups}),
            blocks_down=blocks_down,
            blocks_up=(1,) * (len(blocks_down) - 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B, organs, H, W) of images (B, 1, H, W) of any size, brightness and contrast."""
        side = self.config.input_size
        small = F.interpolate(image, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
        logits: Tensor = self.network(_standardise(small))
        return F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)


def build_segmenter(config: SegmenterConfig, image_size: int) -> Segmenter:
    """Make an untrained segmenter for lungs and heart."""
    return Segmenter(channels=config.channels, num_res_units=config.num_res_units, organs=4, sample_size=image_size)


def build_judge_segmenter(config: JudgeSegmenterConfig) -> JudgeSegmenter:
    """Make an untrained second segmenter for lungs and heart."""
    return JudgeSegmenter(
        input_size=config.input_size,
        filters=config.filters,
        norm_num_groups=config.norm_num_groups,
        blocks_down=config.blocks_down,
    )


@torch.inference_mode()
def segment(segmenter: Segmenter | JudgeSegmenter, images: Tensor) -> np.ndarray:
    """Find the organs.

    Args:
        segmenter: trained network.
        images: square, (B, 1, S, S) float32 in [0, 1], MONOCHROME2; of any size: the network sees its own.

    Returns:
        Organ masks (B, S, S), uint8 ``Organ``; one piece per organ, without holes.
    """
    labels = np.concatenate([_labels(segmenter, part.to(segmenter.device)) for part in images.split(8)])
    return np.stack([_one_piece_per_organ(mask) for mask in labels])


def _labels(segmenter: Segmenter | JudgeSegmenter, images: Tensor) -> np.ndarray:
    wanted = images.shape[-2:]
    side = segmenter.config.get("sample_size", wanted[0])  # a JudgeSegmenter brings images to its size itself
    if wanted != (side, side):
        images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
    logits = segmenter(images)
    if wanted != (side, side):
        logits = F.interpolate(logits, wanted, mode="bilinear")
    labels: np.ndarray = logits.argmax(1).to(torch.uint8).cpu().numpy()
    return labels


def _one_piece_per_organ(mask: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    cleaned = np.zeros_like(mask)
    for organ in (organ for organ in Organ if organ):
        whole = ndimage.binary_fill_holes(largest_piece(mask == organ))
        cleaned[whole & (cleaned == 0)] = organ
    return cleaned
