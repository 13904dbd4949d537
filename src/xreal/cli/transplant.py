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
    n: Annotated[int, typer.Option("-n", help="X-rays with an opacity.")] = 1000,
    simulated: Annotated[int, typer.Option(help="X-rays with a drawn nodule, mass or effusion, besides.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the choice.")] = 0,
) -> None:
    """Put opacities from boxes into many healthy lungs, to train on; simulate nodules and effusions besides."""
    from xreal.training.transplanted import write_transplanted

    summary = write_transplanted(prepared, out, n, simulated, seed, track)
    typer.echo(
        f"{n} X-rays with one of {summary['opacities']} opacities and {simulated} with a simulated finding, of "
        f"{summary['hosts']} healthy ones: {out}"
    )
