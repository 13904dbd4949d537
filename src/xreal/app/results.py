"""What was made, as files to download and as pictures to look at."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from xreal.app.engine import Engine
from xreal.app.job import Job, Made, to_xray
from xreal.app.pictures import conformance_table, outlines, png_uri, viewable
from xreal.app.reproduce import Recipe, command, lesion_file, lesion_texts, script
from xreal.errors import InputError

__all__ = ["NOTICE", "Result", "write_results"]

NOTICE = "synthetic, not for diagnosis"


@dataclass(frozen=True)
class Result:
    """One image of the session's history.

    Attributes:
        title: for people: seed, findings.
        view: what the page's viewer takes: pictures as data URIs.
        thumbnail: PNG file.
        table: conformance, HTML.
        files: to download, the archive of the whole run first.
        command: line that draws it again.
        script: Python that does.
    """

    title: str
    view: dict[str, Any]
    thumbnail: Path
    table: str
    files: list[Path]
    command: str
    script: str


def write_results(folder: Path, engine: Engine, job: Job, made: Made) -> list[Result]:
    """Write everything that was made into an empty folder, with all that it takes to make it again.

    Raises:
        OutputError: a file cannot be written.
    """
    inputs = _write_inputs(folder, engine, job)
    provenance = {
        "notice": NOTICE,
        "model": engine.title,
        "weights": engine.weights,
        "organs": inputs.get("organs"),
        "lesion": lesion_texts(job.lesions),
        "remove": inputs.get("remove"),
    }
    _write_images(folder, made, provenance, inputs.get("xray"))
    count = len(made.drawn) + sum(len(output.images) for output in made.edits)
    results = [_result(folder, number, engine, job, made, inputs) for number in range(count)]
    (folder / "again.txt").write_text("\n".join(result.command for result in results) + "\n", encoding="utf-8")
    archive = folder / "xreal-studio.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(folder.iterdir()):
            if path != archive:
                packed.write(path, path.name)
    return [replace(result, files=[archive, *result.files]) for result in results]


def _write_inputs(folder: Path, engine: Engine, job: Job) -> dict[str, str]:
    """Write the masks, and a copy of the X-ray; returns what they are called."""
    from xreal.images import write_image
    from xreal.masks.organs import resize_organ_mask, write_organ_mask

    names = {}
    shape = None
    if job.xray is not None:
        from xreal.images import read_image

        shape = read_image(job.xray).shape
        names["xray"] = f"source{job.xray.suffix.lower()}"
        shutil.copyfile(job.xray, folder / names["xray"])
    if job.organs is not None:
        names["organs"] = "organs.png"
        organs = job.organs if shape is None else resize_organ_mask(job.organs, engine.pipeline().image_size)
        write_organ_mask(folder / "organs.png", organs)
    for lesion in job.lesions:
        mask = lesion.mask if shape is None else to_xray(lesion.mask, shape)
        write_image(folder / lesion_file(lesion), mask)
    if job.remove is not None and shape is not None:
        names["remove"] = "remove.png"
        write_image(folder / "remove.png", to_xray(job.remove, shape))
    return names


def _write_images(folder: Path, made: Made, provenance: Mapping[str, Any], xray: str | None) -> None:
    from xreal.editing import write_edits
    from xreal.synthesis import write_contact_sheet, write_drawn, write_drawn_dicom

    if made.drawn:
        write_drawn(folder, 0, made.drawn, dict(provenance))
        write_contact_sheet(folder / "sheet.png", made.drawn)
        if has_dicom():
            write_drawn_dicom(folder, 0, made.drawn, str(provenance["weights"]))
    first = 0
    for output in made.edits:
        assert made.source is not None
        scores = made.conformance[first : first + len(output.images)]
        write_edits(folder, first, made.source, output, {**provenance, "source": xray}, scores)
        first += len(output.images)


def has_dicom() -> bool:
    """Say whether the extra ``dicom`` is installed."""
    from xreal.dicom import require_dicom

    try:
        require_dicom()
    except InputError:
        return False
    return True


def _result(folder: Path, number: int, engine: Engine, job: Job, made: Made, inputs: Mapping[str, str]) -> Result:
    if made.drawn:
        one = made.drawn[number]
        image, twin, twin_name, organs = one.image, one.healthy, "healthy twin", one.organ_mask
        lesions = list(one.lesion_masks)
        seed, scores = int(one.record["seed"]), one.record["conformance"]
    else:
        assert made.source is not None
        image = np.concatenate([output.images for output in made.edits])[number]
        seed = [seed for output in made.edits for seed in output.seeds][number]
        twin, twin_name, organs, scores = made.source.image, "X-ray before", job.organs, made.conformance[number]
        areas = [lesion.mask for lesion in job.lesions] + ([] if job.remove is None else [job.remove])
        lesions = [to_xray(mask, image.shape) for mask in areas]
    recipe = Recipe(
        engine.title,
        seed,
        lesion_texts(job.lesions),
        inputs.get("organs"),
        job.quality,
        job.mode,
        job.exact,
        inputs.get("xray"),
        inputs.get("remove"),
    )
    findings = ", ".join(lesion.finding.value for lesion in job.lesions) or ("edited" if job.xray else "healthy")
    title = f"{findings} · seed {seed} · {job.quality}"
    shown = viewable(image)
    view = {
        "title": title,
        "image": png_uri(shown),
        "twin": None if twin is None else png_uri(viewable(twin)),
        "twinName": twin_name,
        "outlines": png_uri(outlines(shown.shape, organs, lesions)),
    }
    again = folder / f"{number:04d}-again.py"
    again.write_text(script(recipe), encoding="utf-8")
    also = ("-again", "-organs", "-lesion")  # the masks are in the archive, and listed by their own names
    own = sorted(path for path in folder.glob(f"{number:04d}*") if not path.stem.endswith(also))
    masks = [
        folder / name for name in (inputs.get("organs"), *map(lesion_file, job.lesions), inputs.get("remove")) if name
    ]
    return Result(
        title=title,
        view=view,
        thumbnail=folder / f"{number:04d}.png",
        table=conformance_table(scores),
        files=[*own, *masks, again],
        command=command(recipe),
        script=script(recipe),
    )
