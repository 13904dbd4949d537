"""Contact sheets to look at: generated beside real, and every finding in one anatomy.

    python benchmarks/sheets.py --out FOLDER [--model cxr-256] [--data PREPARED]

With PREPARED, `real-and-generated.png` holds 32 real X-rays of its validation split beside 32 drawn from their masks;
it shows real patients' images and is not for publishing. `generated.png`, `findings.png` need no data.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import xreal
from xreal import Finding, Lesion, XRealPipeline
from xreal.data.prepared import PreparedDataset
from xreal.masks import ellipse, read_organ_mask
from xreal.sheets import colour_labels, overlay, signed_difference, write_sheet

EXAMPLES = Path(xreal.__file__).parent / "examples"
PLACES = (  # centre and half axes of an ellipse in the first example; each finding takes its number as seed
    (Finding.PNEUMONIA, (75, 150, 26, 34)),
    (Finding.EDEMA, (185, 140, 24, 40)),
    (Finding.ATELECTASIS, (72, 165, 28, 18)),
    (Finding.PLEURAL_EFFUSION, (72, 172, 34, 28)),
    (Finding.MASS, (80, 115, 18, 18)),
    (Finding.NODULE, (190, 110, 12, 12)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="cxr-256")
    parser.add_argument("--data", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    pipeline = XRealPipeline.from_pretrained(options.model)
    pipeline.set_progress_bar_config(disable=True)

    rows = []
    for path in sorted(EXAMPLES.glob("*.png")):
        output = pipeline(read_organ_mask(path), seeds=range(6))
        rows.append([colour_labels(output.organ_masks[0]), *output.images])
    write_sheet(options.out / "generated.png", rows, ["organ mask", "seeds 0 to 5"])

    organs, rows = read_organ_mask(EXAMPLES / "organs.png"), []
    for seed, (finding, place) in enumerate(PLACES):
        lesion = Lesion(finding, ellipse(*place, height=256, width=256))
        output = pipeline(organs, [lesion], seeds=[seed])
        image, twin = output.images[0], output.healthy[0]
        rows.append([overlay(twin, lesion.mask), twin, image, signed_difference(image, twin)])
    write_sheet(options.out / "findings.png", rows, ["lesion", "healthy", "with finding", "difference x2"])

    if options.data:
        validation = PreparedDataset(options.data, "val")
        indices = validation.with_organ_mask()
        samples = [validation[i] for i in indices[:: max(1, len(indices) // 32)][:32]]
        tiles = []
        for start in range(0, len(samples), 8):
            part = samples[start : start + 8]
            masks = np.stack([sample.organ_mask for sample in part])
            images = pipeline(masks, seeds=list(range(start, start + len(part)))).images
            tiles.append([sample.image.astype(np.float32) / 255 for sample in part])
            tiles.append(list(images))
        write_sheet(options.out / "real-and-generated.png", tiles)


if __name__ == "__main__":
    main()
