"""What the card is asked to judge, and against what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xreal.errors import InputError
from xreal.evaluation.judges import JUDGES

__all__ = ["AXES", "ROWS", "Options", "check_options"]

AXES = ("fidelity", "anatomy", "pathology", "diversity", "privacy", "edits", "network", "utility")
ROWS = ("regional", "prompted", "prior", "two-pass", "text")
"""What a model is asked to draw: with all that it has, with the prior instead of the adapter, as the authors do, and
without organ masks."""


@dataclass(frozen=True)
class Options:
    """What to judge, against what.

    Attributes:
        real: prepared folders; the images of ``split`` are the reference.
        out: folder of the report; a report that was interrupted goes on in it.
        model: bundled model or model folder that draws; or None,
        generated: folder of pictures from anywhere.
        train: prepared folders whose ``train`` split the generator was trained on; default ``real``.
        judges: folder of the judges.
        n: images that the model draws, per row.
        rows: what the model draws, some of ``ROWS``, the first among them.
        two_pass_n: images of the row "two-pass", each of which takes several times as long.
        seed: of the first image.
        only: axes, some of ``AXES``.
        edit_n: real X-rays that are edited in each way, for the axis "edits".
        minutes: time limit of the axis "utility".
        split: of the real images.
        swap_halves: ask for the masks of the half that is compared with otherwise, and compare with the other.
        batch_size: images drawn side by side.
        backend: see ``XRealPipeline.use_backend``.
    """

    real: tuple[Path, ...]
    out: Path
    model: str | None = None
    generated: Path | None = None
    train: tuple[Path, ...] = ()
    judges: Path = JUDGES
    n: int = 200
    rows: tuple[str, ...] = ROWS
    two_pass_n: int = 20
    seed: int = 0
    only: tuple[str, ...] = AXES[:5]
    edit_n: int = 50
    minutes: float = 30.0
    split: str = "val"
    swap_halves: bool = False
    batch_size: int = 8
    backend: str = "auto"


def check_options(options: Options) -> None:
    """Refuse what contradicts itself.

    Raises:
        InputError: both or neither of a model and a folder, an unknown axis or row, or numbers out of range.
    """
    if (options.model is None) == (options.generated is None):
        raise InputError("give either a model that draws or a folder of generated images, and not both")
    if unknown := [axis for axis in options.only if axis not in AXES]:
        raise InputError(f"unknown axis {unknown[0]!r}; expected some of {', '.join(AXES)}")
    if unknown := [row for row in options.rows if row not in ROWS]:
        raise InputError(f"unknown row {unknown[0]!r}; expected some of {', '.join(ROWS)}")
    if ROWS[0] not in options.rows:
        raise InputError(f"the row {ROWS[0]} is what the others are compared with; give it too")
    if "edits" in options.only and options.model is None:
        raise InputError("the axis edits needs a model that edits real X-rays; give --model, or leave the axis out")
    if "network" in options.only and options.model is None:
        raise InputError("the axis network draws images to learn from; give --model, or leave the axis out")
    if min(options.n, options.batch_size, options.edit_n) < 1 or min(options.two_pass_n, options.seed) < 0:
        raise InputError("expected --n, --edit-n and --batch-size ≥ 1, --two-pass-n and --seed ≥ 0")
