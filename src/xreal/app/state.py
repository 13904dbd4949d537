"""What one visitor has: where the drawing starts, what is on the canvas, and what was made."""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xreal.app.anatomy import Shape, Start, reshape
from xreal.app.canvas import Canvas, show_canvas
from xreal.app.job import Job
from xreal.app.pictures import png_uri
from xreal.app.results import Result
from xreal.masks.organs import OrganMask

__all__ = ["Session"]

_LONGEST_HISTORY = 40  # images


@dataclass(eq=False)
class Session:
    """One visitor's work.

    Attributes:
        start: where the drawing starts.
        folder: for this visitor's files.
        shape: where the sliders stand.
        drawn: organs as the sliders made them, below what was painted.
        history: newest first.
    """

    start: Start
    folder: Path
    shape: Shape = field(default_factory=Shape)
    drawn: OrganMask = field(init=False)
    history: list[Result] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Draw what the start has."""
        self.drawn = self.start.organs

    def begin(self, start: Start) -> None:
        """Begin again from another anatomy; the history stays."""
        self.start, self.shape, self.drawn = start, Shape(), start.organs

    def move(self, shape: Shape, canvas: Canvas) -> Canvas:
        """Set the sliders; what was painted stays where it is.

        Raises:
            MaskError: no such chest; nothing changes.
        """
        self.drawn, self.shape = reshape(self.start, shape), shape
        return canvas.over(self.drawn)

    def fresh_canvas(self, findings: Canvas | None = None) -> dict[str, Any]:
        """Write what the page shows of a new start: its organs, its X-ray if it has one, no paint.

        Args:
            findings: those of this canvas stay; None: none.
        """
        canvas = Canvas(self.start.organs, () if findings is None else findings.layers)
        picture = None if self.start.picture is None else png_uri(self.start.picture)
        return show_canvas(canvas) | {"fresh": True, "picture": picture}

    def job(self, canvas: Canvas, edit: bool, **settings: Any) -> Job:
        """Put together what is asked.

        Args:
            canvas: from the page.
            edit: the X-ray itself is to be edited, where the drawing starts from one.
            settings: further fields of ``Job``.

        Raises:
            MaskError: a finding's strength is out of range.
        """
        xray = self.start.path if edit else None
        organs: OrganMask | None = canvas.organs if canvas.organs.any() else None
        if xray is not None and np.array_equal(canvas.organs, self.start.organs):
            organs = None  # they stay where they are
        return Job(organs, canvas.lesions(), remove=canvas.removal(), xray=xray, **settings)

    def new_folder(self) -> Path:
        """Make a folder for one job's files."""
        folder = self.folder / secrets.token_hex(8)
        folder.mkdir(parents=True)
        return folder

    def remember(self, results: list[Result]) -> None:
        """Put results at the head of the history; files of those that fall out are deleted."""
        self.history[:0] = results
        gone, self.history = self.history[_LONGEST_HISTORY:], self.history[:_LONGEST_HISTORY]
        kept = {result.thumbnail.parent for result in self.history}
        for folder in {result.thumbnail.parent for result in gone} - kept:
            shutil.rmtree(folder, ignore_errors=True)

    def delete_files(self) -> None:
        """Delete the visitor's files."""
        shutil.rmtree(self.folder, ignore_errors=True)
