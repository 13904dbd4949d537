"""Quality against speed: solvers and numbers of steps on the same masks, lesions and seeds; JSON, a table and a plot.

    python benchmarks/curve.py --data PREPARED [--model cxr-256] [--n 16] [--points dpm++:4,dpm++:8,ddim:30] [--out DIR]

Each point draws one Pneumonia box into each of n organ masks of `val`, in regional mode. Conformance is judged by the
second segmenter, which is not the model's. "off the limit" is the mean absolute difference to the same seeds' images at
``--limit`` steps of DPM-Solver++, where all deterministic solvers of the same equation meet: what is lost by haste.
Seconds are those of the processor per image, U-Net and autoencoder alone (no segmenter), and count all threads, so a
busy machine distorts them less than a clock on the wall.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from xreal import Finding, Lesion, XRealPipeline
from xreal.data.prepared import PreparedDataset
from xreal.evaluation.anatomy import anatomy_control
from xreal.evaluation.control import lesion_change, sample_lung_boxes
from xreal.evaluation.judges import JUDGES, load_judges
from xreal.models.folder import resolve_folder, weights_hash

POINTS = "dpm++:4,dpm++:6,dpm++:8,dpm++:10,dpm++:12,dpm++:15,dpm++:20,dpm++:30,unipc:6,unipc:8,unipc:10,unipc:15,"
POINTS += "ddim:10,ddim:15,ddim:30,euler:10,euler:15,euler:30"


def draw(pipeline: XRealPipeline, masks: np.ndarray, lesions: list[list[Lesion]], solver: str, steps: int) -> Any:
    """Draw one image per mask in batches of four; return images, healthy twins and processor seconds per image."""
    began, parts = time.process_time(), []
    for first in range(0, len(masks), 4):
        part = slice(first, first + 4)
        seeds = range(first, first + len(masks[part]))
        parts.append(pipeline(masks[part], lesions[part], list(seeds), solver=solver, steps=steps))
    seconds = (time.process_time() - began) / len(masks)
    return np.concatenate([p.images for p in parts]), np.concatenate([p.healthy for p in parts]), seconds


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    names = ("Dice, mean of lungs and heart", "off the limit, % of white", "brighter in the lesion, % of white")
    for axis, name in zip(axes, names, strict=True):
        for solver in dict.fromkeys(row["solver"] for row in rows):
            own = [row for row in rows if row["solver"] == solver]
            axis.plot([row["seconds"] for row in own], [row[name] for row in own], marker="o", label=solver)
            for row in own:
                axis.annotate(row["steps"], (row["seconds"], row[name]), fontsize=7)
        axis.set(xlabel="processor seconds per image", title=name)
    axes[0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--model", default="cxr-256")
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--points", default=POINTS)
    parser.add_argument("--out", type=Path, default=Path("curve"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    pipeline, judges = XRealPipeline.from_pretrained(options.model), load_judges(JUDGES)
    pipeline.set_progress_bar_config(disable=True)
    validation = PreparedDataset(options.data, "val")
    indices = validation.with_organ_mask()
    indices = indices[:: max(1, len(indices) // options.n)][: options.n]
    masks = np.stack([validation[i].organ_mask for i in indices])
    lesions = [[Lesion(Finding.PNEUMONIA, box)] for box in sample_lung_boxes(masks, seed=0)]
    limit, _, _ = draw(pipeline, masks, lesions, "dpm++", options.limit)

    rows = []
    for solver, steps in (point.split(":") for point in options.points.split(",")):
        images, healthy, seconds = draw(pipeline, masks, lesions, solver, int(steps))
        anatomy = anatomy_control(judges.segmenter, healthy, masks)
        dice = {name: float(np.nanmean(values)) for name, values in anatomy.items() if name.startswith("dice")}
        change = lesion_change(images, healthy, np.stack([own[0].mask for own in lesions]))
        row = {
            "solver": solver,
            "steps": int(steps),
            "seconds": seconds,
            "Dice, mean of lungs and heart": float(np.mean(list(dice.values()))),
            **dice,
            "off the limit, % of white": 100 * float(np.abs(images - limit).mean()),
            "brighter in the lesion, % of white": 100 * float(change["brighter"].mean()),
        }
        print("  ".join(f"{key} {value:.3f}" if isinstance(value, float) else str(value) for key, value in row.items()))
        rows.append(row)
    weights = weights_hash(resolve_folder(options.model))
    (options.out / "curve.json").write_text(json.dumps({"weights": weights, "n": len(masks), "rows": rows}, indent=1))
    plot(rows, options.out / "curve.png")


if __name__ == "__main__":
    main()
