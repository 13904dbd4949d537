"""Edits of real X-rays on the card: nothing changes outside, a heart grows where it is asked to, what lacks is said."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from xreal.config import PRESETS
from xreal.data.contract import Box, Sample
from xreal.data.phantom import phantom
from xreal.data.prepared import PreparedDataset, write_shard
from xreal.evaluation.edits import MOVES, judge_edits
from xreal.evaluation.judges import load_judges
from xreal.pipeline import XRealPipeline
from xreal.vocabulary import Finding

SIZE = PRESETS["tiny"].image_size


def silent(numbers: range, name: str) -> range:
    return numbers


@pytest.fixture(scope="module")
def boxed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold eight validation phantoms, every other one with a box, and one without organs."""
    folder, samples = tmp_path_factory.mktemp("boxed"), []
    for seed in range(8):
        chest = phantom(3000 + seed, SIZE)
        boxes = (Box(Finding.PNEUMONIA, 10, 20, 12, 14),) if seed % 2 else ()
        image = np.rint(chest.image * 255).astype(np.uint8)
        samples.append(Sample(image, chest.organ_mask, f"p{seed}", findings=(Finding.PNEUMONIA,), boxes=boxes))
    samples.append(Sample(samples[0].image, None, "bare", findings=()))
    write_shard(folder / "val-00000.parquet", samples)
    return folder


@pytest.fixture(scope="module")
def editor(tiny_pipeline: XRealPipeline, judges: Path) -> XRealPipeline:
    """Give the tiny model a segmenter that knows phantoms."""
    parts = {name: part for name, part in tiny_pipeline.components.items() if name != "segmenter"}
    pipeline = XRealPipeline(**parts, segmenter=load_judges(judges).segmenter)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_every_kind_of_edit_is_judged(editor: XRealPipeline, judges: Path, boxed: Path) -> None:
    edits, notes = judge_edits(editor, load_judges(judges), PreparedDataset((boxed,), "val"), 3, silent)
    assert notes == []
    assert list(edits) == ["Pneumonia added", "findings removed", *MOVES]
    for kind, some in edits.items():
        changed = some.scores["pixels changed outside"]
        assert len(changed) == 3, kind
        assert np.nanmax(changed) == 0, kind
        if kind not in MOVES:
            assert len(some.pictures) == 3
            assert (some.scores["change inside"] > 0).all()
            assert np.isfinite(some.scores["probability after"]).all()
    wider = edits["heart x 1.2"].scores
    assert (wider["refused"] == 0).any()
    assert np.nanmean(wider["cardiothoracic ratio asked to change by"]) > 0.03
    assert np.isfinite(wider["cardiothoracic ratio changed by"]).any()
    assert np.nanmean(wider["dice heart, after"]) > np.nanmean(wider["dice heart, before"])


def test_what_lacks_is_said(tiny_pipeline: XRealPipeline, judges: Path, data: Path) -> None:
    parts = {name: part for name, part in tiny_pipeline.components.items() if name != "segmenter"}
    pipeline = XRealPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    edits, notes = judge_edits(pipeline, load_judges(judges), PreparedDataset((data,), "val"), 1, silent)
    assert list(edits) == ["Pneumonia added"]
    assert len(notes) == 4
    assert "findings removed: no real X-ray has a mask of both lungs and a box" in notes[0]
    assert all("no segmenter" in note for note in notes[1:])


def test_edits_stand_on_the_card(
    data: Path, judges: Path, tiny_model_folder: Path, tmp_path: Path, run: Callable[..., int]
) -> None:
    command = ["evaluate", "--real", data, "--judges", judges, "--out", tmp_path]
    assert run(*command, "--model", tiny_model_folder, "--only", "edits", "--edit-n", 2) == 0
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    added = rows["regional"]["edits: Pneumonia added"]
    assert added["pixels changed outside"]["value"] == 0
    assert added["pixels changed outside"]["n"] == 2
    assert not (tmp_path / "images").exists()  # they need no image that is drawn from a mask
    assert "edits of real X-rays" in (tmp_path / "index.html").read_text()


def test_pictures_cannot_edit(
    data: Path, judges: Path, tmp_path: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "--real", data, "--judges", judges, "--out", tmp_path, "--generated", tmp_path]
    assert run(*command, "--only", "edits") == 2
    assert "needs a model" in capsys.readouterr().err
