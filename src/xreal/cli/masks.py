"""``xreal masks``: sample, edit, ranges and fit-model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xreal.cli.progress import track_named

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Organ masks from a statistical shape model of lungs and heart: sample new ones, edit a given one.",
)

Model = Annotated[Path | None, typer.Option(help="Shape model of `fit-model`; default the package's.")]
Out = Annotated[Path, typer.Option(help="The new organ mask, .png or .npy.")]


@app.command()
def sample(
    out: Annotated[Path, typer.Option(help="Folder for the masks, masks.json and sheet.png.")],
    n: Annotated[int, typer.Option("-n", "--number", help="How many masks.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the first mask; the next masks take the next seeds.")] = 0,
    size: Annotated[int, typer.Option(help="Pixels a side.")] = 256,
    ctr: Annotated[float | None, typer.Option(help="Cardiothoracic ratio of every mask.")] = None,
    heart_scale: Annotated[
        float | None, typer.Option(help="Heart's size (square root of its area) relative to the average chest.")
    ] = None,
    lung_scale: Annotated[float | None, typer.Option(help="Likewise the size of both lungs together.")] = None,
    tilt: Annotated[float | None, typer.Option(help="Degrees of the chest's tilt, clockwise as seen.")] = None,
    model: Model = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder that holds files.")] = False,
) -> None:
    """Draw plausible anatomies at random, all or with these measures; what is not set varies as in real chests."""
    from xreal.errors import InputError
    from xreal.images import check_output_folder, prepare_output_folder, write_json
    from xreal.masks.organs import write_organ_mask
    from xreal.masks.shape_checks import mask_measures
    from xreal.masks.shape_model import load_shape_model
    from xreal.masks.shapes import sample_organ_mask
    from xreal.sheets import colour_labels, write_sheet

    if n < 1 or seed < 0:
        raise InputError(f"--number is {n}, --seed {seed}; expected --number ≥ 1 and --seed ≥ 0")
    check_output_folder(out, overwrite)
    shapes = load_shape_model(model)
    settings = {"ctr": ctr, "heart_scale": heart_scale, "lung_scale": lung_scale, "tilt": tilt}
    records, shown = [], []
    for number in range(n):
        mask = sample_organ_mask(seed + number, size, model=shapes, **settings)
        if number == 0:
            prepare_output_folder(out, overwrite)  # a new folder is made only once something has been drawn
        path = out / f"{number:04d}.png"
        write_organ_mask(path, mask)
        measures = mask_measures(mask)
        records.append({"file": path.name, "seed": seed + number, "settings": settings, "measures": measures})
        shown += [colour_labels(mask)] if number < 32 else []
        typer.echo(f"{path}  seed {seed + number}  {_say(measures)}")
    write_json(out / "masks.json", records)
    write_sheet(out / "sheet.png", [shown[first : first + 8] for first in range(0, len(shown), 8)])
    typer.echo(f"{out / 'sheet.png'}")


@app.command()
def edit(
    organs: Annotated[Path, typer.Argument(help="Organ mask with both lungs and the heart.")],
    out: Out,
    ctr: Annotated[float | None, typer.Option(help="New cardiothoracic ratio.")] = None,
    heart_scale: Annotated[float, typer.Option(help="Factor of the heart's width and height.")] = 1.0,
    lung_scale: Annotated[float, typer.Option(help="Factor of the lungs' size (square root of their area).")] = 1.0,
    tilt: Annotated[float, typer.Option(help="Degrees to turn the chest by, clockwise as seen.")] = 0.0,
    model: Model = None,
) -> None:
    """Change the heart, the lungs or the tilt of a given mask and keep all else of it."""
    from xreal.masks.organs import read_organ_mask, write_organ_mask
    from xreal.masks.shape_checks import mask_measures
    from xreal.masks.shape_model import load_shape_model
    from xreal.masks.shapes import edit_organ_mask

    before = read_organ_mask(organs)
    after = edit_organ_mask(
        before, ctr=ctr, heart_scale=heart_scale, lung_scale=lung_scale, tilt=tilt, model=load_shape_model(model)
    )
    write_organ_mask(out, after)
    typer.echo(f"{organs}  {_say(mask_measures(before))}")
    typer.echo(f"{out}  {_say(mask_measures(after))}")


@app.command()
def ranges(
    organs: Annotated[Path | None, typer.Argument(help="Organ mask to be edited; without, for `sample`.")] = None,
    model: Model = None,
) -> None:
    """Say which settings give usual chests: the 1st to 99th percentile of the masks that the model learnt from."""
    from xreal.masks.organs import read_organ_mask
    from xreal.masks.shape_model import load_shape_model
    from xreal.masks.shapes import plausible_ranges

    mask = None if organs is None else read_organ_mask(organs)
    for name, (low, high) in plausible_ranges(mask, load_shape_model(model)).items():
        typer.echo(f"--{name.replace('_', '-'):12s} {low:6.2f} to {high:6.2f}")


@app.command()
def fit_model(
    data: Annotated[list[Path], typer.Option(help="Prepared data set with organ masks; may be given again.")],
    out: Annotated[Path, typer.Option(help="The shape model, .safetensors.")],
) -> None:
    """Learn a shape model from the organ masks of `train`, and judge it by up to 200 of `val`."""
    import numpy as np

    from xreal.data.prepared import PreparedDataset
    from xreal.errors import DataError, OutputError
    from xreal.masks.shape_model import learn_shape_model, save_shape_model
    from xreal.masks.shape_report import judge_shape_model

    if not out.parent.is_dir() or out.is_dir():  # now, not after minutes of work
        raise OutputError(f"{out} cannot be written: it is a folder, or its folder is missing; expected a file's name")
    train, val = (PreparedDataset(data, split) for split in ("train", "val"))
    have, held_out = train.with_organ_mask(), val.with_organ_mask()
    if not held_out:
        raise DataError(
            f"{', '.join(map(str, data))}: no X-ray of val has an organ mask; see `xreal prepare --segmenter`"
        )
    masks = (train[index].organ_mask for index in track_named(have, "outlines"))
    learnt = learn_shape_model(mask for mask in masks if mask is not None)
    save_shape_model(out, learnt)
    typer.echo(f"{out}  {learnt.n_modes} modes, from {int(learnt.count[0])} of {len(have)} masks")
    chosen = np.linspace(0, len(held_out) - 1, min(200, len(held_out))).round().astype(int)
    judged = [val[held_out[place]].organ_mask for place in chosen.tolist()]
    for what, value in judge_shape_model(learnt, [mask for mask in judged if mask is not None]):
        typer.echo(f"{what:32s} {value}")


def _say(measures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in measures.items())
