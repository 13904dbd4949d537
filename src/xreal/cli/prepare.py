"""``xreal prepare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xreal.cli.progress import track

__all__ = ["prepare"]


def prepare(
    source: Annotated[str, typer.Argument(help="jsrt, nih-cxr14 or folder.")],
    raw: Annotated[Path, typer.Argument(help="The source's folder.")],
    prepared: Annotated[Path, typer.Argument(help="Folder for the prepared data set.")],
    image_size: Annotated[int, typer.Option(help="Side of the square images in pixels.")] = 256,
    segmenter: Annotated[
        str | None, typer.Option(help="Model that makes organ masks where the source has none.")
    ] = None,
) -> None:
    """Bring a source's X-rays, labels and masks into one form for training."""
    from xreal.data.prepare import prepare as prepare_source

    organ_masks = None
    if segmenter is not None:
        from xreal.segmentation import mask_provider

        organ_masks = mask_provider(segmenter)
    summary = prepare_source(source, raw, prepared, image_size, organ_masks, progress=track)
    for name, count in summary["counts"].items():  # type: ignore[attr-defined]
        typer.echo(f"{count:8d}  {name}")
    for name, reason in summary["skipped"].items():  # type: ignore[attr-defined]
        typer.echo(f"skipped {name}: {reason}")
