"""``xreal edit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xreal.cli.progress import hide_loading_bars

__all__ = ["edit"]

_PLACE = '"box:x0,y0,x1,y1", "ellipse:cx,cy,rx,ry", "polygon:x,y,…" or a painted PNG'


def edit(
    image: Annotated[Path, typer.Argument(help="Chest X-ray: PNG, JPEG, TIFF or DICOM, any size, 8 to 16 bits.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    lesion: Annotated[
        list[str] | None,
        typer.Option(help=f'Add "FINDING=PLACE", PLACE in pixels of the X-ray: {_PLACE}; "@0.5" sets its strength.'),
    ] = None,
    remove: Annotated[list[str] | None, typer.Option(help=f"Remove findings from a place: {_PLACE}.")] = None,
    organs: Annotated[
        Path | None, typer.Option(help="Move the organs to this mask: the X-ray's size, or as `xreal segment` writes.")
    ] = None,
    keep: Annotated[list[str] | None, typer.Option(help=f"Change no pixel here: {_PLACE}.")] = None,
    strength: Annotated[
        float, typer.Option(help="Share of the steps that add or remove: 0 changes nothing, 1 the most.")
    ] = 0.8,
    seed: Annotated[int, typer.Option(help="Seed of the first edit; the next edits take the next seeds.")] = 0,
    n: Annotated[int, typer.Option("-n", "--number", help="How many edits.")] = 1,
    model: Annotated[str, typer.Option(help="Bundled model or model folder.")] = "cxr-256",
    solver: Annotated[str, typer.Option(help="dpm++, ddim, unipc or euler.")] = "dpm++",
    steps: Annotated[int, typer.Option(help="Solver steps.")] = 15,
    guidance: Annotated[
        float | None, typer.Option(help="How strongly findings are drawn; default 2, as in generate.")
    ] = None,
    prompt: Annotated[str, typer.Option(help='Prompt of the X-ray itself, such as "PA view, female".')] = "",
    batch_size: Annotated[int, typer.Option(help="Edits drawn side by side.")] = 4,
    backend: Annotated[str, typer.Option(help="What computes: auto, torch, torch-bf16 or openvino.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder that holds files.")] = False,
) -> None:
    """Change a real chest X-ray: add lesions, remove findings, move organs; every other pixel stays as it was."""
    import numpy as np

    from xreal.models.narrow import import_narrowly

    import_narrowly(model)
    from xreal.editing import open_source, write_edit_sheet, write_edits
    from xreal.errors import InputError
    from xreal.images import check_output_folder, prepare_output_folder
    from xreal.inputs import check_settings
    from xreal.masks import parse_lesion, parse_mask, read_organ_mask
    from xreal.models.folder import resolve_folder, weights_hash
    from xreal.pipeline import XRealPipeline
    from xreal.synthesis import conformance

    if n < 1 or batch_size < 1:
        raise InputError("expected --number and --batch-size ≥ 1")
    if not (lesion or remove or organs):
        raise InputError("nothing to edit; give --lesion, --remove or --organs (`xreal edit --help`)")
    check_settings([seed, seed + n - 1], mode="regional", solver=solver, steps=steps, guidance=guidance, eta=0.0)
    source = open_source(image)
    height, width = source.image.shape
    lesions = [parse_lesion(text, height, width) for text in lesion or ()]
    areas = [
        np.max([parse_mask(text, height, width) for text in texts], axis=0) if texts else None
        for texts in (remove, keep)
    ]
    organ_mask = None if organs is None else read_organ_mask(organs)
    check_output_folder(out, overwrite)
    hide_loading_bars()
    pipeline = XRealPipeline.from_pretrained(model, backend, device="auto")
    provenance = {
        "model": model,
        "weights": weights_hash(resolve_folder(model)),
        "lesion": list(lesion or ()),
        "remove": list(remove or ()),
        "organs": None if organs is None else str(organs),
        "keep": list(keep or ()),
    }
    shown: list[np.ndarray] = []
    for first in range(0, n, batch_size):
        seeds = list(range(seed + first, seed + min(n, first + batch_size)))
        output = pipeline.edit(
            source.image,
            lesions,
            seeds,
            remove=areas[0],
            organ_mask=organ_mask,
            protect=areas[1],
            strength=strength,
            prompt=prompt,
            solver=solver,
            steps=steps,
            guidance=guidance,
        )
        if first == 0:
            prepare_output_folder(out, overwrite)  # a new folder is made only once something has been drawn
        scores = None
        if output.organ_masks is not None:
            scores = conformance(pipeline, output.images, output.organ_masks[1])
        write_edits(out, first, source, output, provenance, scores)
        for number, edited_seed in enumerate(output.seeds, first):
            dice = [] if scores is None else [f"{name} {value:.3f}" for name, value in scores[number - first].items()]
            typer.echo(f"{out / f'{number:04d}.png'}  seed {edited_seed}" + "  Dice: " * bool(dice) + ", ".join(dice))
        shown += list(output.images[: max(0, 16 - len(shown))])
    write_edit_sheet(out / "sheet.png", source, shown, output.weight)
    typer.echo(f"{out / 'sheet.png'}")
