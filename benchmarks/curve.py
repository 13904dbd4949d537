"""Quality against speed: solvers, steps and guidance on the same masks, lesions and seeds; JSON, a table and a plot.

    python benchmarks/curve.py --data PREPARED [--model cxr-256] [--n 100] [--points dpm++:4,unipc:8] [--out DIR]

A point is SOLVER:STEPS, and after that any other settings of the pipeline, such as ``dpm++:10:lesion_until=0.8`` or
``ddim:30:mode=two-pass``. Each draws the requests of ``xreal evaluate``, an organ mask of `val` with a finding in a
box, and is judged by its judges; the Fréchet distance, in the encoder's features, and the spectrum are those of the
healthy twins. Seconds are those of the processor per image, without a segmenter, and count all threads, so a busy
machine distorts them less than a clock on the wall.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from xreal import Lesion, XRealPipeline
from xreal.data.prepared import PreparedDataset
from xreal.evaluation.card import anatomy_axis, pathology_axes
from xreal.evaluation.cases import Cases, joined
from xreal.evaluation.fidelity import frechet_distance
from xreal.evaluation.judges import EncoderFeatures, load_judges
from xreal.evaluation.rows import ask
from xreal.evaluation.spectrum import spectrum_distance
from xreal.models.folder import resolve_folder, weights_hash

POINTS = "dpm++:4,dpm++:5,dpm++:6,dpm++:8,dpm++:10,dpm++:15,unipc:6,unipc:8,unipc:12,ddim:8,ddim:12,ddim:30,euler:10,"
POINTS += "dpm++:10:lesion_until=0.8,dpm++:10:lesion_start=0.3"
DICE = {"dice left lung": "Dice left lung", "dice right lung": "Dice right lung", "dice heart": "Dice heart"}


def settings_of(point: str) -> dict[str, Any]:
    solver, steps, *others = point.split(":")
    pairs = (other.split("=") for other in others)
    return {"solver": solver, "steps": int(steps)} | {k: v if k == "mode" else float(v) for k, v in pairs}


def draw(pipeline: XRealPipeline, requests: Cases, settings: dict[str, Any]) -> tuple[Cases, float]:
    """Draw the requests in batches of four; return them with images and twins, and processor seconds per image."""
    began, parts = time.process_time(), []
    for first in range(0, len(requests), 4):
        part = requests.take(range(first, min(first + 4, len(requests))))
        lesions = [[Lesion(names[0], mask)] for names, mask in zip(part.findings, part.lesion_masks, strict=True)]
        parts.append(pipeline(part.organ_masks, lesions, list(range(first, first + len(part))), **settings))
    seconds = (time.process_time() - began) / len(requests)
    images, healthy = (np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "healthy"))
    return replace(requests, images=images, healthy=healthy), seconds


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = ("Frechet distance", "Dice heart", "middle band, dB", "brighter in the lesion, % of white")
    figure, axes = pyplot.subplots(1, len(names), figsize=(4.3 * len(names), 4), layout="constrained")
    for axis, name in zip(axes, names, strict=True):
        for solver in dict.fromkeys(row["solver"] for row in rows):
            own = [row for row in rows if row["solver"] == solver and row["point"].count(":") == 1]
            axis.plot([row["seconds"] for row in own], [row[name] for row in own], marker="o", label=solver)
            for row in own:
                axis.annotate(row["steps"], (row["seconds"], row[name]), fontsize=7)
        axis.set(xlabel="processor seconds per image", title=name)
    axes[0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", action="extend", required=True)
    parser.add_argument("--model", default="cxr-256")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--points", default=POINTS)
    parser.add_argument("--out", type=Path, default=Path("curve"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    pipeline, judges = XRealPipeline.from_pretrained(options.model), load_judges()
    pipeline.set_progress_bar_config(disable=True)
    validation = PreparedDataset(options.data, "val")
    real = Cases.from_samples(validation.take(np.random.default_rng(0).permutation(len(validation)).tolist()))
    half = len(real) // 2
    reference, others = real.take(range(half)), real.take(range(half, 2 * half))
    requests, _ = ask(joined(others, reference), options.n)
    encode = EncoderFeatures(judges.encoder, "")
    known = reference.images[: options.n]
    features = encode(known)

    rows = []
    for point in options.points.split(","):
        drawn, seconds = draw(pipeline, requests, settings_of(point))
        twins = replace(drawn, images=drawn.healthy)
        anatomy, (pathology, _) = anatomy_axis(judges, twins), pathology_axes(judges, drawn)
        row = {
            "point": point,
            **settings_of(point),
            "seconds": seconds,
            "Frechet distance": frechet_distance(features, encode(twins.images[: len(known)])),
            **{name: anatomy[key]["value"] for key, name in DICE.items()},
            "cardiothoracic ratio error": anatomy["cardiothoracic ratio error"]["value"],
            "middle band, dB": spectrum_distance(known, twins.images[: len(known)])["spectrum difference middle band"],
            "brighter in the lesion, % of white": 100 * (pathology["brighter"]["value"] or 0.0),
            "seam": pathology["seam"]["value"],
        }
        shown = ((name, value) for name, value in row.items() if name not in ("solver", "steps"))
        print(
            "  ".join(f"{key} {value:.3f}" if isinstance(value, float) else str(value) for key, value in shown),
            flush=True,
        )
        rows.append(row)
    weights = weights_hash(resolve_folder(options.model))
    about = {"weights": weights, "n": len(requests), "rows": rows}
    (options.out / "curve.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    plot(rows, options.out / "curve.png")


if __name__ == "__main__":
    main()
