"""Judge a shape model by masks that it did not learn from: how well it fits them, and whether its samples are alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xreal.errors import MaskError
from xreal.masks.organs import OrganMask
from xreal.masks.shape_checks import mask_measures
from xreal.masks.shape_fitting import fit_shape_model
from xreal.masks.shape_model import ShapeModel
from xreal.masks.shapes import sample_organ_mask

__all__ = ["judge_shape_model"]


def judge_shape_model(model: ShapeModel, masks: Sequence[OrganMask]) -> list[tuple[str, str]]:
    """Fit the model to masks, and draw as many samples as there are masks, seeds 0, 1, …

    Returns:
        Lines of a table, (what, value): the mean and the lowest Dice of the fit per organ; mean ± standard deviation of
        each measure over the samples, and over the masks.

    Raises:
        MaskError: no mask has both lungs and a heart.
    """
    dice, real = [], []
    for mask in masks:
        try:
            dice.append(fit_shape_model(mask, model).dice)
        except MaskError:
            continue
        real.append(mask_measures(mask))
    if not dice:
        raise MaskError("No mask to judge the shape model by has both lungs and a heart.")
    drawn = [mask_measures(sample_organ_mask(seed, model=model)) for seed in range(len(real))]
    lines = [("masks", f"{len(real)}")]
    for organ in dice[0]:
        values = np.array([one[organ] for one in dice])
        lines.append((f"Dice of the fit, {organ}", f"mean {values.mean():.3f}, lowest {values.min():.3f}"))
    for name in real[0]:
        shown = []
        for kind, measures in (("samples", drawn), ("masks", real)):
            values = np.array([one[name] for one in measures])
            shown.append(f"{kind} {values.mean():.3f} ± {values.std():.3f}")
        lines.append((name, ", ".join(shown)))
    return lines
