"""Pack a trained model folder for the package: half-precision weights, no training state.

python recipes/bundle.py RUN OUT
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch

from xreal.models.folder import load_component, read_index, write_index


def main(run: Path, out: Path) -> None:
    for name, class_name in read_index(run).items():
        component = load_component(run, name, class_name)
        if isinstance(component, torch.nn.Module):
            component.half()
        if hasattr(component, "register_to_config"):
            component.register_to_config(_name_or_path="")  # where the run lay is nobody's business
        component.save_pretrained(out / name)
    write_index(out)
    if (run / "README.md").exists():
        shutil.copy(run / "README.md", out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
