"""What is handed out: all files, marked as synthetic, and a command and a program that draw the same again."""

import json
import shlex
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xreal.app.engine import Engine
from xreal.app.job import Job, Made, run_job
from xreal.app.results import Result, write_results
from xreal.data.phantom import phantom
from xreal.images import write_image
from xreal.masks.areas import box
from xreal.masks.lesions import Lesion
from xreal.masks.organs import resize_organ_mask
from xreal.masks.shapes import edit_organ_mask

Make = Callable[[Job], list[Result]]
DrawAgain = Callable[[Result, Path], list[np.ndarray]]


@pytest.fixture
def make(engine: Engine, tmp_path: Path) -> Make:
    def run(job: Job) -> list[Result]:
        *_, made = run_job(engine, job, threading.Event())
        assert isinstance(made, Made)
        folder = tmp_path / "results"
        folder.mkdir()
        return write_results(folder, engine, job, made)

    return run


def unpack(result: Result, into: Path, model: Path) -> Path:
    """Unpack the archive, with the model beside it under the name that the command says."""
    with zipfile.ZipFile(result.files[0]) as archive:
        archive.extractall(into)
    (into / model.name).symlink_to(model)
    return into


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture).astype(np.int64)


@pytest.fixture
def draw_again(run: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> DrawAgain:
    """Return a function that follows the command and the program, and returns what each draws."""

    def draw(result: Result, folder: Path) -> list[np.ndarray]:
        monkeypatch.chdir(folder)
        assert run(*shlex.split(result.command)[1:]) == 0
        exec(result.script, {})
        return [pixels(folder / "again" / "0000.png"), pixels(folder / "again.png")]

    return draw


def test_command_and_program_draw_the_same_image(
    make: Make, job: Job, tmp_path: Path, tiny_model_folder: Path, draw_again: DrawAgain
) -> None:
    result = make(replace(job, number=2, exact=True))[1]  # the second: its seed is 8
    assert "--lesion Pneumonia=pneumonia.png@0.8 --seed 8 --quality draft --exact" in result.command
    folder = unpack(result, tmp_path / "unpacked", tiny_model_folder)
    wanted = pixels(folder / "0001.png")
    for again in draw_again(result, folder):
        assert np.abs(again - wanted).max() <= 1  # drawn alone or with others, but for rounding


def test_command_and_program_make_the_same_edit(
    make: Make,
    pneumonia: Lesion,
    organs: np.ndarray,
    tmp_path: Path,
    tiny_model_folder: Path,
    draw_again: DrawAgain,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = resize_organ_mask(edit_organ_mask(organs, heart_scale=1.1), 64)  # by a segmenter that is trained
    monkeypatch.setattr("xreal.pipeline_edit.segment", lambda *_: found[None])
    write_image(tmp_path / "a chest.png", phantom(3, 96).image[:, :80], bits=16)
    area = box(150, 60, 190, 90, height=256, width=256).astype(np.uint8)
    asked = Job(organs, [pneumonia], seed=2, quality="draft", remove=area, xray=tmp_path / "a chest.png")
    (result,) = make(asked)
    assert result.command.startswith("xreal edit source.png --organs organs.png --lesion")
    folder = unpack(result, tmp_path / "unpacked", tiny_model_folder)
    wanted = pixels(folder / "0000.png")
    assert (wanted.shape, wanted.max() > 255) == ((96, 80), True)
    for again in draw_again(result, folder):
        np.testing.assert_array_equal(again, wanted)
    assert "--remove remove.png" in result.command
    assert json.loads((folder / "0000.json").read_text())["conformance"].keys() == {"left lung", "right lung", "heart"}


def test_everything_is_handed_out_and_says_synthetic(make: Make, job: Job, tmp_path: Path) -> None:
    (result,) = make(job)
    names = [path.name for path in result.files]
    wanted = {"0000.png", "0000-healthy.png", "0000.json", "0000.dcm", "0000-healthy.dcm", "0000-seg.dcm"}
    assert wanted | {"organs.png", "pneumonia.png", "0000-again.py"} < set(names)
    assert names[0] == "xreal-studio.zip"
    record = json.loads((result.files[0].parent / "0000.json").read_text())
    assert record["notice"] == "synthetic, not for diagnosis"
    assert "not for diagnosis" in result.script
    with Image.open(result.thumbnail) as picture:
        assert "not for diagnosis" in picture.info["xreal:synthetic"]
    with zipfile.ZipFile(result.files[0]) as archive:
        assert set(names[1:]) <= set(archive.namelist())
        texts = [archive.read(name) for name in archive.namelist() if name.endswith((".json", ".py", ".txt"))]
    assert all(str(tmp_path).encode() not in text for text in texts)


def test_the_viewer_gets_twin_outlines_and_scores(make: Make, job: Job) -> None:
    (result,) = make(job)
    assert result.view["twinName"] == "healthy twin"
    assert all(result.view[name].startswith("data:image/png;base64,") for name in ("image", "twin", "outlines"))
    assert result.view["title"] == "Pneumonia · seed 7 · draft"
    for organ in ("left lung", "right lung", "heart"):
        assert organ in result.table
