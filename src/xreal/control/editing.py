"""Changing a given X-ray: how its organs move, where findings may change it, and how that returns to its own pixels.

Organs are moved by warping the X-ray's own pixels. Findings are drawn by the model, on a square of its own size; a
given X-ray has any. What returns is the difference that the model made, enlarged, never the model's picture:
detail that the model cannot draw stays, and where nothing changed the difference is nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from torch import Tensor

from xreal.control.blending import Keep
from xreal.errors import ImageError, InputError, MaskError
from xreal.images import fit_square
from xreal.masks.areas import feather, resize_lesion_mask
from xreal.masks.lesions import Lesion
from xreal.masks.organs import check_organ_mask, resize_organ_mask
from xreal.masks.warping import organ_shift, warp_image

__all__ = ["EditPlan", "bring_back", "edit_keep", "fit_organs", "from_square", "plan_edit", "smooth_removal"]

_FEATHER_PIXELS = 6.0  # of the model's size, a bit under one latent (8 pixels): as in the pipeline's exact composite
_REMOVAL_FEATHER_PIXELS = 12.0  # of the model's size: a removed opacity is large and its edge seen at half of this
_REMOVAL_SHARE = 0.8  # of the strength: drawn freely for longer, an area comes out darker than the rest of the lung
_REMOVAL_SMOOTHING = 2.0  # pixels of 256: opacities are smooth, and what is finer stays the X-ray's own
_STILL_PIXELS = 32.0  # of the model's size: within so far of what must stay, organs move less and less


@dataclass(frozen=True)
class EditPlan:
    """What is asked of one X-ray of (H, W) pixels, for a model of S×S.

    Attributes:
        moved: the X-ray with its organs moved, (H, W) float32 in [0, 1].
        shifted: where it was moved, (H, W) bool; elsewhere ``moved`` has the X-ray's bits.
        square: ``moved`` as the model sees it, (S, S) float32 in [0, 1].
        lesions: to be added, masks (S, S), zero where nothing may change.
        remove: where findings are to go, feathered, (S, S) float32 in [0, 1].
        protect: what must stay, (S, S) bool.
        weight: share of the findings' change that each of the X-ray's own pixels takes, (H, W) float32; 0: none, to the
            last bit.
    """

    moved: npt.NDArray[np.float32]
    shifted: npt.NDArray[np.bool_]
    square: npt.NDArray[np.float32]
    lesions: list[Lesion]
    remove: npt.NDArray[np.float32]
    protect: npt.NDArray[np.bool_]
    weight: npt.NDArray[np.float32]


def plan_edit(
    image: npt.NDArray[Any],
    size: int,
    lesions: Sequence[Lesion] = (),
    remove: npt.NDArray[Any] | None = None,
    organs: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None,
    protect: npt.NDArray[Any] | None = None,
) -> EditPlan:
    """Check what is asked and bring it to the model's size.

    Args:
        image: (H, W) floats in [0, 1].
        size: S, side of the model's images.
        lesions: to be added; masks (H, W).
        remove: (H, W) in [0, 1].
        organs: ``Organ`` labels before and after, (S, S) each.
        protect: (H, W) in [0, 1]; whatever is above 0 stays.

    Raises:
        ImageError: the image has another shape or range.
        MaskError: a mask has another size than the image, ``protect`` leaves nothing of what is asked, or the organs
            cannot be moved so.
        InputError: nothing is asked.
    """
    image = np.asarray(image)
    if image.ndim != 2 or not image.size or image.dtype.kind != "f":
        raise ImageError(f"image is {image.dtype} of shape {image.shape}; expected (H, W) floats in [0, 1].")
    if not (image.min() >= 0 and image.max() <= 1):  # NaN fails too
        raise ImageError(f"image holds values {image.min()} to {image.max()}; expected [0, 1]. Rescale or clip it.")
    if not lesions and remove is None and organs is None:
        raise InputError("nothing to edit; give lesions to add, an area to remove findings from, or an organ mask")
    named = [(f"lesion mask of {lesion.finding.value}", lesion.mask) for lesion in lesions]
    named += [
        (name, mask) for name, mask in (("area to remove", remove), ("area to keep", protect)) if mask is not None
    ]
    for name, mask in named:
        if np.shape(mask) != image.shape:
            raise MaskError(f"{name} is {np.shape(mask)}, the image {image.shape} (H, W); expected the same size.")

    kept = np.zeros(image.shape, bool) if protect is None else np.asarray(protect) > 0
    free = ~kept
    for name, mask in named:
        if mask is not protect and not (np.asarray(mask) * free).any():
            raise MaskError(f"{name} lies wholly in what must be kept, or is all zero; expected some area to change.")
    moved, shifted = _move_organs(image.astype(np.float32), kept, organs)
    scale = max(image.shape) / size
    soft = erased = np.zeros(image.shape, np.float32)
    if lesions:
        area = np.any([lesion.mask > 0 for lesion in lesions], axis=0) & free
        soft = feather(area.astype(np.float32), _FEATHER_PIXELS * scale)
    if remove is not None:
        erased = feather(np.asarray(remove) * free, _REMOVAL_FEATHER_PIXELS * scale) * free
    return EditPlan(
        moved=moved,
        shifted=shifted,
        square=fit_square(moved, size),
        lesions=[replace(one, mask=resize_lesion_mask(one.mask * free, size)) for one in lesions],
        remove=resize_lesion_mask(erased, size),
        protect=resize_lesion_mask(kept.astype(np.float32), size) > 0,
        weight=np.where(kept, np.float32(0), np.maximum(soft, erased)),
    )


def _move_organs(
    image: npt.NDArray[np.float32],
    kept: npt.NDArray[np.bool_],
    organs: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Warp the image by what moves the organs before to those after, less and less towards what is kept."""
    if organs is None:
        return image, np.zeros(image.shape, bool)
    scale = max(image.shape) / len(organs[0])
    shift = np.stack([from_square(part, *image.shape) * np.float32(scale) for part in organ_shift(*organs)])
    if kept.any():
        distance = ndimage.distance_transform_edt(~kept)
        shift *= np.clip(distance / (_STILL_PIXELS * scale), 0, 1).astype(np.float32)
    return warp_image(image, shift), (shift[0] != 0) | (shift[1] != 0)


