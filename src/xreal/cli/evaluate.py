"""``xreal evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xreal.cli.progress import hide_loading_bars, track_named

__all__ = ["evaluate"]


def evaluate(
    real: Annotated[list[Path], typer.Option(help="Prepared data set; its val split is the reference.")],
    out: Annotated[Path, typer.Option(help="Folder for the report; an interrupted one goes on.")],
    model: Annotated[str | None, typer.Option(help="Bundled model or model folder that draws the images.")] = None,
    generated: Annotated[Path | None, typer.Option(help="Folder of pictures to judge instead.")] = None,
    train: Annotated[
        list[Path] | None, typer.Option(help="Prepared data set that the generator was trained on; default --real.")
    ] = None,
    n: Annotated[int, typer.Option("-n", "--n", help="Images that the model draws per row.")] = 200,
    rows: Annotated[
        str, typer.Option(help="What the model draws: regional,prompted,prior,two-pass,text; the first is needed.")
    ] = "regional,prompted,prior,two-pass,text",
    two_pass_n: Annotated[int, typer.Option(help="Images of the row two-pass, which takes longest.")] = 20,
    only: Annotated[
        str,
        typer.Option(
            help="Axes: fidelity,anatomy,pathology,diversity,privacy,edits,network,utility; default the first five."
        ),
    ] = "fidelity,anatomy,pathology,diversity,privacy",
    edit_n: Annotated[int, typer.Option(help="Real X-rays edited in each way, for the axis edits.")] = 50,
    minutes: Annotated[
        float, typer.Option(help="Time limit of the axis utility; too short a one is refused at once.")
    ] = 30,
    judges: Annotated[Path | None, typer.Option(help="Folder of judges; default those of the package.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first image.")] = 0,
    swap_halves: Annotated[
        bool,
        typer.Option("--swap-halves", help="Draw from the half of the real images that is compared with otherwise."),
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Images drawn side by side.")] = 8,
    backend: Annotated[str, typer.Option(help="What computes: auto, torch, torch-bf16 or openvino.")] = "auto",
) -> None:
    """Judge a model, or images from anywhere, against real X-rays.

    Fidelity needs 200 real and 100 judged images, privacy 99 real ones; where there are fewer, the report says so.
    """
    from xreal.evaluation.evaluate import evaluate as run
    from xreal.evaluation.judges import JUDGES
    from xreal.evaluation.options import Options
    from xreal.evaluation.report import markdown_table

    options = Options(
        real=tuple(real),
        out=out,
        model=model,
        generated=generated,
        train=tuple(train or ()),
        judges=judges or JUDGES,
        n=n,
        two_pass_n=two_pass_n,
        seed=seed,
        rows=_listed(rows),
        only=_listed(only),
        edit_n=edit_n,
        minutes=minutes,
        swap_halves=swap_halves,
        batch_size=batch_size,
        backend=backend,
    )
    hide_loading_bars()
    report = run(options, track=track_named, say=typer.echo)
    typer.echo(markdown_table(report))
    for note in report["notes"]:
        typer.echo(f"note: {note}")
    typer.echo(f"{out / 'index.html'}")


def _listed(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())
