"""``xreal generate``."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from xreal.cli.progress import hide_loading_bars, parse_batch_size

__all__ = ["generate"]


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
    quality: Annotated[
        str,
        typer.Option(help="draft, default, or reference (the authors' procedure): mode, solver and steps."),
    ] = "default",
    mode: Annotated[str | None, typer.Option(help="regional or two-pass, instead of the quality's.")] = None,
    solver: Annotated[str | None, typer.Option(help="ddim, dpm++, unipc or euler.")] = None,
    steps: Annotated[int | None, typer.Option(help="Solver steps; default 6, draft 4, two-pass 100.")] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="How strongly findings are drawn; default 2, 9 without an adapter, for two-pass 7."),
    ] = None,
    eta: Annotated[float | None, typer.Option(help="DDIM's η.")] = None,
    prompt: Annotated[
        str,
        typer.Option(
            help='Prompt of the X-ray itself, such as "PA view, female"; {findings} stands for what its lesions are.'
        ),
    ] = "",
    prompt_guidance: Annotated[
        float | None, typer.Option(help="How strongly that prompt is drawn, 1 as it is; default 3, for two-pass 1.")
    ] = None,
    anatomy_inside: Annotated[float | None, typer.Option(help="Blend strength inside the organs; default 1.")] = None,
    anatomy_outside: Annotated[float | None, typer.Option(help="Blend strength elsewhere; default 0.2.")] = None,
    anatomy_until: Annotated[
        float | None, typer.Option(help="Share of the steps that blend; default 0.5, with an adapter 0: no prior.")
    ] = None,
    anatomy_contour_until: Annotated[
        float | None,
        typer.Option(help="The same along the organs' contours; default 0.9, with an adapter 0, for two-pass 0.5."),
    ] = None,
    anatomy_variety: Annotated[
        float | None,
        typer.Option(help="How much X-rays of one mask differ, 1 as real ones; default 1, for two-pass 0."),
    ] = None,
    anatomy_adapter: Annotated[
        float | None,
        typer.Option(help="How strongly the mask acts on the U-Net, 1 as trained; default 1.1, for two-pass 0."),
    ] = None,
    anatomy_outside_noise: Annotated[
        float | None,
        typer.Option(help="Deviation of the noise away from the organs; default 0.95 with an adapter, else 1."),
    ] = None,
    lesion_start: Annotated[float, typer.Option(help="Share of the steps after which lesions are drawn.")] = 0.1,
    lesion_until: Annotated[float, typer.Option(help="Share of the steps after which they are guided no more.")] = 1.0,
    texture: Annotated[
        float | None,
        typer.Option(help="How much grain is added, 1 as in real X-rays, 0 none; default 1, for two-pass 0."),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Leave every pixel outside the lesions as in the healthy twin.")
    ] = False,
    min_dice: Annotated[float, typer.Option(help="Redraw an image in which an organ falls below this Dice.")] = 0.0,
    retries: Annotated[int, typer.Option(help="How often an image may be redrawn.")] = 0,
    batch_size: Annotated[str, typer.Option(help="Images drawn side by side, or auto.")] = "auto",
    backend: Annotated[str, typer.Option(help="What computes: auto, torch, torch-bf16 or openvino.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder that holds files.")] = False,
    dicom: Annotated[
        bool, typer.Option("--dicom", help="Write images as DICOM too, and the masks as a DICOM Segmentation.")
    ] = False,
) -> None:
    """Draw chest X-rays from an organ mask, findings and lesion masks."""
    from xreal.dicom import require_dicom
    from xreal.errors import InputError
    from xreal.files import written_behind
    from xreal.images import check_output_folder, prepare_output_folder
    from xreal.masks import parse_lesion, read_organ_mask
    from xreal.masks.organs import implausible
    from xreal.models.narrow import import_narrowly

    if n < 1 or retries < 0 or not 0 <= min_dice <= 1:
        raise InputError("expected --number ≥ 1, --retries ≥ 0 and --min-dice from 0 to 1")
    batch = parse_batch_size(batch_size)
    organ_mask = None if organs is None else read_organ_mask(organs)
    for reason in () if organ_mask is None else implausible(organ_mask):
        typer.echo(f"xreal: {organs}: {reason} It is drawn all the same.", err=True)
    height, width = (256, 256) if organ_mask is None else organ_mask.shape
    lesions = [parse_lesion(text, height, width) for text in lesion or ()]
    check_output_folder(out, overwrite)
    if dicom:
        require_dicom()

    import_narrowly(model)
    from xreal.control.anatomy import AnatomyBlend
    from xreal.inputs import check_settings
    from xreal.models.folder import resolve_folder, weights_hash
    from xreal.pipeline import XRealPipeline
    from xreal.synthesis import (
        Drawn,
        auto_batch_size,
        draw,
        unseen,
        write_contact_sheet,
        write_drawn,
        write_drawn_dicom,
    )

    settings = check_settings(
        [seed, seed + n - 1],
        quality,
        mode,
        solver,
        steps,
        guidance,
        eta,
        lesion_start,
        lesion_until,
        texture,
        prompt_guidance,
    )
    settable = {
        "inside": anatomy_inside,
        "outside": anatomy_outside,
        "until": anatomy_until,
        "contour_until": anatomy_contour_until,
        "variety": anatomy_variety,
        "adapter": anatomy_adapter,
        "outside_noise": anatomy_outside_noise,
    }
    given = {key: value for key, value in settable.items() if value is not None}
    AnatomyBlend(**given)  # refused before anything is opened
    hide_loading_bars()
    pipeline = XRealPipeline.from_pretrained(model, backend, device="auto")
    anatomy = replace(pipeline.default_blend(settings.mode), **given)
    batch = batch or auto_batch_size(pipeline)
    provenance = {
        "model": model,
        "weights": weights_hash(resolve_folder(model)),
        "organs": None if organs is None else str(organs),
        "lesion": list(lesion or ()),
    }
    shown: list[Drawn] = []

    def write(first: int, drawn: list[Drawn]) -> None:
        write_drawn(out, first, drawn, provenance)
        if dicom:
            write_drawn_dicom(out, first, drawn, str(provenance["weights"]))
        for number, one in enumerate(drawn, first):
            scores = ", ".join(f"{organ} {value:.3f}" for organ, value in one.record["conformance"].items())
            refused = "" if one.record["accepted"] else f"  below --min-dice {min_dice} after {retries} retries"
            changed = ", ".join(
                f"{lesion['finding']} {change:.3f}"
                for lesion, change in zip(one.record["lesions"], one.record["change"], strict=True)
            )
            none = "no mask" if organs is None else "no organ that the segmenter knows"
            typer.echo(
                f"{out / f'{number:04d}.png'}  seed {one.record['seed']}  Dice: {scores or none}"
                f"{changed and f'  change: {changed}'}{refused}"
            )

    with written_behind() as behind:
        for first in range(0, n, batch):
            drawn = draw(
                pipeline,
                organ_mask,
                lesions,
                list(range(seed + first, seed + min(n, first + batch))),
                min_dice,
                retries,
                retry_stride=n,
                quality=quality,
                **asdict(settings),
                lesion_start=lesion_start,
                lesion_until=lesion_until,
                prompt=prompt,
                exact=exact,
                anatomy=anatomy,
            )
            if first == 0:
                prepare_output_folder(out, overwrite)  # a new folder is made only once something has been drawn
            behind(write, first, drawn)
            shown += drawn[: max(0, 16 - len(shown))]
    write_contact_sheet(out / "sheet.png", shown)
    typer.echo(f"{out / 'sheet.png'}")
    for finding, change in unseen(shown).items():
        typer.echo(
            f"xreal: {finding} changes its place by {change:.3f} of white, which is hardly seen: the model may not "
            "know it there. Give it another place or a larger one, or raise --guidance.",
            err=True,
        )
