"""One press of the button: what is refused, steps as they come, stopping, edits of an X-ray."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xreal.app.engine import Engine
from xreal.app.job import Job, Made, Step, check_job, run_job, to_xray
from xreal.errors import InputError, ModelError
from xreal.images import fit_square, fit_square_mask, write_image
from xreal.masks.areas import box
from xreal.masks.lesions import Lesion
from xreal.vocabulary import Finding


def run(engine: Engine, job: Job, stop: threading.Event | None = None) -> tuple[list[Step], Made]:
    *steps, made = list(run_job(engine, job, stop or threading.Event()))
    assert isinstance(made, Made)
    assert all(isinstance(step, Step) for step in steps)
    return steps, made  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"number": 0}, "0 images; expected 1 to 8"),
        ({"number": 9}, "9 images; expected 1 to 8"),
        ({"seed": -1}, "seed -1 is out of range"),
        ({"quality": "best"}, "unknown quality"),
        ({"mode": "global"}, "unknown mode"),
        ({"xray": Path("chest.png"), "quality": "reference"}, "quality draft or default"),
        ({"xray": Path("chest.png"), "mode": "two-pass"}, "mode regional"),
        ({"xray": Path("chest.png"), "organs": None, "lesions": []}, "nothing to edit"),
        ({"remove": np.ones((256, 256), np.uint8)}, "from an X-ray only"),
    ],
)
def test_bad_jobs_are_refused_at_once(job: Job, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_job(replace(job, **change))


def test_a_finding_outside_the_lungs_is_noted(job: Job) -> None:
    assert check_job(job) == []
    corner = Lesion(Finding.MASS, box(0, 0, 20, 20, height=256, width=256))
    assert check_job(replace(job, lesions=[corner])) == ["100% of the Mass lies outside lungs and heart."]


@pytest.mark.parametrize(("change", "total"), [({}, 4), ({"number": 5}, 8), ({"lesions": []}, 4)])
def test_every_step_is_told(engine: Engine, job: Job, change: dict[str, Any], total: int) -> None:
    steps, made = run(engine, replace(job, **change))
    assert [step.done for step in steps] == list(range(1, total + 1))
    assert {step.total for step in steps} == {total}
    assert steps[0].preview is not None
    assert steps[0].preview.shape == (64, 64)
    assert [one.record["seed"] for one in made.drawn] == list(range(7, 7 + change.get("number", 1)))
    assert not made.stopped


def test_it_draws_what_the_pipeline_draws(engine: Engine, job: Job) -> None:
    _, made = run(engine, job)
    output = engine.pipeline()(job.organs, job.lesions, [7], quality="draft")
    np.testing.assert_array_equal(made.drawn[0].image, output.images[0])


def test_stopped_it_keeps_the_finished_batch(engine: Engine, job: Job) -> None:
    stop = threading.Event()
    seen = []
    for update in run_job(engine, replace(job, number=8), stop):
        seen.append(update)
        if isinstance(update, Step) and update.done == 4:
            stop.set()
    made = seen[-1]
    assert isinstance(made, Made)
    assert made.stopped
    assert len(made.drawn) == 4
    assert run(engine, job)[1].drawn  # and the model is free again


def test_closed_by_a_visitor_who_left_it_frees_the_model(engine: Engine, job: Job) -> None:
    stop = threading.Event()
    steps = run_job(engine, job, stop)
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert stop.is_set()
    assert engine.drawing.acquire(timeout=60)
    engine.drawing.release()


def test_errors_of_the_work_reach_the_page(job: Job, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="neither a folder nor a bundled model"):
        run(Engine(str(tmp_path / "missing")), job)


def test_an_edit_leaves_the_xray_beyond_the_finding(engine: Engine, pneumonia: Lesion, tmp_path: Path) -> None:
    image = np.random.default_rng(0).uniform(size=(120, 90)).astype(np.float32)
    write_image(tmp_path / "chest.png", image, bits=16)
    job = Job(None, [pneumonia], seed=3, quality="draft", xray=tmp_path / "chest.png")
    steps, made = run(engine, job)
    assert len(steps) == 8
    assert made.source is not None
    (output,) = made.edits
    beyond = output.weight == 0
    assert 0 < beyond.sum() < beyond.size
    np.testing.assert_array_equal(output.images[0][beyond], made.source.image[beyond])
    assert (output.images[0] != made.source.image).any()


@pytest.mark.parametrize("shape", [(256, 256), (100, 80), (300, 512), (1001, 777)])
def test_paint_returns_to_the_xrays_own_pixels(shape: tuple[int, int]) -> None:
    mask = box(60, 60, 190, 200, height=256, width=256)
    own = to_xray(mask, shape)
    assert own.shape == shape
    again = fit_square_mask(own.astype(np.uint8), 256)
    assert (again != mask).mean() < 0.02  # at most a border of a pixel
    assert fit_square(own, 256).max() == 1
