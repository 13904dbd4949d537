"""Average the U-Net, text encoder and adapter of models of one training; all else is the first's.

python recipes/average.py OUT FIRST=0.5 SECOND=0.5 [THIRD=...]
"""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path

import torch

from xreal.models.folder import load_component, read_index


@torch.no_grad()
def main(out: Path, shares: dict[Path, float]) -> None:
    if not math.isclose(total := sum(shares.values()), 1):
        raise SystemExit(f"shares add up to {total}, not to 1")
    first, *others = shares
    shutil.copytree(first, out)
    index = read_index(first)
    for name in ("unet", "text_encoder", "anatomy_adapter"):
        if name not in index:
            continue
        mean = load_component(first, name, index[name])
        for ours in mean.parameters():
            ours.mul_(shares[first])
        for folder in others:
            part = load_component(folder, name, index[name])
            for ours, theirs in zip(mean.parameters(), part.parameters(), strict=True):
                ours.add_(theirs, alpha=shares[folder])
        mean.half().save_pretrained(out / name)


if __name__ == "__main__":
    pairs = (given.rsplit("=", 1) for given in sys.argv[2:])
    main(Path(sys.argv[1]), {Path(folder): float(share) for folder, share in pairs})
