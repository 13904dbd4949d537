"""What happens when something on the page is pressed, moved or painted."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from xreal.app.anatomy import Shape, Start, from_mask, from_sample, from_xray, measures, slider_ranges, without_paths
from xreal.app.canvas import Canvas, read_canvas, show_canvas
from xreal.app.engine import Engine
from xreal.app.job import Made, Step, check_job, run_job
from xreal.app.pictures import png_uri, viewable
from xreal.app.results import Result, write_results
from xreal.app.state import Session
from xreal.errors import InputError, XRealError

__all__ = ["Events"]

Update = dict[str, Any]
AS_QUALITY = "as the quality"
FIRST_ANATOMY = 1  # its seed


def _told(act: Callable[..., Any]) -> Callable[..., Any]:
    """Show errors of xreal on the page, without the paths of uploaded files."""

    @functools.wraps(act)
    def told(self: Events, session: Session | None, *arguments: Any) -> Any:
        if session is None:
            raise gr.Error("The session has ended: load the page anew.", print_exception=False)
        paths = [Path(given) for given in arguments if isinstance(given, str)] + [session.start.path]
        try:
            return act(self, session, *arguments)
        except XRealError as error:
            raise gr.Error(without_paths(error, *paths), duration=15, print_exception=False) from None

    return told


class Events:
    """The page's events; each method takes the visitor's session first.

    Methods return dictionaries by name of component; ``page`` puts the components in.

    Args:
        engine: the model.
        folder: for visitors' files.
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self.folder = engine, folder
        self._stops: dict[str, threading.Event] = {}

    def open(self, request: gr.Request) -> Update:
        """Begin a visitor's session with a sampled anatomy."""
        session = Session(from_sample(FIRST_ANATOMY), self.folder / str(request.session_hash))
        return {**self._started(session), "generate": gr.update(interactive=True)}

    @_told
    def sample(self, session: Session, drawing: Any, seed: float | None) -> Update:
        """Start from a sampled anatomy; findings stay where they are painted."""
        seed = _whole(seed, "the anatomy's seed")
        findings = read_canvas(drawing) if session.start.path is None else None
        session.begin(from_sample(seed))
        return self._started(session, findings)

    @_told
    def sample_another(self, session: Session, drawing: Any, seed: float | None) -> Update:
        """Start from the anatomy of the next seed."""
        following = 0 if seed is None else int(seed) + 1
        return {**self.sample(session, drawing, following), "anatomy_seed": following}

    @_told
    def load_mask(self, session: Session, path: str | None) -> Update:
        """Start from an uploaded organ mask."""
        if path is None:
            return {}
        session.begin(from_mask(Path(path)))
        return self._started(session)

    @_told
    def load_xray(self, session: Session, path: str | None) -> Update:
        """Start from an uploaded X-ray."""
        if path is None:
            return {}
        session.begin(from_xray(Path(path), self.engine.find_organs))
        return self._started(session)

    def _started(self, session: Session, findings: Canvas | None = None) -> Update:
        start = session.start
        ranges, now = slider_ranges(start.organs), measures(start.organs)
        sliders: Update = {}
        for name, neutral in (
            ("ctr", now and round(now["ctr"], 2)),
            ("heart_scale", 1),
            ("lung_scale", 1),
            ("tilt", 0),
        ):
            if ranges is None:
                sliders[name] = gr.update(interactive=False)
            else:
                low, high = ranges[name]
                sliders[name] = gr.update(
                    minimum=round(low, 2), maximum=round(high, 2), value=neutral, interactive=True
                )
        return {
            "session": session,
            "editor": session.fresh_canvas(findings),
            "edit": gr.update(visible=start.path is not None, value=start.path is not None),
            "about": _about(start, start.organs, start.notes),
            **sliders,
        }

    @_told
    def move_ctr(
        self, session: Session, drawing: Any, ctr: float, heart_scale: float, lung_scale: float, tilt: float
    ) -> Update:
        """Set the cardiothoracic ratio."""
        return self._moved(session, drawing, Shape(ctr, heart_scale, lung_scale, tilt))

    @_told
    def move(self, session: Session, drawing: Any, heart_scale: float, lung_scale: float, tilt: float) -> Update:
        """Set the sizes and the tilt; the cardiothoracic ratio follows."""
        return self._moved(session, drawing, Shape(None, heart_scale, lung_scale, tilt))

    def _moved(self, session: Session, drawing: Any, shape: Shape) -> Update:
        try:
            shown = session.move(shape, read_canvas(drawing))
        except InputError as error:  # said beside the sliders: a slider is moved on, not dismissed
            return {"about": f"**Not possible:** {error}"}
        update: Update = {"editor": show_canvas(shown), "about": _about(session.start, shown.organs)}
        now = measures(session.drawn)
        if shape.ctr is None and now is not None:
            update["ctr"] = round(now["ctr"], 2)
        return update | {"session": session}

    @_told
    def painted(self, session: Session, drawing: Any) -> Update:
        """Measure what was painted."""
        return {"about": _about(session.start, read_canvas(drawing).organs)}

    def press(self, request: gr.Request) -> Update:
        """Show at once that the button was pressed, before the job's turn comes."""
        self._stops[str(request.session_hash)] = threading.Event()
        waiting = "Waiting for the model." if self.engine.ready else "Waiting for the model, which is being loaded."
        return {
            "progress": _status(waiting),
            "generate": gr.update(interactive=False),
            "stop": gr.update(interactive=True),
        }

    def rest(self) -> Update:
        """Free the button after a drawing, or after one that failed."""
        return {
            "progress": "",
            "generate": gr.update(interactive=True),
            "stop": gr.update(interactive=False),
        }

    def halt(self, request: gr.Request) -> Update:
        """Stop this visitor's job after the step under way, or before it begins.

        The button grows dim, no more: what the job itself says last may reach the page before this answer does.
        """
        self.leave(request)
        return {"stop": gr.update(interactive=False)}

    def leave(self, request: gr.Request) -> None:
        """Stop what a visitor who has left had asked for."""
        if (stop := self._stops.get(str(request.session_hash))) is not None:
            stop.set()

    def draw(
        self,
        session: Session,
        drawing: Any,
        seed: float | None,
        number: float,
        quality: str,
        mode: str,
        exact: bool,
        edit: bool,
        request: gr.Request,
    ) -> Iterator[Update]:
        """Draw, showing steps as they come."""
        stop = self._stops.pop(str(request.session_hash), threading.Event())
        self._stops[str(request.session_hash)] = stop
        rest = {name: update for name, update in self.rest().items() if name != "progress"}
        try:
            if session is None:
                raise InputError("the session has ended: load the page anew")
            self.engine.pipeline()  # before all else that needs its libraries: imported twice at once, they fail
            settings = {"quality": quality, "mode": None if mode == AS_QUALITY else mode, "exact": exact}
            first, count = _whole(seed, "the seed"), _whole(number, "the number of images")
            job = session.job(read_canvas(drawing), edit, seed=first, number=count, **settings)
            for note in check_job(job):
                gr.Warning(note)
            if stop.is_set():
                yield {"progress": _status("Stopped before it began."), **rest}
                return
            for update in run_job(self.engine, job, stop):
                if isinstance(update, Step):
                    yield _stepped(update)
                else:
                    yield {**self._made(session, job, update), **rest}
        except XRealError as error:
            raise gr.Error(
                without_paths(error, session.start.path if session else None), print_exception=False
            ) from None

    def _made(self, session: Session, job: Any, made: Made) -> Update:
        results = write_results(session.new_folder(), self.engine, job, made)
        session.remember(results)
        count = f"{len(results)} image{'s' if len(results) != 1 else ''}"
        said = f"Stopped; {count} finished." if made.stopped else f"{count} in {made.seconds:.1f} s."
        update: Update = {"progress": _status(said), "session": session}
        if results:
            update |= {"history": [(str(one.thumbnail), one.title) for one in session.history], **_shown(results[0])}
        return update

    @_told
    def pick(self, session: Session, event: gr.SelectData) -> Update:
        """Show a result of the history."""
        return _shown(session.history[int(event.index)])


