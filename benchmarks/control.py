"""Are masks obeyed? Conformance of organ masks, locality of lesions; a table and a JSON file.

    python benchmarks/control.py --data PREPARED [--model cxr-256] [--n 100] [--lesions 50] [--finding Pneumonia]
        [--out control.json]

PREPARED holds organ masks (`xreal prepare ... --segmenter cxr-256`). Lesions go into the same masks, one each: give
``--n`` at least as many. Rows of the conformance table: the model with default settings; the ceiling, real images
against their own masks; the floor, generated images against the masks of others. The segmenter that judges is the
model's own, so the ceiling is 1 by construction where it also made the masks.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from xreal import Lesion, XRealPipeline
from xreal.data.prepared import PreparedDataset
from xreal.evaluation.anatomy import anatomy_control
from xreal.evaluation.control import lesion_change, mean_and_interval, sample_lung_boxes
from xreal.masks import feather
from xreal.models.folder import resolve_folder, weights_hash
from xreal.pipeline import FEATHER_PIXELS
from xreal.vocabulary import parse_finding


def show(title: str, scores: dict[str, np.ndarray]) -> dict[str, Any]:
    """Print one row per score and return the numbers."""
    print(f"\n{title}")
    numbers = {}
    for name, values in scores.items():
        mean, low, high = mean_and_interval(values)
        print(f"  {name:28s} {mean:.4f}  [{low:.4f}, {high:.4f}]  n = {len(values)}")
        numbers[name] = {"mean": mean, "low": low, "high": high, "n": len(values)}
    return numbers


def draw(pipeline: XRealPipeline, masks: np.ndarray, lesions: list[list[Lesion]], batch: int, **settings: Any) -> Any:
    """Draw one image per mask; seed i for mask i."""
    images, healthy = [], []
    for start in range(0, len(masks), batch):
        part = slice(start, start + batch)
        seeds = list(range(start, start + len(masks[part])))
        output = pipeline(masks[part], lesions[part], seeds, **settings)
        images.append(output.images)
        healthy.append(output.images if output.healthy is None else output.healthy)
    return np.concatenate(images), np.concatenate(healthy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--model", default="cxr-256")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--lesions", type=int, default=50)
    parser.add_argument("--two-pass-lesions", type=int, default=20)
    parser.add_argument("--finding", default="Pneumonia")
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    pipeline = XRealPipeline.from_pretrained(options.model)
    pipeline.set_progress_bar_config(disable=True)
    validation = PreparedDataset(options.data, "val")
    indices = validation.with_organ_mask()
    indices = indices[:: max(1, len(indices) // options.n)][: options.n]
    samples = [validation[i] for i in indices]
    masks = np.stack([sample.organ_mask for sample in samples])
    real = np.stack([sample.image for sample in samples]).astype(np.float32) / 255
    result: dict[str, Any] = {"model": options.model, "weights": weights_hash(resolve_folder(options.model))}

    began = time.perf_counter()
    images, _ = draw(pipeline, masks, [[]] * len(masks), options.batch)
    result["seconds per healthy image"] = (time.perf_counter() - began) / len(masks)
    result["conformance"] = show("conformance: default settings", anatomy_control(pipeline.segmenter, images, masks))
    result["ceiling"] = show("ceiling: real images, own masks", anatomy_control(pipeline.segmenter, real, masks))
    shuffled = np.roll(masks, 1, axis=0)
    result["floor"] = show("floor: shuffled masks", anatomy_control(pipeline.segmenter, images, shuffled))

    finding = parse_finding(options.finding)
    boxes = sample_lung_boxes(masks[: options.lesions], seed=0)
    lesions = [[Lesion(finding, mask)] for mask in boxes]
    settings: dict[str, Any]
    for title, n, settings in (
        ("regional", options.lesions, {}),
        ("regional, exact", min(10, options.lesions), {"exact": True}),
        ("two-pass", options.two_pass_lesions, {"mode": "two-pass"}),
    ):
        images, healthy = draw(pipeline, masks[:n], lesions[:n], options.batch, **settings)
        scores = lesion_change(images, healthy, boxes[:n])
        if "exact" in settings:
            grown = np.stack([feather(box, FEATHER_PIXELS) for box in boxes[:n]]) > 0
            scores["pixels changed beyond the feather"] = ((images != healthy) & ~grown).sum((1, 2)).astype(float)
        result[f"locality {title}"] = show(f"lesion locality, {finding} boxes: {title}", scores)
    print(json.dumps(result))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
