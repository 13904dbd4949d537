"""Draw the bundled example organ masks, src/xreal/examples/*.png, from the procedural chest (no patient's data).

    python recipes/make_examples.py        # two seconds; overwrites the files with the same bytes

Palette PNGs of 256 × 256: the palette index is the label of ``Organ``.

| file                   | cardiothoracic ratio | lungs, share of the image |
|------------------------|----------------------|---------------------------|
| organs.png             | 0.44                 | 28%                       |
| organs-wide-heart.png  | 0.64                 | 23%                       |
| organs-small-lungs.png | 0.50                 | 19%                       |
"""

from pathlib import Path

import numpy as np
from PIL import Image

from xreal.data.phantom import phantom
from xreal.vocabulary import Finding, Organ

FOLDER = Path(__file__).parents[1] / "src" / "xreal" / "examples"
# file name -> seed, findings; the seeds were picked by eye, small-lungs as one of the smallest of 400.
EXAMPLES: dict[str, tuple[int, tuple[Finding, ...]]] = {
    "organs.png": (57, ()),
    "organs-wide-heart.png": (11, (Finding.CARDIOMEGALY,)),
    "organs-small-lungs.png": (156, ()),
}
COLOURS = {
    Organ.BACKGROUND: (0, 0, 0),
    Organ.LEFT_LUNG: (90, 160, 255),
    Organ.RIGHT_LUNG: (90, 220, 120),
    Organ.HEART: (255, 110, 100),
    Organ.AORTA: (255, 200, 80),
}


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, (seed, findings) in EXAMPLES.items():
        organ_mask = phantom(seed, 256, findings).organ_mask
        picture = Image.fromarray(organ_mask).convert("L")
        picture.putpalette([level for organ in Organ for level in COLOURS[organ]])
        picture.save(FOLDER / name, optimize=True)
        lungs = np.isin(organ_mask, (Organ.LEFT_LUNG, Organ.RIGHT_LUNG))
        widths = [np.ptp(np.flatnonzero(part.any(0))) + 1 for part in (organ_mask == Organ.HEART, lungs)]
        print(f"{name}: cardiothoracic ratio {widths[0] / widths[1]:.2f}, lungs {lungs.mean():.0%} of the image")


if __name__ == "__main__":
    main()
