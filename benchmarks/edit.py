"""What `xreal edit` does to real X-rays; tables and a JSON file.

    python benchmarks/edit.py --data PREPARED [--model cxr-256] [--n 50] [--only add,remove,organs]
        [--finding Pneumonia] [--steps 15] [--strength 0.8] [--out edit.json]

PREPARED holds organ masks (`xreal prepare ... --segmenter cxr-256`). Of its `val` images, every k-th:

- *add*: one box of the finding in a lung of each image.
- *remove*: the boxes of real findings, in all `val` images that have some.
- *organs*: the heart a fifth larger, 0.85 times as large, both lungs 1.08 times; refused anatomies are counted. What is
  reached is measured by the model's segmenter and by a second one that it does not know.

Outside identity counts the pixels that differ from the X-ray's where the edit's weight is 0. The classifier is the
bundled judge; "response in the box" is the mean of its map of the finding there, a logit.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from xreal import Lesion, XRealPipeline
from xreal.data.contract import Sample
from xreal.data.prepared import PreparedDataset
from xreal.errors import MaskError
from xreal.evaluation.control import mean_and_interval, sample_lung_boxes
from xreal.evaluation.judges import Judges, load_judges, read_images
from xreal.masks.organs import cardiothoracic_ratio, dice_per_organ
from xreal.masks.segmenter import segment
from xreal.masks.shapes import edit_organ_mask
from xreal.models.folder import resolve_folder, weights_hash
from xreal.vocabulary import Finding, Organ, parse_finding

MOVES: dict[str, dict[str, float]] = {
    "heart 1.2": {"heart_scale": 1.2},
    "heart 0.85": {"heart_scale": 0.85},
    "lungs 1.08": {"lung_scale": 1.08},
}
Numbers = dict[str, list[float]]


def detail(image: np.ndarray) -> np.ndarray:
    """Return what vessels and ribs make: frequencies between two Gaussians, of one and of four pixels."""
    return ndimage.gaussian_filter(image, 1) - ndimage.gaussian_filter(image, 4)


def identity(image: np.ndarray, edited: np.ndarray, weight: np.ndarray) -> dict[str, float]:
    return {
        "pixels changed outside": float((edited != image)[weight == 0].sum()),
        "share that may change": float((weight > 0).mean()),
    }


def response(
    judges: Judges, before: np.ndarray, after: np.ndarray, area: np.ndarray, finding: Finding
) -> dict[str, float]:
    """Measure the change in an area and the classifier's answer to it."""
    change, inside = after - before, area > 0
    scores = {
        "change inside": float(np.abs(change[inside]).mean()),
        "brighter inside": float(change[inside].mean()),
        "detail kept inside": float(np.corrcoef(detail(before)[inside], detail(after)[inside])[0, 1]),
    }
    if finding not in judges.encoder.findings:
        return scores
    reading = read_images(judges.encoder, np.stack([before, after]))
    index = judges.encoder.findings.index(finding)
    probability = reading.findings[:, index].sigmoid()
    size = before.shape
    maps = torch.nn.functional.interpolate(reading.maps[:, index : index + 1], size, mode="bilinear")[:, 0].numpy()
    return scores | {
        "probability before": float(probability[0]),
        "probability after": float(probability[1]),
        "response in the box, before": float(maps[0][inside].mean()),
        "response in the box, after": float(maps[1][inside].mean()),
    }


def add(pipeline: XRealPipeline, judges: Judges, samples: list[Sample], options: Any) -> Iterator[dict[str, float]]:
    finding = parse_finding(options.finding)
    boxes = sample_lung_boxes(np.stack([sample.organ_mask for sample in samples]), seed=0)
    for seed, (sample, box) in enumerate(zip(samples, boxes, strict=True)):
        image = pixels(sample)
        output = pipeline.edit(image, [Lesion(finding, box)], [seed], steps=options.steps, strength=options.strength)
        edited = output.images[0]
        yield identity(image, edited, output.weight) | response(judges, image, edited, box, finding)


def remove(pipeline: XRealPipeline, judges: Judges, samples: list[Sample], options: Any) -> Iterator[dict[str, float]]:
    for seed, sample in enumerate(samples):
        image, area = pixels(sample), (sample.box_mask > 0).astype(np.float32)
        named = [box.finding for box in sample.boxes if box.finding in judges.encoder.findings]
        finding = named[0] if named else sample.boxes[0].finding
        output = pipeline.edit(image, seeds=[seed], remove=area, steps=options.steps, strength=options.strength)
        edited = output.images[0]
        yield (
            identity(image, edited, output.weight)
            | response(judges, image, edited, area, finding)
            | rest(image, edited, sample, area > 0)
        )


