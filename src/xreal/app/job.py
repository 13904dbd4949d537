"""One press of the button: what is asked, checked at once; then its steps as they come, and what was drawn."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from xreal.app.canvas import SIDE
from xreal.app.engine import Engine
from xreal.errors import InputError
from xreal.masks.lesions import Lesion, outside_lungs_fraction
from xreal.masks.organs import OrganMask

if TYPE_CHECKING:
    from xreal.editing import Source
    from xreal.pipeline_output import XRealEditOutput
    from xreal.synthesis import Drawn

__all__ = ["EDIT_STEPS", "MAX_IMAGES", "Job", "Made", "Step", "check_job", "run_job"]

MAX_IMAGES = 8
_BATCH = 4  # images side by side, as `xreal generate` does
_PREVIEW_SHARE = 0.25  # of the time goes into showing steps, at most

EDIT_STEPS = {"draft": 8, "default": 15}
"""Solver steps of an edited X-ray by quality; "reference" is a procedure for drawing, not for editing."""


@dataclass(frozen=True, eq=False)
class Job:
    """What is asked.

    Attributes:
        organs: (SIDE, SIDE); of an edit the organs that the X-ray should have, None where they stay.
        lesions: masks (SIDE, SIDE).
        seed: of the first image; the next ones take the next seeds.
        number: of images.
        quality: "draft", "default" or "reference".
        mode: "regional", "two-pass", or None for the quality's.
        exact: pixels beyond the lesions are the healthy twin's.
        remove: (SIDE, SIDE) where findings of an X-ray are to go; None: nowhere.
        xray: file of an X-ray that is to be edited; None draws a new one.
    """

    organs: OrganMask | None
    lesions: list[Lesion]
    seed: int
    number: int = 1
    quality: str = "default"
    mode: str | None = None
    exact: bool = False
    remove: npt.NDArray[np.uint8] | None = None
    xray: Path | None = None


@dataclass(frozen=True, eq=False)
class Step:
    """A step that was taken.

    Attributes:
        done: steps so far.
        total: of the whole job.
        preview: the first image of the batch as it is now, (S, S) in [0, 1]; None where none was made.
    """

    done: int
    total: int
    preview: npt.NDArray[np.float32] | None


@dataclass(frozen=True, eq=False)
class Made:
    """What was made: ``drawn``, or of an edit ``edits`` of a ``source``, batch by batch.

    Attributes:
        seconds: that it took, without waiting.
        stopped: it was stopped; what had been finished is here.
        conformance: of an edit, per image.
    """

    drawn: list[Drawn]
    edits: list[XRealEditOutput]
    source: Source | None
    seconds: float
    stopped: bool
    conformance: list[dict[str, float]]


class _StoppedError(Exception):
    pass


def check_job(job: Job) -> list[str]:
    """Check what is asked before any weight is needed.

    Returns:
        What looks like a mistake, a sentence each.

    Raises:
        InputError: it cannot be done.
    """
    from xreal.inputs import check_settings

    if not 1 <= job.number <= MAX_IMAGES:
        raise InputError(f"{job.number} images; expected 1 to {MAX_IMAGES}. For more, `xreal synthesize`.")
    check_settings([job.seed, job.seed + job.number - 1], job.quality, job.mode)
    if job.xray is not None:
        if job.quality not in EDIT_STEPS or job.mode == "two-pass":
            raise InputError(
                "an X-ray is edited in quality draft or default and mode regional; choose these, or draw a new X-ray"
            )
        if job.organs is None and not job.lesions and job.remove is None:
            raise InputError("nothing to edit: paint a finding, or change the organs; or draw a new X-ray")
    elif job.remove is not None:
        raise InputError("findings are removed from an X-ray only: choose one to edit, or leave that layer out")
    notes = []
    for lesion in job.lesions:
        outside = 0.0 if job.organs is None else outside_lungs_fraction(lesion.mask, job.organs)
        if outside > 0.5:
            notes.append(f"{outside:.0%} of the {lesion.finding.value} lies outside lungs and heart.")
    return notes


def run_job(engine: Engine, job: Job, stop: threading.Event) -> Iterator[Step | Made]:
    """Draw, and tell each step. Closed early, or with ``stop`` set, it ends after the step under way.

    Raises:
        XRealError: as the pipeline's.
    """
    updates: queue.SimpleQueue[Step | Made | BaseException | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            updates.put(_draw(engine, job, stop, updates.put))
        except BaseException as error:  # whatever it is, the page must hear of it
            updates.put(error)
        finally:
            updates.put(None)

    threading.Thread(target=work, name="drawing", daemon=True).start()
    try:
        while (update := updates.get()) is not None:
            if isinstance(update, BaseException):
                raise update
            yield update
    finally:
        stop.set()


def _draw(engine: Engine, job: Job, stop: threading.Event, tell: Any) -> Made:
    from xreal.editing import open_source
    from xreal.inputs import check_settings

    source = None if job.xray is None else open_source(job.xray)
    pipeline = engine.pipeline()
    settings = check_settings([job.seed], job.quality, job.mode)
    per_batch = settings.steps * (2 if settings.mode == "two-pass" and job.lesions else 1)
    if source is not None:
        per_batch = EDIT_STEPS[job.quality]
    batches = [
        list(range(job.seed + first, job.seed + min(job.number, first + _BATCH)))
        for first in range(0, job.number, _BATCH)
    ]
    drawn: list[Drawn] = []
    edits: list[XRealEditOutput] = []
    stopped = False
    with engine.drawing:
        began = time.monotonic()
        for index, seeds in enumerate(batches):
            watch = _Watch(stop, tell, index * per_batch, len(batches) * per_batch, len(seeds))
            try:
                if source is not None:
                    edits.append(_edit(pipeline, job, source, seeds, watch))
                else:
                    drawn += _new(pipeline, job, seeds, watch)
            except _StoppedError:
                stopped = True
                break
        conformance = _conformance_of_edits(pipeline, job, edits)
    return Made(drawn, edits, source, time.monotonic() - began, stopped, conformance)


def _new(pipeline: Any, job: Job, seeds: list[int], watch: _Watch) -> list[Drawn]:
    from xreal.synthesis import draw

    settings: dict[str, Any] = {"quality": job.quality, "mode": job.mode, "exact": job.exact}
    return draw(pipeline, job.organs, job.lesions, seeds, callback_on_step_end=watch, **settings)


def _edit(pipeline: Any, job: Job, source: Source, seeds: list[int], watch: _Watch) -> XRealEditOutput:
    from xreal.masks.organs import resize_organ_mask

    organs = None if job.organs is None else resize_organ_mask(job.organs, pipeline.image_size)
    return pipeline.edit(
        source.image,
        [Lesion(one.finding, to_xray(one.mask, source.image.shape), one.strength) for one in job.lesions],
        seeds,
        remove=None if job.remove is None else to_xray(job.remove, source.image.shape),
        organ_mask=organs,
        steps=EDIT_STEPS[job.quality],
        callback_on_step_end=watch,
    )


def _conformance_of_edits(pipeline: Any, job: Job, edits: list[XRealEditOutput]) -> list[dict[str, float]]:
    from xreal.masks.organs import resize_organ_mask
    from xreal.synthesis import conformance

    images = [image for output in edits for image in output.images]
    if not images or job.organs is None:
        return [{} for _ in images]
    return conformance(pipeline, images, resize_organ_mask(job.organs, pipeline.image_size))


def to_xray(mask: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Bring what was painted over the padded square back to the X-ray's own pixels (H, W), by nearest neighbour."""
    height, width = shape
    side = max(height, width)
    nearest = (2 * np.arange(side) + 1) * SIDE // (2 * side)
    top, left = (side - height) // 2, (side - width) // 2
    square: npt.NDArray[np.float32] = np.asarray(mask, np.float32)[np.ix_(nearest, nearest)]
    return square[top : top + height, left : left + width]


class _Watch:
    """The pipeline's callback: tells steps, decodes one image now and then, stops."""

    def __init__(self, stop: threading.Event, tell: Any, before: int, total: int, batch: int) -> None:
        self._stop, self._tell, self._before, self._total, self._batch = stop, tell, before, total, batch
        self._next_preview = 0.0

    def __call__(self, pipeline: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> None:
        if self._stop.is_set():
            raise _StoppedError
        began, preview = time.monotonic(), None
        if began >= self._next_preview:
            from xreal.models.autoencoder import decode_pixels

            latents = kwargs["latents"]
            first = len(latents) - self._batch  # with lesions where there are any
            preview = decode_pixels(pipeline.vae, latents[first : first + 1]).mean(1)[0].cpu().numpy()
            ended = time.monotonic()
            self._next_preview = ended + (ended - began) * (1 / _PREVIEW_SHARE - 1)
        self._tell(Step(self._before + step + 1, self._total, preview))
