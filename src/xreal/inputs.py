"""What a call of the pipeline is given, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Literal

import numpy as np
from torch import Tensor

from xreal.control.anatomy import AnatomyBlend
from xreal.control.solvers import SOLVERS
from xreal.errors import InputError, MaskError
from xreal.masks.areas import resize_lesion_mask
from xreal.masks.lesions import Lesion, warn_if_outside_lungs
from xreal.vocabulary import Finding, prompt_from_findings

__all__ = [
    "PLACED_GUIDANCE",
    "UNPLACED_GUIDANCE",
    "Mode",
    "Quality",
    "Settings",
    "StepCallback",
    "check_settings",
    "default_blend",
    "lesions_per_image",
    "prompts_per_image",
]

PLACED_GUIDANCE, UNPLACED_GUIDANCE = 2.0, 9.0
"""Guidance by default: where the U-Net is told their places, and by prompts alone (docs/log.md)."""

Mode = Literal["regional", "two-pass"]
Quality = Literal["draft", "default", "reference"]
StepCallback = Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any] | None]


@dataclass(frozen=True)
class Settings:
    """How a trajectory is solved.

    Attributes:
        mode: "regional" or "two-pass".
        solver: key of ``SOLVERS``.
        steps: of the solver, for each pass.
        eta: DDIM's η.
        guidance: w, how strongly findings are drawn; None: as the model is told their places, or is not.
        texture: how much of it is added after decoding, 0 to 2.
        prompt_guidance: how strongly the X-ray's own prompt is drawn, 1 as it is.
    """

    mode: Mode
    solver: str
    steps: int
    eta: float
    guidance: float | None = None
    texture: float = 1.0
    prompt_guidance: float = 3.0


# Points of the curve in docs/speed.md; "reference" is the authors' procedure. Its guidance draws Pneumonia fainter than
# real ones are beside the other lung (docs/log.md).
_QUALITIES = {
    "draft": Settings("regional", "dpm++", 4, 0.0),
    "default": Settings("regional", "dpm++", 6, 0.0),
    "reference": Settings("two-pass", "ddim", 100, 1.0, guidance=7.0, texture=0.0, prompt_guidance=1.0),
}


def default_blend(mode: str, adapted: bool = False) -> AnatomyBlend:
    """Return how the organ mask acts where the caller does not say: the paper's way, or in regional mode otherwise.

    With an adapter no prior is kept at all: the mask is obeyed as well and costs no realism; a little more of it than
    was trained makes up for what few steps leave to chance, and a little less noise beside the organs draws arms with
    fewer streaks (docs/log.md). Without one, half of the steps, as in the paper, leaves the contours to chance at 32×32
    latents; eight tenths everywhere keeps them and with them the prior's softness. Half of the steps, but 0.9 along the
    contours, gives both. X-rays of one mask differ in regional mode as real ones do; the paper's have one prior.

    Args:
        mode: "regional" or "two-pass".
        adapted: whether the model has an anatomy adapter.
    """
    if mode != "regional":
        return AnatomyBlend()
    if adapted:
        return AnatomyBlend(until=0.0, variety=1.0, adapter=1.1, outside_noise=0.95)
    return AnatomyBlend(contour_until=0.9, variety=1.0)


def check_settings(
    seeds: Sequence[int],
    quality: str = "default",
    mode: str | None = None,
    solver: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    eta: float | None = None,
    lesion_start: float = 0.1,
    lesion_until: float = 1.0,
    texture: float | None = None,
    prompt_guidance: float | None = None,
) -> Settings:
    """Check the settings of a call without a model; arguments as in ``XRealPipeline.__call__``.

    Returns:
        Those of the quality, changed where the caller says otherwise.

    Raises:
        InputError: a setting is unknown or out of range.
    """
    if quality not in _QUALITIES:
        raise InputError(f"unknown quality {quality!r}; expected one of {', '.join(_QUALITIES)}")
    chosen = _QUALITIES[quality]
    if mode is not None and mode != chosen.mode:
        of_mode = {point.mode: point for point in (_QUALITIES["default"], _QUALITIES["reference"])}
        if mode not in of_mode:
            raise InputError(f"unknown mode {mode!r}; expected one of {', '.join(of_mode)}")
        chosen = of_mode[mode]
    solver = chosen.solver if solver is None else solver
    steps = chosen.steps if steps is None else steps
    texture = chosen.texture if texture is None else texture
    guidance = chosen.guidance if guidance is None else guidance
    prompt_guidance = chosen.prompt_guidance if prompt_guidance is None else prompt_guidance
    eta = (chosen.eta if solver == "ddim" else 0.0) if eta is None else eta
    if solver not in SOLVERS:
        raise InputError(f"unknown solver {solver!r}; expected one of {', '.join(SOLVERS)}")
    if not isinstance(steps, Integral) or steps < 1:
        raise InputError(f"steps is {steps}; expected a whole number, at least 1")
    _check_seeds(seeds)
    for name, scale in (("guidance", guidance), ("prompt_guidance", prompt_guidance)):
        if scale is not None and not 0 <= scale < float("inf"):
            raise InputError(f"{name} is {scale}; expected a number ≥ 0")
    for name, share in (("lesion_start", lesion_start), ("lesion_until", lesion_until)):
        if not 0 <= share <= 1:
            raise InputError(f"{name} is {share}; expected 0 to 1")
    if lesion_start > lesion_until:
        raise InputError(f"lesion_start is {lesion_start}, lesion_until {lesion_until}: no lesion would be drawn")
    if not 0 <= texture <= 2:
        raise InputError(f"texture is {texture}; expected 0 (none) to 2, 1 as in real X-rays")
    if not 0 <= eta <= 1 or (eta > 0 and solver != "ddim"):
        raise InputError(f"eta is {eta} with solver {solver}; expected 0 to 1 with ddim, 0 with any other")
    return Settings(chosen.mode, solver, steps, eta, guidance, texture, prompt_guidance)


def _check_seeds(seeds: Sequence[int]) -> None:
    if not isinstance(seeds, Sequence | np.ndarray) or isinstance(seeds, str):
        raise InputError(f"seeds is {seeds!r}; expected a list, one per image")
    if len(seeds) == 0:
        raise InputError("no seeds; give one per image")
    if bad := [seed for seed in seeds if not isinstance(seed, Integral)]:
        raise InputError(f"seed {bad[0]!r} is no whole number")
    if bad := [seed for seed in seeds if not 0 <= int(seed) < 2**63]:
        raise InputError(f"seed {bad[0]} is out of range; expected 0 to 2^63 − 1")


def lesions_per_image(
    lesions: Lesion | Sequence[Lesion] | Sequence[Sequence[Lesion]],
    organ_mask: np.ndarray | None,
    batch: int,
    image_size: int,
) -> list[list[Lesion]]:
    """Give each image its own lesions, at the model's size.

    Args:
        lesions: one or several of all images, or one sequence per image.
        organ_mask: (H, W), (B, H, W) or None; lesion masks must have its size.
        batch: number of images.
        image_size: side of the model's images in pixels.

    Raises:
        InputError: neither form; MaskError: a mask of another size.
    """
    given: list[Any] = [lesions] if isinstance(lesions, Lesion) else list(lesions)
    per_image: list[list[Lesion]]
    if all(isinstance(lesion, Lesion) for lesion in given):
        per_image = [given] * batch
    elif len(given) == batch and all(_are_lesions(own) for own in given):
        per_image = [list(own) for own in given]
    else:
        raise InputError(f"lesions: expected a list of Lesion, or one list of Lesion for each of the {batch} seeds")
    if organ_mask is not None:
        masks = [np.asarray(organ_mask)] * batch if np.ndim(organ_mask) == 2 else [np.asarray(m) for m in organ_mask]
        for mask, own in zip(masks * (batch // len(masks)), per_image, strict=True):
            for lesion in own:
                if lesion.mask.shape != mask.shape:
                    raise MaskError(
                        f"lesion mask is {lesion.mask.shape}, organ mask {mask.shape}; expected the same size"
                    )
                warn_if_outside_lungs(lesion, mask)
    return [[_fitted(lesion, image_size) for lesion in own] for own in per_image]


def _are_lesions(given: Any) -> bool:
    return isinstance(given, Sequence) and all(isinstance(one, Lesion) for one in given)


def _fitted(lesion: Lesion, size: int) -> Lesion:
    if lesion.mask.shape == (size, size):  # and was checked when the lesion was made
        return lesion
    return replace(lesion, mask=resize_lesion_mask(lesion.mask, size))


def prompts_per_image(prompt: str | Sequence[str], lesions: Sequence[Sequence[Lesion]]) -> list[str]:
    """Write each image's own prompt: ``{findings}`` stands for the findings of its lesions, or for "No Finding".

    Args:
        prompt: of all images, or one per image.
        lesions: of each image.

    Raises:
        InputError: another number of prompts than of images, no text, or braces that stand for nothing.
    """
    prompts = list(prompt) if isinstance(prompt, Sequence) and not isinstance(prompt, str) else [prompt] * len(lesions)
    if not all(isinstance(one, str) for one in prompts):
        raise InputError(f"prompt is {prompt!r}; expected text, or one text per image")
    if strange := [one for one in prompts if set("{}") & set(one.replace("{findings}", ""))]:
        raise InputError(f"prompt {strange[0]!r}: braces stand for nothing but {{findings}}, the lesions' names")
    if len(prompts) != len(lesions):
        raise InputError(f"{len(prompts)} prompts for {len(lesions)} images; give one prompt, or one per image")
    named = [prompt_from_findings([one.finding for one in own] or [Finding.NO_FINDING]) for own in lesions]
    return [one.replace("{findings}", names) for one, names in zip(prompts, named, strict=True)]