def rest(image: np.ndarray, edited: np.ndarray, sample: Sample, area: np.ndarray) -> dict[str, float]:
    """Compare lung in the area with the other lung of the X-ray: a removed opacity leaves them alike."""
    lungs = np.isin(sample.organ_mask, (Organ.LEFT_LUNG, Organ.RIGHT_LUNG))
    if (lungs & area).sum() < 50 or (lungs & ~area).sum() < 50:
        return {}
    other = image[lungs & ~area].mean()
    return {
        "brighter than other lung, before": float(image[lungs & area].mean() - other),
        "brighter than other lung, after": float(edited[lungs & area].mean() - other),
    }


def organs(pipeline: XRealPipeline, judges: Judges, samples: list[Sample], move: str) -> Iterator[dict[str, float]]:
    for sample in samples:
        image = pixels(sample)
        before = find(pipeline.segmenter, image)
        try:
            wanted = edit_organ_mask(before, **MOVES[move])
            output = pipeline.edit(image, organ_mask=wanted)
        except MaskError:
            yield {"refused": 1.0}
            continue
        edited = output.images[0]
        scores = identity(image, edited, output.weight) | {"refused": 0.0}
        judged = find(judges.segmenter, image), find(judges.segmenter, edited)
        ratios = [cardiothoracic_ratio(mask) for mask in (before, wanted, find(pipeline.segmenter, edited), *judged)]
        if None not in ratios:
            first, asked, reached, judged_first, judged_reached = map(float, ratios)
            scores |= {
                "ratio asked to change by": asked - first,
                "ratio changed by": reached - first,
                "error of the ratio": abs(reached - asked),
                "ratio changed by, second segmenter": judged_reached - judged_first,
            }
        for organ in ("left lung", "right lung", "heart"):
            for when, mask in zip(("before", "after"), judged, strict=True):
                scores[f"Dice {organ}, second segmenter, {when}"] = dice_per_organ(wanted, mask).get(organ, 0.0)
        yield scores


def find(network: Any, image: np.ndarray) -> np.ndarray:
    found: np.ndarray = segment(network, torch.from_numpy(image)[None, None])[0]
    return found


def pixels(sample: Sample) -> np.ndarray:
    return sample.image.astype(np.float32) / 255


def show(title: str, rows: Iterator[dict[str, float]]) -> dict[str, Any]:
    """Print one row per score and return the numbers."""
    collected: Numbers = {}
    for row in rows:
        for name, value in row.items():
            collected.setdefault(name, []).append(value)
    print(f"\n{title}")
    numbers = {}
    for name, values in collected.items():
        mean, low, high = mean_and_interval(values)
        print(f"  {name:48s} {mean:8.4f}  [{low:.4f}, {high:.4f}]  n = {len(values)}", flush=True)
        numbers[name] = {"mean": mean, "low": low, "high": high, "n": len(values)}
    return numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--model", default="cxr-256")
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--only", default="add,remove,organs")
    parser.add_argument("--finding", default="Pneumonia")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--strength", type=float, default=0.8)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    pipeline = XRealPipeline.from_pretrained(options.model)
    pipeline.set_progress_bar_config(disable=True)
    judges = load_judges()
    validation = PreparedDataset(options.data, "val")
    indices = validation.with_organ_mask()
    indices = indices[:: max(1, len(indices) // options.n)][: options.n]
    samples = [validation[i] for i in indices]
    boxed = [validation[i] for i in validation.with_organ_mask() if validation.box_findings[i]]
    result: dict[str, Any] = {
        "model": options.model,
        "weights": weights_hash(resolve_folder(options.model)),
        "judges": judges.hashes,
        **{name: getattr(options, name) for name in ("n", "steps", "strength", "finding")},
    }
    parts = {
        "remove": lambda: remove(pipeline, judges, boxed, options),
        "add": lambda: add(pipeline, judges, samples, options),
        **{f"organs: {move}": lambda move=move: organs(pipeline, judges, samples, move) for move in MOVES},
    }
    only = options.only.split(",")
    for title, make in parts.items():
        if title.split(":")[0] in only:
            result[title] = show(title, make())
            if options.out:
                options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