def edit_keep(plan: EditPlan, original: Tensor, strength: float, steps: int) -> Keep:
    """Say which latents are kept up to which step: all of the original's, but where findings go.

    Args:
        plan: what is asked.
        original: clean latents of the X-ray, (B, c, h, w).
        strength: share of the steps in which findings change; areas of removal are drawn freely in somewhat fewer.
        steps: of the solver.
    """
    size = (int(original.shape[-2]), int(original.shape[-1]))

    def touched(mask: npt.NDArray[Any]) -> Tensor:
        pixels = torch.from_numpy(mask.astype(np.float32)).to(original.device)[None, None]
        return F.adaptive_max_pool2d(pixels, size) > 0  # (1, 1, h, w)

    everywhere = torch.full((len(original), 1, *size), float(steps), device=original.device)
    free = touched(plan.remove) & ~touched(plan.protect)
    last = torch.where(free, float(round((1 - _REMOVAL_SHARE * strength) * steps)), everywhere)
    return Keep(original, torch.ones_like(everywhere), last)


def smooth_removal(changes: npt.NDArray[np.float32], remove: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Leave what is finer than an opacity to the X-ray, where findings are removed.

    Args:
        changes: as the model made them, (B, S, S).
        remove: (S, S) in [0, 1].
    """
    sigma = _REMOVAL_SMOOTHING * len(remove) / 256
    smooth = ndimage.gaussian_filter(changes, (0, sigma, sigma))
    mixed: npt.NDArray[np.float32] = changes + remove * (smooth - changes)
    return mixed


def from_square(square: npt.NDArray[Any], height: int, width: int) -> npt.NDArray[np.float32]:
    """Undo the geometry of ``images.fit_square``: enlarge or shrink a square (S, S), then cut the padding off.

    Returns:
        (height, width) float32.
    """
    side = max(height, width)
    values = np.asarray(square, np.float32)
    if side != len(values):
        values = np.asarray(Image.fromarray(values).resize((side, side), Image.Resampling.BILINEAR))
    top, left = (side - height) // 2, (side - width) // 2
    return values[top : top + height, left : left + width]


def bring_back(
    image: npt.NDArray[Any], change: npt.NDArray[np.float32], weight: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Add the model's change (S, S) to an X-ray (H, W) where ``weight`` (H, W) is above 0; elsewhere the same bits."""
    image = np.asarray(image, np.float32)
    changed = (image + weight * from_square(change, *image.shape)).clip(0, 1)
    return np.where(weight > 0, changed, image)


def fit_organs(organ_mask: npt.NDArray[Any], shape: tuple[int, ...], size: int) -> npt.NDArray[np.uint8]:
    """Bring an organ mask of the X-ray's own size, or of the padded square that `xreal segment` writes, to (S, S).

    Raises:
        MaskError: neither size, or no organ mask.
    """
    mask = check_organ_mask(organ_mask)
    if mask.shape not in (shape, (size, size)):
        raise MaskError(
            f"organ mask is {mask.shape} (H, W), the image {shape}; expected the same size, or {size} x {size} as "
            "`xreal segment` writes it."
        )
    return resize_organ_mask(mask, size)
