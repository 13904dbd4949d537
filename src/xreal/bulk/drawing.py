"""Draw the images of one part, check each, and draw again those that fail."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from xreal.bulk.copies import CopyCheck
from xreal.bulk.plan import Plan
from xreal.bulk.sampling import Item, image_seed
from xreal.pipeline import XRealPipeline
from xreal.synthesis import conformance, lesion_changes

__all__ = ["Result", "draw_items"]


@dataclass(frozen=True, eq=False)
class Result:
    """The last try at one image.

    Attributes:
        item: what was asked for.
        seed: of this try.
        attempt: 0 for the first try.
        image: (S, S) float32 in [0, 1].
        healthy: its twin without lesions; None where it has none.
        dice: organ to Dice, of the twin where there is one.
        similarity: to the nearest training image; None where that was not asked for.
        change: mean absolute difference from the twin inside each lesion.
        reasons: why it is not good enough; empty if it is.
    """

    item: Item
    seed: int
    attempt: int
    image: np.ndarray
    healthy: np.ndarray | None
    dice: dict[str, float]
    similarity: float | None
    change: tuple[float, ...]
    reasons: tuple[str, ...]


def draw_items(pipeline: XRealPipeline, plan: Plan, items: Sequence[Item], copies: CopyCheck | None) -> list[Result]:
    """Draw the items side by side, those that fail again with their next seeds; returns one result each, in order.

    What is drawn side by side follows from the plan alone, so the results do too, to the last bit.
    """
    results: dict[int, Result] = {}
    waiting = list(items)
    for attempt in range(plan.checks.retries + 1):
        for result in _draw_once(pipeline, plan, waiting, attempt, copies):
            results[result.item.index] = result
        waiting = [item for item in waiting if results[item.index].reasons]
        if not waiting:
            break
    return [results[item.index] for item in items]


def _draw_once(
    pipeline: XRealPipeline, plan: Plan, items: Sequence[Item], attempt: int, copies: CopyCheck | None
) -> list[Result]:
    seeds = [image_seed(plan, item.index, attempt) for item in items]
    organ_masks = np.stack([item.organ_mask for item in items])
    with warnings.catch_warnings():  # boxes of real lesions may reach beyond the lungs
        warnings.simplefilter("ignore", UserWarning)
        settings = asdict(plan.draw) | {"prompt": [item.prompt(plan.draw.prompt) for item in items]}
        output = pipeline(organ_masks, [item.lesions for item in items], seeds, **settings)
    without = output.images if output.healthy is None else output.healthy
    dice = [{}] * len(items) if pipeline.segmenter is None else conformance(pipeline, without, organ_masks)
    similarity: list[float | None] = [None] * len(items)
    if copies is not None:
        similarity = copies.similarity(output.images).round(4).tolist()
    results = []
    for i, item in enumerate(items):
        image, twin = output.images[i], without[i] if item.lesions else None
        change = () if twin is None else tuple(lesion_changes(image, twin, [one.mask for one in item.lesions]))
        reasons = [
            f"Dice of the {organ} below {plan.checks.min_dice:g}"
            for organ, value in dice[i].items()
            if value < plan.checks.min_dice
        ]
        nearest = similarity[i]
        if copies is not None and nearest is not None and nearest > copies.limit:
            reasons.append("near-copy of a training image")
        found = dice[i], nearest, change, tuple(reasons)
        results.append(Result(item, seeds[i], attempt, image, twin, *found))
    return results
