"""``xreal study``: make, serve and report."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from xreal.cli.progress import hide_loading_bars, track_named

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="A blinded reader study of real and generated X-rays, in the browser.",
)

Study = Annotated[Path, typer.Argument(help="Folder that `xreal study make` wrote.")]


@app.command()
def make(
    real: Annotated[Path, typer.Option(help="Folder of real X-rays (PNG, JPEG, TIFF, DICOM), or prepared data set.")],
    out: Annotated[Path, typer.Option(help="New folder for the study.")],
    reader: Annotated[list[str], typer.Option(help="Name of a reader; once for each, who gets a link of their own.")],
    generated: Annotated[
        list[Path] | None, typer.Option(help="Folder of generated X-rays; again for further groups.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Instead: model that draws them, like the real ones in anatomy and finding.")
    ] = None,
    n: Annotated[int, typer.Option("-n", "--number", help="Most generated X-rays per group; as many real ones.")] = 50,
    repeat: Annotated[float, typer.Option(help="Share of the X-rays shown twice, 0 to 0.5.")] = 0.25,
    segmenter: Annotated[
        str | None, typer.Option(help="Model that finds the organs of real X-rays without masks; default --model.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of a prepared data set.")] = "val",
    seed: Annotated[int, typer.Option(help="Seed of choice, order and drawing.")] = 0,
) -> None:
    """Choose X-rays, blind them and write the study."""
    _check_extra()
    from xreal.app.study.make import StudyOptions, make_study

    hide_loading_bars()
    options = StudyOptions(real, tuple(reader), out, tuple(generated or ()), model, n, repeat, segmenter, split, seed)
    make_study(options, track_named, typer.echo)
    typer.echo(f"next: xreal study serve {out}")


@app.command()
def serve(
    study: Study,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for the whole network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8600,
    url: Annotated[str | None, typer.Option(help="What links begin with, such as https://study.example.org.")] = None,
) -> None:
    """Print every reader's link and serve the pages until Ctrl+C; stopped at any moment, no answer is lost."""
    _check_extra()
    from xreal.app.study.server import serve as run
    from xreal.app.study.store import Store

    run(Store(study), host, port, url, typer.echo)


@app.command()
def report(
    study: Study,
    out: Annotated[Path, typer.Option(help="Folder for the tables, the plots and the anonymised answers.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder that holds files.")] = False,
) -> None:
    """Accuracy against chance, ratings per group, agreement within and between readers; also of an unfinished study."""
    _check_extra()
    from xreal.app.study.report import write_study_report
    from xreal.app.study.store import Store

    typer.echo(write_study_report(Store(study), out, overwrite))


def _check_extra() -> None:
    from xreal.errors import InputError

    if missing := [name for name in ("matplotlib", "starlette", "torchmetrics", "uvicorn") if find_spec(name) is None]:
        raise InputError(f'study needs {" and ".join(missing)}; install them: pip install "xreal-cxr[study]"')
