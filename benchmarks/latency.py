"""How long one image takes, and how much memory: a table and one JSON line.

    python benchmarks/latency.py [--model cxr-256] [--repeats 5] [--threads 2]

Warm: the second and later images, one image with one lesion, default settings; two-pass beside it in the same run.
Cold: `python -m xreal.cli generate` in a fresh process, to the picture on disk. Memory: peak resident set.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import xreal
from xreal import Finding, Lesion, XRealPipeline
from xreal.masks import ellipse, read_organ_mask

ORGANS = Path(xreal.__file__).parent / "examples" / "organs.png"


def median_seconds(pipeline: XRealPipeline, repeats: int, **settings: object) -> float:
    organs = read_organ_mask(ORGANS)
    lesion = Lesion(Finding.PNEUMONIA, ellipse(75, 150, 26, 34, height=256, width=256))
    times = []
    for seed in range(repeats + 1):
        began = time.perf_counter()
        pipeline(organs, [lesion], [seed], **settings)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cxr-256")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    with tempfile.TemporaryDirectory() as folder:
        lesion = "Pneumonia=ellipse:75,150,26,34"
        command = [sys.executable, "-m", "xreal.cli", "generate", "--model", options.model, "--organs", str(ORGANS)]
        began = time.perf_counter()
        subprocess.run([*command, "--lesion", lesion, "--out", f"{folder}/out"], check=True, capture_output=True)
        cold = time.perf_counter() - began

    pipeline = XRealPipeline.from_pretrained(options.model)
    pipeline.set_progress_bar_config(disable=True)
    row = {
        "cold start to picture, s": cold,
        "regional, default, s": median_seconds(pipeline, options.repeats),
        "two-pass, default, s": median_seconds(pipeline, max(1, options.repeats // 3), mode="two-pass"),
        "peak memory, GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "threads": options.threads,
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }
    for name, value in row.items():
        print(f"{name:28s} {value:.2f}" if isinstance(value, float) else f"{name:28s} {value}")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
