"""The command line: reads arguments, calls the package, prints what happened; imports torch when a command runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

# Two threads that wait actively for each other are many times slower when a neighbour is busy; before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import typer

from xreal.errors import XRealError

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,  # rich would double the time that --help takes
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Chest X-rays with this anatomy and that finding there (XReal). Synthetic images, not for diagnosis.",
)


@app.command()
def generate(
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    organs: Annotated[
        Path | None, typer.Option(help="Organ mask: index PNG, grey levels 0/64/128/192/255, or NPY.")
    ] = None,
    lesion: Annotated[
        list[str] | None,
        typer.Option(
            help='"FINDING=box:x0,y0,x1,y1", "=ellipse:cx,cy,rx,ry", "=polygon:x,y,…" or "=paint.png"; '
            '"@0.5" at the end sets its strength.'
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first image; the next images take the next seeds.")] = 0,
    n: Annotated[int, typer.Option("-n", "--number", help="How many images.")] = 1,
    model: Annotated[str, typer.Option(help="Bundled model or model folder.")] = "cxr-256",
    mode: Annotated[str, typer.Option(help="regional, or two-pass (the authors' procedure).")] = "regional",
    solver: Annotated[str | None, typer.Option(help="ddim, dpm++, unipc or euler.")] = None,
    steps: Annotated[int | None, typer.Option(help="Solver steps; default 30, for two-pass 100.")] = None,
    guidance: Annotated[float, typer.Option(help="How strongly findings are drawn.")] = 7.0,
    eta: Annotated[float | None, typer.Option(help="DDIM's η.")] = None,
    prompt: Annotated[str, typer.Option(help='Prompt of the X-ray itself, such as "PA view, female".')] = "",
    anatomy_inside: Annotated[float, typer.Option(help="Blend strength inside the organs.")] = 1.0,
    anatomy_outside: Annotated[float, typer.Option(help="Blend strength outside the organs.")] = 0.2,
    anatomy_until: Annotated[
        float | None, typer.Option(help="Share of the steps that blend; default 0.8, for two-pass 0.5.")
    ] = None,
    lesion_start: Annotated[float, typer.Option(help="Share of the steps after which lesions are drawn.")] = 0.2,
    exact: Annotated[
        bool, typer.Option("--exact", help="Leave every pixel outside the lesions as in the healthy twin.")
    ] = False,
    min_dice: Annotated[float, typer.Option(help="Redraw an image in which an organ falls below this Dice.")] = 0.0,
    retries: Annotated[int, typer.Option(help="How often an image may be redrawn.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Images drawn side by side.")] = 4,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder that holds files.")] = False,
) -> None:
    """Draw chest X-rays from an organ mask, findings and lesion masks."""
    from xreal.errors import InputError
    from xreal.images import check_output_folder, prepare_output_folder
    from xreal.masks import parse_lesion, read_organ_mask

    if n < 1 or batch_size < 1 or retries < 0 or not 0 <= min_dice <= 1:
        raise InputError("expected --number and --batch-size ≥ 1, --retries ≥ 0 and --min-dice from 0 to 1")
    organ_mask = None if organs is None else read_organ_mask(organs)
    height, width = (256, 256) if organ_mask is None else organ_mask.shape
    lesions = [parse_lesion(text, height, width) for text in lesion or ()]
    check_output_folder(out, overwrite)

    from xreal.control.anatomy import AnatomyBlend
    from xreal.inputs import check_settings, default_blend
    from xreal.models.folder import resolve_folder, weights_hash
    from xreal.pipeline import XRealPipeline
    from xreal.synthesis import Drawn, draw, write_contact_sheet, write_drawn

    check_settings([seed, seed + n - 1], mode, solver, steps, guidance, eta, lesion_start)
    until = default_blend(mode).until if anatomy_until is None else anatomy_until
    anatomy = AnatomyBlend(anatomy_inside, anatomy_outside, until)
    _hide_loading_bars()
    pipeline = XRealPipeline.from_pretrained(model)
    provenance = {
        "model": model,
        "weights": weights_hash(resolve_folder(model)),
        "organs": None if organs is None else str(organs),
        "lesion": list(lesion or ()),
    }
    shown: list[Drawn] = []
    for first in range(0, n, batch_size):
        drawn = draw(
            pipeline,
            organ_mask,
            lesions,
            list(range(seed + first, seed + min(n, first + batch_size))),
            min_dice,
            retries,
            retry_stride=n,
            mode=mode,
            solver=solver,
            steps=steps,
            guidance=guidance,
            lesion_start=lesion_start,
            eta=eta,
            prompt=prompt,
            exact=exact,
            anatomy=anatomy,
        )
        if first == 0:
            prepare_output_folder(out, overwrite)  # a new folder is made only once something has been drawn
        write_drawn(out, first, drawn, provenance)
        for number, one in enumerate(drawn, first):
            scores = ", ".join(f"{organ} {value:.3f}" for organ, value in one.record["conformance"].items())
            refused = "" if one.record["accepted"] else f"  below --min-dice {min_dice} after {retries} retries"
            typer.echo(f"{out / f'{number:04d}.png'}  seed {one.record['seed']}  Dice: {scores or 'no mask'}{refused}")
        shown += drawn[: max(0, 16 - len(shown))]
    write_contact_sheet(out / "sheet.png", shown)
    typer.echo(f"{out / 'sheet.png'}")


@app.command()
def segment(
    image: Annotated[Path, typer.Argument(help="Chest X-ray, or a folder of them.")],
    out: Annotated[Path, typer.Option(help="Organ mask (.png or .npy), or a folder if IMAGE is one.")],
    model: Annotated[str, typer.Option(help="Bundled model or model folder.")] = "cxr-256",
) -> None:
    """Find lungs and heart in chest X-rays."""
    from xreal.segmentation import segment_files

    for path, reasons in segment_files(image, out, model):
        typer.echo(f"{path}" + (f"  implausible: {'; '.join(reasons)}" if reasons else ""))


@app.command()
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
    summary = prepare_source(source, raw, prepared, image_size, organ_masks, progress=_track)
    for name, count in summary["counts"].items():  # type: ignore[attr-defined]
        typer.echo(f"{count:8d}  {name}")
    for name, reason in summary["skipped"].items():  # type: ignore[attr-defined]
        typer.echo(f"skipped {name}: {reason}")


@app.command()
def train(
    stage: Annotated[
        str,
        typer.Argument(help="segmenter, autoencoder, backbone or anatomy; judges: encoder or judge-segmenter."),
    ],
    data: Annotated[list[Path], typer.Option(help="Prepared data set; may be given several times.")],
    out: Annotated[Path, typer.Option(help="Model folder; each stage adds its component.")],
    preset: Annotated[str, typer.Option(help="cxr-256, paper or tiny.")] = "cxr-256",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    steps: Annotated[int | None, typer.Option(help="Instead of the preset's.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Instead of the preset's.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Instead of the preset's.")] = None,
    autoencoder: Annotated[Path | None, typer.Option(help="Model folder with a vae/ to use instead of OUT's.")] = None,
    start: Annotated[str | None, typer.Option(help="Model whose weights training begins with.")] = None,
    mixed_precision: Annotated[str, typer.Option(help="no, bf16, fp16, or auto.")] = "auto",
    max_minutes: Annotated[float, typer.Option(help="Stop with a checkpoint after this time.")] = float("inf"),
) -> None:
    """Train one network of the model."""
    from xreal.config import get_preset

    changes = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate}
    chosen = get_preset(preset)
    from xreal.models.folder import resolve_folder, write_index
    from xreal.training.loop import train as run
    from xreal.training.stages import STAGES, build_stage

    if stage in STAGES:
        chosen = chosen.with_stage(stage, **{key: value for key, value in changes.items() if value is not None})
    built = build_stage(stage, chosen, data, out, autoencoder, None if start is None else resolve_folder(start))

    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(stage, total=None)

        def report(step: int, total: int, parts: dict[str, float]) -> None:
            shown = f"{stage}  " + "  ".join(f"{name} {value:.4f}" for name, value in parts.items())
            progress.update(task, total=total, completed=step, description=shown)
            if not progress.console.is_terminal and step % 50 == 0:  # a log file shows no bar
                progress.console.print(f"{step}/{total}  {shown}", soft_wrap=True)

        metrics = run(
            built, out, resume=resume, mixed_precision=mixed_precision, max_minutes=max_minutes, report=report
        )
    typer.echo("  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    if write_index(out):
        typer.echo(f"{out} is a complete model: xreal generate --model {out} …")


@app.command()
def evaluate(
    real: Annotated[list[Path], typer.Option(help="Prepared data set; its val split is the reference.")],
    out: Annotated[Path, typer.Option(help="Folder for the report; an interrupted one goes on.")],
    model: Annotated[str | None, typer.Option(help="Bundled model or model folder that draws the images.")] = None,
    generated: Annotated[Path | None, typer.Option(help="Folder of pictures to judge instead.")] = None,
    train: Annotated[
        list[Path] | None, typer.Option(help="Prepared data set that the generator was trained on; default --real.")
    ] = None,
    n: Annotated[int, typer.Option("-n", "--n", help="Images that the model draws per row.")] = 200,
    two_pass_n: Annotated[int, typer.Option(help="Images of the row two-pass, which takes longest.")] = 20,
    only: Annotated[
        str,
        typer.Option(
            help="Axes: fidelity,anatomy,pathology,diversity,privacy,utility,readers; default the first five."
        ),
    ] = "fidelity,anatomy,pathology,diversity,privacy",
    minutes: Annotated[float, typer.Option(help="Time limit of the axis utility.")] = 30,
    judges: Annotated[Path | None, typer.Option(help="Folder of judges; default those of the package.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first image.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Images drawn side by side.")] = 8,
) -> None:
    """Judge a model, or images from anywhere, against real X-rays."""
    from xreal.evaluation.evaluate import Options
    from xreal.evaluation.evaluate import evaluate as run
    from xreal.evaluation.judges import JUDGES
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
        only=tuple(axis.strip() for axis in only.split(",") if axis.strip()),
        minutes=minutes,
        batch_size=batch_size,
    )
    _hide_loading_bars()
    report = run(options, track=_track_named, say=typer.echo)
    typer.echo(markdown_table(report))
    for note in report["notes"]:
        typer.echo(f"note: {note}")
    typer.echo(f"{out / 'index.html'}")


def _hide_loading_bars() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()


def _track(shards):  # type: ignore[no-untyped-def]
    from rich.progress import track

    return track(shards, description="shards")


def _track_named(sequence, name):  # type: ignore[no-untyped-def]
    from rich.progress import track

    return track(sequence, description=name)


def main() -> None:
    """Run the command line; errors of xreal are one line on stderr and exit status 2."""
    try:
        app()
    except XRealError as error:
        typer.echo(f"xreal: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
