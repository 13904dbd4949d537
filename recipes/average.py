"""Average the U-Net and the text encoder of two models of one training; all else is the second's.

python recipes/average.py FIRST SECOND OUT
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch

from xreal.models.folder import load_component, read_index


@torch.no_grad()
def main(first: Path, second: Path, out: Path) -> None:
    shutil.copytree(second, out)
    index = read_index(second)
    for name in ("unet", "text_encoder"):
        one, other = (load_component(folder, name, index[name]) for folder in (first, second))
        for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
            theirs.copy_((ours + theirs) / 2)
        other.half().save_pretrained(out / name)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