def _whole(value: float | None, what: str) -> int:
    if value is None or value != int(value):
        raise InputError(f"{what} is {value}; expected a whole number")
    return int(value)


def _about(start: Start, organs: np.ndarray, notes: list[str] | None = None) -> str:
    """Say where the drawing starts and what it measures, as Markdown."""
    now = measures(organs)
    said = "The sliders need both lungs and the heart."
    if now is not None:
        said = f"Cardiothoracic ratio {now['ctr']:.2f}, tilt {now['tilt']:.1f}°"
    title = "".join(f"\\{letter}" if letter in "\\`*_[]<>#&|" else letter for letter in start.title)
    return "  \n".join([f"{title}. {said}", *(notes or [])])


def _status(said: str, bar: str = "") -> str:
    return f"<div class='xr-progress' role='status'>{said}{bar}</div>"


def _stepped(step: Step) -> Update:
    said = f"Step {step.done} of {step.total}"
    update: Update = {"progress": _status(said, f"<progress max='{step.total}' value='{step.done}'></progress>")}
    if step.preview is not None:
        shown = png_uri(viewable(step.preview))
        update["viewer"] = {"title": said, "image": shown, "twin": None, "twinName": "", "outlines": None}
    return update


def _shown(result: Result) -> Update:
    return {
        "viewer": result.view,
        "table": result.table,
        "files": [str(path) for path in result.files],
        "command": result.command,
        "script": result.script,
    }
