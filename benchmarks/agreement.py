"""What a backend does to pictures: the same seeds drawn by eager float32 and by each backend; a table and a JSON line.

    python benchmarks/agreement.py [--model cxr-256] [--n 16] [--steps 15]

Anatomies of the statistical shape model, one Pneumonia box in each. "differs" is the mean absolute difference of the
pictures to eager float32, in % of white; Dice is that of the second segmenter, in the healthy twin; "brighter" is the
mean change inside the box, in % of white; then the same less eager float32's, with the standard error of the mean over
pictures.
"""

from __future__ import annotations

import argparse
import json
import math

import numpy as np
import torch
from speed import backends

from xreal import Finding, Lesion, XRealPipeline
from xreal.evaluation.anatomy import anatomy_control
from xreal.evaluation.control import lesion_change, sample_lung_boxes
from xreal.evaluation.judges import JUDGES, load_judges
from xreal.masks.shapes import sample_organ_mask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cxr-256")
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--steps", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(2)
    judges, pipeline = load_judges(JUDGES), XRealPipeline.from_pretrained(options.model, "torch")
    pipeline.set_progress_bar_config(disable=True)
    masks = np.stack([sample_organ_mask(seed=seed) for seed in range(options.n)])
    boxes = sample_lung_boxes(masks, seed=0)
    lesions = [[Lesion(Finding.PNEUMONIA, box)] for box in boxes]
    rows, eager = [], {}
    for backend in backends():
        pipeline.use_backend(backend)
        parts = []
        for first in range(0, options.n, 4):
            part = slice(first, first + 4)
            seeds = list(range(first, first + len(masks[part])))
            parts.append(pipeline(masks[part], lesions[part], seeds, steps=options.steps))
        images, healthy = (np.concatenate([getattr(p, name) for p in parts]) for name in ("images", "healthy"))
        anatomy = anatomy_control(judges.segmenter, healthy, masks)
        values = {name: values for name, values in anatomy.items() if name.startswith("dice")}
        values["brighter, %"] = 100 * lesion_change(images, healthy, boxes)["brighter"]
        eager = eager or {**values, "images": images}
        row = {"backend": backend, "differs, %": 100 * float(np.abs(images - eager["images"]).mean())}
        for name, own in values.items():
            less = own - eager[name]
            row |= {name: float(np.nanmean(own)), f"{name}, less": float(np.nanmean(less))}
            row[f"{name}, error"] = float(np.nanstd(less)) / math.sqrt(options.n)
        print("  ".join(f"{key} {value:.4f}" if isinstance(value, float) else value for key, value in row.items()))
        rows.append(row)
    print(json.dumps({"n": options.n, "steps": options.steps, "rows": rows}))


if __name__ == "__main__":
    main()
