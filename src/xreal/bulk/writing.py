"""Files of one image: pictures, masks, YOLO labels, and its record, from which every table is made.

| file | what |
|---|---|
| ``images/000000.png`` | the X-ray |
| ``healthy/000000.png`` | its twin, where it has lesions |
| ``organs/000000.png`` | organ mask |
| ``lesions/000000-edema.png`` | one lesion mask per finding, 255 inside |
| ``labels/000000.txt`` | YOLO: class, centre x, centre y, width, height as shares of the side; empty if healthy |

Where findings have no place there are no labels: a detector would take what is empty for healthy.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

import xreal
from xreal.bulk.drawing import Result
from xreal.bulk.plan import Plan
from xreal.files import write_bytes
from xreal.images import write_image
from xreal.masks.organs import cardiothoracic_ratio, write_organ_mask
from xreal.models.backends import Backend
from xreal.vocabulary import Finding

__all__ = ["CLASSES", "folders", "write_result"]

_FOLDERS = ("images", "organs", "parts")
_PLACED = ("healthy", "lesions", "labels")
CLASSES = tuple(finding for finding in Finding if finding is not Finding.NO_FINDING)
"""Findings in the order of their YOLO class; COCO's category is one more."""


def folders(plan: Plan) -> tuple[str, ...]:
    """Name the folders that a data set's files lie in."""
    return _FOLDERS + _PLACED if plan.has_places else _FOLDERS


def write_result(out: Path, plan: Plan, result: Result, model: str, weights: str, computed: Backend) -> dict[str, Any]:
    """Write one image's files, none if it failed, and return its record."""
    item = result.item
    name = f"{item.index:06d}"
    findings = [finding.value for finding in item.findings]
    if result.reasons:
        return {"id": item.index, "findings": findings, "dropped": list(result.reasons), "tries": result.attempt + 1}
    text = {"xreal:seed": str(result.seed), "xreal:weights": weights}
    write_image(out / "images" / f"{name}.png", result.image, text)
    write_organ_mask(out / "organs" / f"{name}.png", item.organ_mask)
    if result.healthy is not None:
        write_image(out / "healthy" / f"{name}.png", result.healthy, text)
    lesions, labels = [], []
    side = item.organ_mask.shape[0]
    for lesion, change in zip(item.lesions, result.change, strict=True):
        file = f"lesions/{name}-{lesion.finding.value.lower().replace(' ', '-')}.png"
        write_image(out / file, lesion.mask)
        regions = _regions(lesion.mask > 0)
        for x, y, width, height in (region["bbox"] for region in regions):
            shares = ((x + width / 2) / side, (y + height / 2) / side, width / side, height / side)
            labels.append(" ".join([str(CLASSES.index(lesion.finding)), *(f"{share:.6f}" for share in shares)]) + "\n")
        lesions.append(
            {
                "finding": lesion.finding.value,
                "strength": lesion.strength,
                "mask": file,
                "change": change,
                "regions": regions,
            }
        )
    if plan.has_places:
        write_bytes(out / "labels" / f"{name}.txt", "".join(labels).encode())
    return {
        "id": item.index,
        "image": f"images/{name}.png",
        "healthy": None if result.healthy is None else f"healthy/{name}.png",
        "organs": f"organs/{name}.png",
        "side": side,
        "findings": findings,
        "lesions": lesions,
        "anatomy": item.anatomy,
        "cardiothoracic_ratio": cardiothoracic_ratio(item.organ_mask),
        "seed": result.seed,
        "tries": result.attempt + 1,
        "dice": result.dice,
        "nearest_training_similarity": result.similarity,
        "draw": {**asdict(plan.draw), "prompt": item.prompt(plan.draw.prompt), "backend": computed.backend},
        "precision": computed.precision,
        "model": model,
        "weights": weights,
        "xreal": xreal.__version__,
    }


def _regions(mask: np.ndarray) -> list[dict[str, Any]]:
    """Describe the connected pieces of a mask (H, W) as COCO does: box x, y, width, height, area, run lengths."""
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    regions = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        piece = labels == number
        box = [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
        regions.append({"bbox": box, "area": int(piece.sum()), "segmentation": _run_lengths(piece)})
    return regions


def _run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """Encode as COCO's uncompressed run lengths: down the columns, zeros first."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}
