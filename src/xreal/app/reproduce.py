"""The command line and the Python that draw an image again from the files that are downloaded with it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from xreal.app.job import EDIT_STEPS
from xreal.masks.lesions import Lesion

__all__ = ["Recipe", "command", "lesion_file", "lesion_texts", "script"]


@dataclass(frozen=True)
class Recipe:
    """What one image was drawn with.

    Attributes:
        model: name of the model.
        seed: of this image.
        lesions: as the command line takes them, see ``lesion_texts``.
        organs: file of the organ mask; None where none was given.
        quality, mode, exact: as in ``Job``.
        xray: file of the X-ray that was edited; None for a new one.
        remove: file of the area of it that findings were removed from; None: none was.
    """

    model: str
    seed: int
    lesions: Sequence[str]
    organs: str | None
    quality: str
    mode: str | None
    exact: bool
    xray: str | None
    remove: str | None = None


def lesion_file(lesion: Lesion) -> str:
    """Name the file of a lesion's mask."""
    return lesion.finding.value.lower().replace(" ", "-") + ".png"


def lesion_texts(lesions: Sequence[Lesion]) -> list[str]:
    """Write lesions as the command line takes them, such as "Mass=mass.png@0.8"."""
    return [
        f"{one.finding.value}={lesion_file(one)}" + (f"@{one.strength:g}" if one.strength != 1 else "")
        for one in lesions
    ]


def command(recipe: Recipe) -> str:
    """Return the command line."""
    words = ["xreal", "generate"] if recipe.xray is None else ["xreal", "edit", recipe.xray]
    words += ["--organs", recipe.organs] if recipe.organs else []
    for text in recipe.lesions:
        words += ["--lesion", text]
    words += ["--remove", recipe.remove] if recipe.remove else []
    words += ["--seed", str(recipe.seed)]
    if recipe.xray is None:
        words += ["--quality", recipe.quality]
        words += ["--mode", recipe.mode] if recipe.mode else []
        words += ["--exact"] * recipe.exact
    else:
        words += ["--steps", str(EDIT_STEPS[recipe.quality])]
    words += ["--model", recipe.model, "--out", "again"]
    return shlex.join(words)


def script(recipe: Recipe) -> str:
    """Return a Python program; it writes ``again.png``."""
    return _edit_script(recipe) if recipe.xray else _draw_script(recipe)


_HEAD = "# Draws a synthetic chest X-ray again, not for diagnosis. Run it in the folder of the downloaded files.\n"


def _draw_script(recipe: Recipe) -> str:
    size = "*organs.shape" if recipe.organs else "256, 256"
    organs = f"read_organ_mask({recipe.organs!r})" if recipe.organs else "None"
    arguments = [f"seeds=[{recipe.seed}]", f"quality={recipe.quality!r}"]
    arguments += [f"mode={recipe.mode!r}"] if recipe.mode else []
    arguments += ["exact=True"] if recipe.exact else []
    return f"""{_HEAD}from xreal import XRealPipeline
from xreal.images import write_image
from xreal.masks import parse_lesion, read_organ_mask

pipeline = XRealPipeline.from_pretrained({recipe.model!r})
organs = {organs}
lesions = [parse_lesion(text, {size}) for text in {list(recipe.lesions)!r}]
output = pipeline(organs, lesions, {", ".join(arguments)})
write_image("again.png", output.images[0], {{"xreal:seed": "{recipe.seed}"}})
"""


def _edit_script(recipe: Recipe) -> str:
    arguments = [f"steps={EDIT_STEPS[recipe.quality]}"]
    arguments += [f"organ_mask=read_organ_mask({recipe.organs!r})"] if recipe.organs else []
    arguments += [f"remove=parse_mask({recipe.remove!r}, *source.image.shape)"] if recipe.remove else []
    return f"""{_HEAD}from pathlib import Path

from xreal import XRealPipeline
from xreal.editing import open_source
from xreal.images import write_image
from xreal.masks import parse_lesion, parse_mask, read_organ_mask

pipeline = XRealPipeline.from_pretrained({recipe.model!r})
source = open_source(Path({recipe.xray!r}))
lesions = [parse_lesion(text, *source.image.shape) for text in {list(recipe.lesions)!r}]
output = pipeline.edit(source.image, lesions, seeds=[{recipe.seed}], {", ".join(arguments)})
write_image("again.png", output.images[0], {{"xreal:seed": "{recipe.seed}"}}, bits=source.bits)
"""
