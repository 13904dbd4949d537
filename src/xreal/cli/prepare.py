"""``xreal prepare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from xreal.cli.progress import track

__all__ = ["prepare"]

_SHOWN = 20


def prepare(
    source: Annotated[
        str,
        typer.Argument(
            help="folder (any pictures or DICOM files), jsrt, nih-cxr14, mimic-cxr-jpg, chexpert, padchest, vindr-cxr, "
            "rsna or siim-acr; docs/data.md has the layout of each."
        ),
    ],
    raw: Annotated[Path, typer.Argument(help="The source's folder, as it was unpacked.")],
    prepared: Annotated[Path, typer.Argument(help="Folder for the prepared data set.")],
    image_size: Annotated[int, typer.Option(help="Side of the square images in pixels.")] = 256,
    segmenter: Annotated[
        str | None, typer.Option(help="Model that makes organ masks where nothing else has one, such as cxr-256.")
    ] = None,
    organ_masks: Annotated[
        Path | None, typer.Option(help="CheXmask table (OriginalResolution, unpacked) of this source.")
    ] = None,
    uncertain: Annotated[
        str, typer.Option(help="What uncertain labels become: negative (not said), positive, or drop (left out).")
    ] = "negative",
    workers: Annotated[int, typer.Option(help="Processes that read pictures; the result is the same.")] = 1,
) -> None:
    """Bring a source's frontal X-rays, labels and masks into one form: Parquet shards, a summary, a contact sheet.

    A killed run goes on where it was when it is started again. Pictures that cannot be read are left out and listed.
    """
    from xreal.data.prepare import prepare as prepare_source

    provider = None
    if segmenter is not None:
        from xreal.segmentation import mask_provider

        provider = mask_provider(segmenter)
    summary: dict[str, Any] = prepare_source(
        source,
        raw,
        prepared,
        image_size,
        provider,
        progress=track,
        uncertain=uncertain,
        organ_mask_table=organ_masks,
        workers=workers,
    )
    for name, count in summary["counts"].items():
        typer.echo(f"{count:8d}  {name}")
    for name, count in summary["splits"].items():
        typer.echo(f"{count['images']:8d}  in {name}, of {count['patients']} patients")
    for reason, count in summary["left_out"].items():
        typer.echo(f"{count:8d}  left out: {reason}")
    skipped = list(summary["skipped"].items())
    for name, reason in skipped[:_SHOWN]:
        typer.echo(f"skipped {name}: {reason}")
    if len(skipped) > _SHOWN:
        typer.echo(f"skipped {len(skipped) - _SHOWN} more; {prepared / 'summary.json'} lists all")
