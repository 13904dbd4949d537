"""Edits of real X-rays: what stays to the bit, what changes where it was asked for, what the judges make of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from xreal.data.contract import Sample
from xreal.data.prepared import PreparedDataset
from xreal.errors import MaskError
from xreal.evaluation.control import sample_lung_boxes
from xreal.evaluation.judges import Judges, read_images
from xreal.masks.lesions import Lesion
from xreal.masks.organs import cardiothoracic_ratio, dice_per_organ
from xreal.masks.segmenter import segment
from xreal.masks.shapes import edit_organ_mask
from xreal.pipeline import XRealPipeline
from xreal.vocabulary import Finding, Organ

__all__ = ["MOVES", "Edits", "judge_edits"]

MOVES: dict[str, dict[str, Any]] = {
    "heart x 1.2": {"heart_scale": 1.2},
    "heart x 0.85": {"heart_scale": 0.85},
    "lungs x 1.08": {"lung_scale": 1.08},
}
"""What organs are asked to become: arguments of ``edit_organ_mask``."""

_SHOWN = 3  # edits of a kind that are shown
_LUNGS = (Organ.LEFT_LUNG, Organ.RIGHT_LUNG)

Score = dict[str, float]
Edit = tuple[Score, np.ndarray | None]  # scores, edited image; None where the edit was refused


@dataclass
class Edits:
    """Edits of one kind.

    Attributes:
        scores: name -> per X-ray, (N,); NaN where there is no such number.
        pictures: first edits, X-ray and edited X-ray, (H, W) each.
    """

    scores: dict[str, np.ndarray]
    pictures: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)


def judge_edits(
    pipeline: XRealPipeline,
    judges: Judges,
    data: PreparedDataset,
    n: int,
    track: Callable[[Sequence[int], str], Iterable[int]],
) -> tuple[dict[str, Edits], list[str]]:
    """Edit real X-rays: add Pneumonia in a box, remove findings that have boxes, move organs.

    Args:
        pipeline: edits.
        judges: classifier and a segmenter that the pipeline does not know.
        data: real X-rays with organ masks; every k-th of them is edited.
        n: X-rays of each kind of edit, where there are as many.
        track: shows progress.

    Returns:
        By kind: "Pneumonia added", "findings removed", and those of ``MOVES``. All have "pixels changed outside",
        which counts pixels that differ from the X-ray's where the edit has no weight. And a note for each kind for
        which data or model lack something.
    """
    masked = [i for i in data.with_organ_mask() if np.isin(_LUNGS, np.asarray(data[i].organ_mask)).all()]
    found = data.box_findings
    boxed = [i for i in masked if found[i]]
    kinds: dict[str, tuple[list[int], Callable[[Sample, int], Edit]]] = {
        "Pneumonia added": (masked, partial(_add, pipeline, judges)),
        "findings removed": (boxed, partial(_remove, pipeline, judges)),
        **{name: (masked, partial(_move, pipeline, judges, move)) for name, move in MOVES.items()},
    }
    edits, notes = {}, []
    for kind, (usable, edit) in kinds.items():
        if not usable:
            notes.append(f"edits, {kind}: no real X-ray has a mask of both lungs" + " and a box" * (usable is boxed))
        elif kind in MOVES and pipeline.segmenter is None:
            notes.append(f"edits, {kind}: the model has no segmenter")
        else:
            picked = usable[:: max(1, len(usable) // n)][:n]
            edits[kind] = _collect(data, picked, edit, track(range(len(picked)), kind))
    return edits, notes


def _collect(
    data: PreparedDataset, picked: Sequence[int], edit: Callable[[Sample, int], Edit], numbers: Iterable[int]
) -> Edits:
    rows: list[Score] = []
    edits = Edits({})
    for number in numbers:
        sample = data[picked[number]]
        scores, edited = edit(sample, number)
        rows.append(scores)
        if edited is not None and len(edits.pictures) < _SHOWN:
            edits.pictures.append((_pixels(sample), edited))
    for name in dict.fromkeys(name for row in rows for name in row):
        edits.scores[name] = np.array([row.get(name, np.nan) for row in rows])
    return edits


def _add(pipeline: XRealPipeline, judges: Judges, sample: Sample, seed: int) -> Edit:
    image = _pixels(sample)
    area = sample_lung_boxes(np.asarray(sample.organ_mask)[None], seed)[0]
    output = pipeline.edit(image, [Lesion(Finding.PNEUMONIA, area)], [seed])
    edited = output.images[0]
    return _identity(image, edited, output.weight) | _response(judges, image, edited, area, Finding.PNEUMONIA), edited


def _remove(pipeline: XRealPipeline, judges: Judges, sample: Sample, seed: int) -> Edit:
    image, area = _pixels(sample), (sample.box_mask > 0).astype(np.float32)
    known = [one.finding for one in sample.boxes if one.finding in judges.encoder.findings]
    output = pipeline.edit(image, seeds=[seed], remove=area)
    edited = output.images[0]
    scores = _identity(image, edited, output.weight)
    scores |= _response(judges, image, edited, area, known[0] if known else sample.boxes[0].finding)
    lungs = np.isin(np.asarray(sample.organ_mask), _LUNGS)
    within, other = lungs & (area > 0), lungs & (area == 0)
    if min(within.sum(), other.sum()) >= 50:  # pixels; a removed opacity leaves both alike
        for when, picture in (("before", image), ("after", edited)):
            scores[f"brighter than other lung, {when}"] = float(picture[within].mean() - picture[other].mean())
    return scores, edited


def _move(pipeline: XRealPipeline, judges: Judges, move: dict[str, Any], sample: Sample, seed: int) -> Edit:
    image = _pixels(sample)
    before = _organs(pipeline.segmenter, image)
    try:
        wanted = edit_organ_mask(before, **move)
        output = pipeline.edit(image, seeds=[seed], organ_mask=wanted)
    except MaskError:  # the shape model or the warp cannot go there
        return {"refused": 1.0}, None
    edited = output.images[0]
    scores = _identity(image, edited, output.weight) | {"refused": 0.0}
    judged = [_organs(judges.segmenter, picture) for picture in (image, edited)]
    ratios = [cardiothoracic_ratio(mask) for mask in (before, wanted, _organs(pipeline.segmenter, edited), *judged)]
    if None not in ratios:
        first, asked, reached, judged_first, judged_reached = (float(ratio or 0) for ratio in ratios)
        scores |= {
            "cardiothoracic ratio asked to change by": asked - first,
            "cardiothoracic ratio changed by": reached - first,
            "cardiothoracic ratio error": abs(reached - asked),
            "cardiothoracic ratio changed by, judge": judged_reached - judged_first,
        }
    for when, mask in zip(("before", "after"), judged, strict=True):
        dice = dice_per_organ(wanted, mask)
        scores |= {f"dice {organ}, {when}": dice.get(organ, 0.0) for organ in ("right lung", "left lung", "heart")}
    return scores, edited


def _identity(image: np.ndarray, edited: np.ndarray, weight: np.ndarray) -> Score:
    return {
        "pixels changed outside": float((edited != image)[weight == 0].sum()),
        "share that may change": float((weight > 0).mean()),
    }


def _response(judges: Judges, before: np.ndarray, after: np.ndarray, area: np.ndarray, finding: Finding) -> Score:
    """Measure the change in an area and the classifier's answer to it; "response", a logit, is its map's mean there."""
    change, inside = after - before, area > 0
    scores = {
        "change inside": float(np.abs(change[inside]).mean()),
        "brighter inside": float(change[inside].mean()),
        "detail kept inside": float(np.corrcoef(_detail(before)[inside], _detail(after)[inside])[0, 1]),
    }
    if finding not in judges.encoder.findings:
        return scores
    reading = read_images(judges.encoder, np.stack([before, after]))
    index = judges.encoder.findings.index(finding)
    maps = F.interpolate(reading.maps[:, index : index + 1], before.shape, mode="bilinear")[:, 0].numpy()
    for when, logit, response in zip(("before", "after"), reading.findings[:, index], maps, strict=True):
        scores[f"probability {when}"] = float(logit.sigmoid())
        scores[f"response {when}"] = float(response[inside].mean())
    return scores


def _detail(image: np.ndarray) -> np.ndarray:
    """Return what vessels and ribs make: frequencies between two Gaussians, of one and of four pixels."""
    fine: np.ndarray = ndimage.gaussian_filter(image, 1) - ndimage.gaussian_filter(image, 4)
    return fine


def _organs(network: torch.nn.Module, image: np.ndarray) -> np.ndarray:
    found: np.ndarray = segment(network, torch.from_numpy(image)[None, None])[0]
    return found


def _pixels(sample: Sample) -> np.ndarray:
    pixels: np.ndarray = sample.image.astype(np.float32) / 255
    return pixels
