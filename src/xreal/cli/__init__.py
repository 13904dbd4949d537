"""The command line: reads arguments, calls the package, prints what happened; imports torch when a command runs."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

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


_LIBRARY_WARNING = warnings.formatwarning


def _one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Write a warning of xreal without the place in its code; those of others as Python does."""
    if category is UserWarning and Path(filename).is_relative_to(Path(__file__).parents[1]):
        return f"xreal: {message}\n"
    return _LIBRARY_WARNING(message, category, filename, lineno, line)


def main() -> None:
    """Run the command line; warnings and errors of xreal are one line on stderr each, errors with exit status 2."""
    warnings.formatwarning = _one_line
    try:
        app()
    except XRealError as error:
        typer.echo(f"xreal: {error}", err=True)
        sys.exit(2)
