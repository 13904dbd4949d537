"""Generated X-rays for a study: each asks for the anatomy and the finding of one of the real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from xreal.errors import InputError
from xreal.evaluation.cases import Cases, write_case
from xreal.evaluation.control import sample_lung_boxes
from xreal.masks.lesions import Lesion
from xreal.models.folder import resolve_folder, weights_hash
from xreal.pipeline import XRealPipeline
from xreal.vocabulary import Finding, Organ

__all__ = ["draw_like", "first_findings", "open_model"]

_BATCH = 4
Track = Callable[[Sequence[int], str], Iterable[int]]


def open_model(model: str) -> XRealPipeline:
    """Load a model that draws, without a progress bar for every picture."""
    pipeline = XRealPipeline.from_pretrained(model, device="auto")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def first_findings(cases: Cases) -> Cases:
    """Leave of every case its first finding alone, as a drawn one has; how many are asked for would tell them apart."""
    return replace(cases, findings=tuple(own[:1] for own in cases.findings))


def draw_like(real: Cases, model: str, pipeline: XRealPipeline, folder: Path, seed: int, track: Track) -> None:
    """Draw one X-ray for each real one, with its organ mask and its finding, and write them as cases.

    The lesion goes where the real one lies; where that is not known, into a box in the lungs.

    Args:
        real: with organ masks and at most one finding each, at the model's size.
        model: name or folder, for the record.
        pipeline: that model.
        folder: new folder for the pictures, see ``write_case``.
        seed: of the first picture.
        track: shows progress over the batches.

    Raises:
        InputError: a real X-ray has no mask of both lungs.
    """
    lungs = (Organ.LEFT_LUNG, Organ.RIGHT_LUNG)
    for name, mask in zip(real.image_ids, real.organ_masks, strict=True):
        if not all((mask == lung).any() for lung in lungs):
            raise InputError(f"no mask of both lungs for {name}; give real X-rays that show both, or their masks")
    boxes = sample_lung_boxes(real.organ_masks, seed)
    known = real.lesion_masks.any(axis=(1, 2), keepdims=True)
    findings = tuple(own or (Finding.NO_FINDING,) for own in real.findings)
    sick = np.array([own[0] is not Finding.NO_FINDING for own in findings])[:, None, None]
    requests = replace(
        real,
        image_ids=tuple(f"{i:04d}" for i in range(len(real))),
        findings=findings,
        lesion_masks=np.where(sick, np.where(known, real.lesion_masks, boxes), 0).astype(np.float32),
        healthy=np.full_like(real.images, np.nan),
    )
    folder.mkdir(parents=True)
    weights = weights_hash(resolve_folder(model))
    for start in track(range(0, len(real), _BATCH), "drawing"):
        part = requests.take(range(start, min(start + _BATCH, len(real))))
        lesions = [
            [] if own[0] is Finding.NO_FINDING else [Lesion(own[0], mask)]
            for own, mask in zip(part.findings, part.lesion_masks, strict=True)
        ]
        seeds = [seed + start + i for i in range(len(part))]
        drawn = replace(part, images=pipeline(part.organ_masks, lesions, seeds).images)
        for i, one in enumerate(seeds):
            write_case(folder, drawn, i, {"seed": one, "weights": weights, "like": real.image_ids[start + i]})
