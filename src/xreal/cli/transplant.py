"""``xreal transplant``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xreal.cli.progress import track

__all__ = ["transplant"]


def transplant(
    prepared: Annotated[list[Path], typer.Argument(help="Prepared data sets: boxes, healthy X-rays, organ masks.")],
    out: Annotated[Path, typer.Option(help="Folder for the new data set; give it to `xreal train` beside the others.")],
    n: Annotated[int, typer.Option("-n", help="X-rays to make.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the choice.")] = 0,
) -> None:
    """Put opacities from boxes into the lungs of healthy X-rays, so that a model sees each in many patients."""
    from xreal.training.transplanted import write_transplanted

    summary = write_transplanted(prepared, out, n, seed, track)
    typer.echo(
        f"{summary['images']} X-rays of {summary['hosts']} healthy ones and {summary['opacities']} opacities: {out}"
    )
