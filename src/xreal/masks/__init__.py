"""Masks: organ label maps and lesion masks, the two inputs that control an image."""

from xreal.masks.areas import box, ellipse, fade, feather, polygon, resize_lesion_mask
from xreal.masks.lesions import Lesion, outside_lungs_fraction, parse_lesion, parse_mask, warn_if_outside_lungs
from xreal.masks.organs import (
    cardiothoracic_ratio,
    check_organ_mask,
    dice_per_organ,
    implausible,
    organ_fractions,
    read_organ_mask,
    resize_organ_mask,
    write_organ_mask,
)

__all__ = [
    "Lesion",
    "box",
    "cardiothoracic_ratio",
    "check_organ_mask",
    "dice_per_organ",
    "ellipse",
    "fade",
    "feather",
    "implausible",
    "organ_fractions",
    "outside_lungs_fraction",
    "parse_lesion",
    "parse_mask",
    "polygon",
    "read_organ_mask",
    "resize_lesion_mask",
    "resize_organ_mask",
    "warn_if_outside_lungs",
    "write_organ_mask",
]
