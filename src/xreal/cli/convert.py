"""``xreal convert``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["convert"]

convert = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Turn other checkpoints into a model folder.")


@convert.callback()
def _group() -> None:
    """Keep the name of the layout an argument of its own, though there is one layout only."""


@convert.command()
def authors(
    backbone: Annotated[Path, typer.Option(help="backbone.pth: U-Net, text encoder, noise schedule.")],
    autoencoder: Annotated[Path, typer.Option(help="ldm_ae.pth: the autoencoder.")],
    anatomy_controller: Annotated[Path, typer.Option(help="anatomy_controller.pth: of the autoencoder's layout.")],
    vocab: Annotated[Path, typer.Option(help="vocab.txt: WordPiece tokens, one a line (BERT's, uncased).")],
    out: Annotated[Path, typer.Option(help="Model folder to make; new or empty.")],
    image_size: Annotated[int, typer.Option(help="Side of the images in pixels; no tensor shows it.")] = 256,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all files, print the whole map, write nothing.")] = (
        False
    ),
) -> None:
    """Convert the release of XReal's authors, or Cheff's of the same layout.

    Sizes are read off the tensors. Every tensor is used or named with the reason; a file that is truncated, another one
    than asked for, or of another layout is refused. Files are opened without running any code that they may hold.
    """
    from xreal.convert import convert_authors, plan_authors
    from xreal.images import check_output_folder

    if dry_run:
        check_output_folder(out)
        for line in plan_authors(backbone, autoencoder, anatomy_controller, vocab, image_size).lines():
            typer.echo(line)
        return
    plan = convert_authors(backbone, autoencoder, anatomy_controller, vocab, out, image_size)
    for component in plan.components:
        typer.echo(f"{len(component.keys):6d} tensors -> {component.name}")
    groups = Counter((key.split(": ")[0], reason) for key, reason in plan.unused.items())
    for (file, reason), count in groups.items():
        typer.echo(f"{count:6d} tensors of {file} not used: {reason}")
    for fact in plan.facts:
        typer.echo(fact)
    typer.echo(f"{out} is a complete model: xreal generate --model {out} …")
