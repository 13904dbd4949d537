"""The command line: reads arguments, calls the package, prints what happened; imports torch when a command runs."""

from __future__ import annotations

import os
import sys

# Two threads that wait actively for each other are many times slower when a neighbour is busy; before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Before huggingface_hub loads, which reads it once: no bar for each file of weights.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import typer

from xreal.cli import (
    convert,
    edit,
    evaluate,
    generate,
    masks,
    prepare,
    segment,
    studio,
    study,
    synthesize,
    train,
    transplant,
)
from xreal.errors import XRealError

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,  # rich would double the time that --help takes
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Chest X-rays with this anatomy and that finding there (XReal). Synthetic images, not for diagnosis.",
)
for command in (
    generate.generate,
    edit.edit,
    synthesize.synthesize,
    studio.studio,
    segment.segment,
    prepare.prepare,
    transplant.transplant,
    train.train,
    evaluate.evaluate,
):
    app.command()(command)
app.add_typer(convert.convert, name="convert")
app.add_typer(masks.app, name="masks")
app.add_typer(study.app, name="study")


def main() -> None:
    """Run the command line; errors of xreal are one line on stderr and exit status 2."""
    try:
        app()
    except XRealError as error:
        typer.echo(f"xreal: {error}", err=True)
        sys.exit(2)
