"""``xreal synthesize``."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from xreal.cli.progress import hide_loading_bars

__all__ = ["synthesize"]


def synthesize(
    out: Annotated[Path, typer.Option(help="Folder of the data set; one that was begun is gone on with.")],
    plan: Annotated[
        Path | None, typer.Option(help="YAML file that says what to draw; docs/synthesize.md has its keys.")
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(help='Instead of a plan: "FINDING=COUNT", "FINDING+FINDING=COUNT", "No Finding=COUNT".'),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the data set; default 0.")] = None,
    masks: Annotated[
        str | None, typer.Option(help="Folder of organ masks; default: anatomies from the statistical shape model.")
    ] = None,
    redraw: Annotated[
        list[str] | None,
        typer.Option(
            help="Prepared data set whose `train` X-rays are drawn again: their organs, all they show as prompt."
        ),
    ] = None,
    ctr: Annotated[str | None, typer.Option(help='Cardiothoracic ratios of the shape model, "0.45,0.6".')] = None,
    lung_scale: Annotated[str | None, typer.Option(help='Lung sizes relative to the average, "0.9,1.1".')] = None,
    boxes: Annotated[
        list[str] | None,
        typer.Option(help="Prepared data set; lesions go where its boxes lie. Default: ellipses inside the lungs."),
    ] = None,
    min_dice: Annotated[float | None, typer.Option(help="Dice that every organ must reach; default 0.8.")] = None,
    retries: Annotated[int | None, typer.Option(help="New tries before an image is dropped; default 2.")] = None,
    train: Annotated[
        list[str] | None, typer.Option(help="Prepared data set of the model's training; near-copies of it fail.")
    ] = None,
    quality: Annotated[
        str | None, typer.Option(help="draft, default, or reference (the authors' procedure): mode, solver and steps.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Solver steps, instead of the quality's.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="How strongly findings are drawn; default as in generate.")
    ] = None,
    model: Annotated[str, typer.Option(help="Bundled model or model folder.")] = "cxr-256",
    backend: Annotated[str, typer.Option(help="What computes: auto, torch, torch-bf16 or openvino.")] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(help="Processes that draw, one core and 1 GB each; the result is the same. Default 1."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Draw on a Ray cluster: HOST:PORT of its head, auto for the one this machine belongs to, or local. "
            "Default for --workers: all its cores."
        ),
    ] = None,
) -> None:
    """Draw an annotated data set: images, masks, COCO and YOLO boxes, a Parquet manifest, a summary.

    Every image is checked; what fails is drawn again, or dropped with the reason. A killed run goes on where it was
    when it is started again.
    """
    from xreal.errors import InputError

    given: dict[str, Any] = {
        "seed": seed,
        "anatomies": {
            "masks": masks,
            "redraw": redraw,
            "ctr": _range("--ctr", ctr),
            "lung_scale": _range("--lung-scale", lung_scale),
        },
        "lesions": {"boxes": boxes},
        "checks": {"min_dice": min_dice, "retries": retries, "train": train},
        "draw": {"quality": quality, "steps": steps, "guidance": guidance},
    }
    given = {key: _set(value) for key, value in given.items() if _set(value) not in (None, {})}
    if (plan is None) == (not images):
        raise InputError('give either --plan FILE or --images "FINDING=COUNT", and not both')
    if plan is not None and given:
        raise InputError(f"--plan says all that is drawn; put {', '.join(given)} into {plan} instead of options")

    if missing := [name for name in ("pyarrow", "yaml") if find_spec(name) is None]:
        raise InputError(f'synthesize needs {" and ".join(missing)}; install them: pip install "xreal-cxr[synthesize]"')

    from xreal.bulk.plan import parse_plan, read_plan

    wanted = read_plan(plan) if plan is not None else parse_plan({"images": [_group(t) for t in images or ()], **given})

    from xreal.bulk.job import synthesize as draw_all

    def progress(parts: Iterable[int], count: int) -> Iterable[int]:
        from rich.progress import track

        return track(parts, description=f"parts of {wanted.batch_size}", total=count)

    hide_loading_bars()
    summary = draw_all(wanted, model, out, workers, progress, backend, ray)
    for name, count in summary["images"].items():
        typer.echo(f"{count:8d}  {name}")
    dropped = summary["dropped"]
    for reason, count in dropped["reasons"].items():
        typer.echo(f"          dropped for: {reason} ({count})")
    typer.echo(f"{out}  {summary['drawn']} of {summary['planned']} images, {len(dropped['images'])} dropped")


def _set(value: Any) -> Any:
    """Leave out what no option gave."""
    return {key: one for key, one in value.items() if one not in (None, [])} if isinstance(value, dict) else value


def _range(option: str, text: str | None) -> list[float] | None:
    from xreal.errors import InputError

    try:
        return None if text is None else [float(number) for number in text.split(",")]
    except ValueError:
        raise InputError(f'{option} is {text!r}; expected "LOWEST,HIGHEST"') from None


def _group(text: str) -> dict[str, Any]:
    from xreal.errors import InputError

    names, equals, count = text.rpartition("=")
    if not equals or not names.strip() or not count.strip().isdigit():
        raise InputError(f'--images {text!r} is not understood; expected "FINDING=COUNT" or "FINDING+FINDING=COUNT"')
    return {"findings": [name.strip() for name in names.split("+")], "n": int(count)}
