"""The page: what stands where, and which event each part begins."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any

import gradio as gr

from xreal.app.anatomy import SLIDER_STEPS
from xreal.app.canvas import MAX_LAYERS
from xreal.app.engine import Engine
from xreal.app.events import AS_QUALITY, FIRST_ANATOMY, Events
from xreal.app.pictures import FINDING_COLOURS, ORGAN_COLOURS
from xreal.app.results import NOTICE
from xreal.vocabulary import Finding

__all__ = ["build_page", "static"]

# What docs/results.md says of the bundled model: these show where they are asked for.
_SHOWN = {"cxr-256": ("Pneumonia", "Lung Opacity", "Infiltration", "Edema", "Pleural Effusion", "Atelectasis")}


def static(name: str) -> str:
    """Read a file of the page."""
    return files("xreal.app").joinpath("static", name).read_text(encoding="utf-8")


def _findings(engine: Engine) -> list[tuple[str, list[str]]]:
    every = [finding.value for finding in Finding if finding is not Finding.NO_FINDING]
    removal = ("Of an X-ray that is edited", [Finding.NO_FINDING.value])
    shown = _SHOWN.get(engine.model)
    if shown is None:
        return [("Findings", every), removal]
    rest = [name for name in every if name not in shown]
    return [(f"Drawn by {engine.model}", list(shown)), ("Hardly or not drawn", rest), removal]


def build_page(engine: Engine, events: Events) -> gr.Blocks:
    """Put the page together.

    Args:
        engine: the model.
        events: what happens.
    """
    parts: dict[str, Any] = {}
    with gr.Blocks(
        title="XReal studio", fill_width=True, analytics_enabled=False, delete_cache=(600, 6 * 3600)
    ) as page:
        parts["session"] = gr.State(time_to_live=6 * 3600, delete_callback=_forget)
        gr.HTML(f"<div class='xr-banner'><h1>XReal studio</h1><strong>{NOTICE.capitalize()}</strong></div>")
        with gr.Row():
            with gr.Column(scale=3, min_width=290, elem_id="settings"):
                with gr.Column(elem_id="anatomy"):
                    _anatomy(parts)
                with gr.Column(elem_id="drawing"):
                    _drawing(parts)
            with gr.Column(scale=4, min_width=320, elem_id="painting"):
                parts["editor"] = gr.HTML(
                    elem_id="editor",
                    html_template=static("editor.html"),
                    js_on_load=static("editor.js"),
                    organColours=list(ORGAN_COLOURS.values()),
                    findingColours=list(FINDING_COLOURS),
                    findings=_findings(engine),
                    maxLayers=MAX_LAYERS,
                )
            with gr.Column(scale=4, min_width=320, elem_id="result"):
                parts["progress"] = gr.HTML(elem_id="progress")
                parts["viewer"] = gr.HTML(
                    elem_id="viewer", html_template=static("viewer.html"), js_on_load=static("viewer.js")
                )
                parts["table"] = gr.HTML(elem_id="table")
        _files(parts)
        _wire(page, parts, events)
    return page


def _forget(session: Any) -> None:
    if session is not None:
        session.delete_files()


def _anatomy(parts: dict[str, Any]) -> None:
    with gr.Tab("Sample"), gr.Row():
        parts["anatomy_seed"] = gr.Number(FIRST_ANATOMY, label="Anatomy's seed", precision=0, min_width=80)
        parts["sample"] = gr.Button("Sample another", min_width=80, elem_id="sample")
    with gr.Tab("Organ mask"):
        parts["mask_file"] = gr.File(
            label="PNG, TIFF, NPY or DICOM Segmentation", type="filepath", height=110, elem_id="mask-file"
        )
    with gr.Tab("X-ray"):
        parts["xray_file"] = gr.File(
            label="PNG, JPEG, TIFF or DICOM; its organs are found", type="filepath", height=110, elem_id="xray-file"
        )
    parts["about"] = gr.Markdown(elem_id="about")
    parts["edit"] = gr.Checkbox(
        True, label="Edit this X-ray", info="Else a new X-ray is drawn with its organs.", visible=False
    )
    parts["ctr"] = gr.Slider(0.35, 0.65, 0.5, step=SLIDER_STEPS["ctr"], label="Cardiothoracic ratio", elem_id="ctr")
    parts["heart_scale"] = gr.Slider(0.8, 1.2, 1, step=SLIDER_STEPS["heart_scale"], label="Heart size", elem_id="heart")
    parts["lung_scale"] = gr.Slider(0.8, 1.2, 1, step=SLIDER_STEPS["lung_scale"], label="Lung size", elem_id="lungs")
    parts["tilt"] = gr.Slider(-6, 6, 0, step=SLIDER_STEPS["tilt"], label="Tilt by (degrees, clockwise)", elem_id="tilt")


def _drawing(parts: dict[str, Any]) -> None:
    with gr.Row():
        # Bounds are checked by the job: Gradio's own checks would end the event before it can free the button.
        parts["seed"] = gr.Number(0, label="Seed", precision=0, min_width=70)
        parts["number"] = gr.Number(1, label="Images", precision=0, min_width=70)
        parts["quality"] = gr.Dropdown(
            ["draft", "default", "reference"], value="default", label="Quality", scale=2, min_width=130
        )
    with gr.Accordion("Mode", open=False):
        parts["mode"] = gr.Radio([AS_QUALITY, "regional", "two-pass"], value=AS_QUALITY, label="Mode")
        parts["exact"] = gr.Checkbox(False, label="Leave every pixel beyond the findings as in the healthy twin")
    with gr.Row():
        parts["generate"] = gr.Button(
            "Generate", variant="primary", interactive=False, elem_id="generate", min_width=100
        )
        parts["stop"] = gr.Button("Stop", interactive=False, elem_id="stop", min_width=60)


def _files(parts: dict[str, Any]) -> None:
    parts["history"] = gr.Gallery(
        label=f"History of this session ({NOTICE})",
        columns=8,
        height=170,
        object_fit="contain",
        allow_preview=False,
        interactive=False,
        elem_id="history",
    )
    with gr.Row():
        parts["files"] = gr.File(
            label=f"Download ({NOTICE})", file_count="multiple", interactive=False, height=260, elem_id="files"
        )
        with gr.Column():
            parts["command"] = gr.Textbox(
                label="Command line that draws it again, in the folder of the unpacked archive",
                buttons=["copy"],
                interactive=False,
                elem_id="command",
            )
            parts["script"] = gr.Code(label="Python that draws it again", language="python", interactive=False)


def _wire(page: gr.Blocks, parts: dict[str, Any], events: Events) -> None:
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    live: dict[str, Any] = {**quiet, "trigger_mode": "always_last"}
    sliders = [parts[name] for name in ("heart_scale", "lung_scale", "tilt")]
    anatomy = [
        parts[name] for name in ("session", "editor", "edit", "about", "ctr", "heart_scale", "lung_scale", "tilt")
    ]
    shown = [parts[name] for name in ("viewer", "table", "files", "command", "script")]
    session, editor = parts["session"], parts["editor"]
    by_name = functools.partial(_by_name, parts)

    page.load(by_name(events.open), None, [*anatomy, parts["generate"]], **quiet)
    seed = parts["anatomy_seed"]
    parts["sample"].click(by_name(events.sample_another), [session, editor, seed], [*anatomy, seed], **quiet)
    seed.input(by_name(events.sample), [session, editor, seed], anatomy, **live)
    for name, load in (("mask_file", events.load_mask), ("xray_file", events.load_xray)):
        loading = {**quiet, "show_progress": "minimal", "show_progress_on": parts["about"]}
        parts[name].upload(by_name(load), [session, parts[name]], anatomy, **loading)
    parts["ctr"].input(by_name(events.move_ctr), [session, editor, parts["ctr"], *sliders], anatomy, **live)
    for slider in sliders:
        slider.input(by_name(events.move), [session, editor, *sliders], anatomy, **live)
    editor.input(by_name(events.painted), [session, editor], parts["about"], **live)

    asked = [parts[name] for name in ("seed", "number", "quality", "mode", "exact", "edit")]
    buttons = [parts[name] for name in ("progress", "generate", "stop")]
    pressed = parts["generate"].click(by_name(events.press), None, buttons, queue=False, **quiet)
    drawn = pressed.then(
        by_name(events.draw),
        [session, editor, *asked],
        [session, *buttons, *shown, parts["history"]],
        **{**quiet, "show_progress": "minimal", "show_progress_on": parts["progress"]},
        concurrency_limit=1,
        concurrency_id="model",
    )
    drawn.failure(by_name(events.rest), None, buttons, queue=False, **quiet)  # also when the queue is full
    parts["stop"].click(by_name(events.halt), None, parts["stop"], queue=False, **quiet)
    parts["history"].select(by_name(events.pick), session, shown, **quiet)
    page.unload(events.leave)


def _by_name(parts: dict[str, Any], act: Callable[..., Any]) -> Callable[..., Any]:
    """Turn an event's dictionary by name into one by component."""
    import inspect

    def named(update: dict[str, Any]) -> dict[Any, Any]:
        return {parts[name]: value for name, value in update.items()}

    if inspect.isgeneratorfunction(act):

        @functools.wraps(act)
        def steps(*arguments: Any) -> Iterator[dict[Any, Any]]:
            for update in act(*arguments):
                yield named(update)

        return steps

    @functools.wraps(act)
    def once(*arguments: Any) -> dict[Any, Any]:
        return named(act(*arguments))

    return once
