"""``xreal segment``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["segment"]


def segment(
    image: Annotated[Path, typer.Argument(help="Chest X-ray, or a folder of them.")],
    out: Annotated[Path, typer.Option(help="Organ mask (.png or .npy), or a folder if IMAGE is one.")],
    model: Annotated[str, typer.Option(help="Bundled model or model folder.")] = "cxr-256",
) -> None:
    """Find lungs and heart in chest X-rays."""
    from xreal.segmentation import segment_files

    for path, reasons in segment_files(image, out, model):
        typer.echo(f"{path}" + (f"  implausible: {'; '.join(reasons)}" if reasons else ""))
