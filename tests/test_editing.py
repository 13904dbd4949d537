"""Editing an X-ray: what is asked changes, every other pixel stays to the last bit, in size and depth too."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from xreal.control.editing import bring_back, from_square, plan_edit
from xreal.data.phantom import Phantom
from xreal.errors import ImageError, InputError, MaskError, ModelError
from xreal.images import fit_square, read_image
from xreal.masks.areas import box
from xreal.masks.lesions import Lesion
from xreal.masks.organs import write_organ_mask
from xreal.masks.shapes import edit_organ_mask
from xreal.pipeline import XRealPipeline
from xreal.vocabulary import Organ

Run = Callable[..., int]
QUICK: dict[str, Any] = {"steps": 3, "guidance": 4.0}


def chest(phantom: Phantom, height: int = 150, width: int = 120) -> np.ndarray:
    """Return a phantom's X-ray in a size that is not the model's and not square."""
    return from_square(phantom.image, height, width)


def lesion(height: int = 150, width: int = 120) -> Lesion:
    return Lesion("Pneumonia", box(20, 60, 60, 100, height=height, width=width))  # type: ignore[arg-type]


@given(height=st.integers(1, 90), width=st.integers(1, 90), size=st.integers(1, 70))
@settings(max_examples=40, deadline=None)
def test_the_way_back_has_the_xrays_size_and_stays_in_range(height: int, width: int, size: int) -> None:
    square = np.random.default_rng(0).random((size, size), np.float32)
    back = from_square(square, height, width)
    assert back.shape == (height, width)
    assert square.min() - 1e-6 <= back.min()
    assert back.max() <= square.max() + 1e-6


@pytest.mark.parametrize("shape", [(64, 64), (64, 48), (41, 64)])
def test_the_way_back_undoes_fit_square(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(1).random(shape, np.float32)
    np.testing.assert_array_equal(from_square(fit_square(image, 64), *shape), image)


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_pixels_without_weight_keep_their_bits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image, weight = rng.random((50, 40), np.float32), rng.random((50, 40), np.float32).round()
    edited = bring_back(image, rng.normal(size=(16, 16)).astype(np.float32), weight)
    np.testing.assert_array_equal(edited[weight == 0], image[weight == 0])
    assert (edited != image).any()
    assert 0 <= edited.min() <= edited.max() <= 1


def test_a_lesion_changes_its_place_and_nothing_else(tiny_pipeline: XRealPipeline, phantoms: list[Phantom]) -> None:
    image = chest(phantoms[0])
    output = tiny_pipeline.edit(image, [lesion()], [0, 1], **QUICK)
    assert output.images.shape == (2, 150, 120)
    far = np.ones(image.shape, bool)
    far[60 - 16 : 100 + 16, 20 - 16 : 60 + 16] = False  # the feather: 6 pixels of 64, enlarged to 150
    for edited in output.images:
        np.testing.assert_array_equal(edited[far], image[far])
        assert np.abs(edited - image)[60:100, 20:60].mean() > 1e-4
    assert not np.array_equal(*output.images)


def test_no_strength_is_no_change(tiny_pipeline: XRealPipeline, phantoms: list[Phantom]) -> None:
    image = chest(phantoms[0])
    area = box(70, 40, 100, 90, height=150, width=120)
    output = tiny_pipeline.edit(image, [lesion()], remove=area, strength=0.0, **QUICK)
    np.testing.assert_allclose(output.images[0], image, atol=1e-5)


def test_an_edit_does_not_depend_on_its_batch(tiny_pipeline: XRealPipeline, phantoms: list[Phantom]) -> None:
    image = chest(phantoms[1])
    both = tiny_pipeline.edit(image, [lesion()], [3, 8], **QUICK).images
    alone = tiny_pipeline.edit(image, [lesion()], [8], **QUICK).images
    np.testing.assert_allclose(both[1], alone[0], atol=1e-4)


def test_what_is_protected_stays_even_within_the_lesion(tiny_pipeline: XRealPipeline, phantoms: list[Phantom]) -> None:
    image, protect = chest(phantoms[0]), np.zeros((150, 120), np.float32)
    protect[:, :40] = 1
    output = tiny_pipeline.edit(image, [lesion()], protect=protect, **QUICK)
    np.testing.assert_array_equal(output.images[0][:, :40], image[:, :40])
    assert np.abs(output.images[0] - image)[60:100, 40:60].mean() > 1e-4


def test_removal_changes_its_place_and_nothing_else(tiny_pipeline: XRealPipeline, phantoms: list[Phantom]) -> None:
    image, area = chest(phantoms[0]), box(20, 60, 60, 100, height=150, width=120)
    output = tiny_pipeline.edit(image, remove=area, **QUICK)
    np.testing.assert_array_equal(output.images[0][output.weight == 0], image[output.weight == 0])
    assert (output.weight[area > 0] == 1).all()
    assert np.abs(output.images[0] - image)[area > 0].mean() > 1e-4


@pytest.fixture
def wider(phantoms: list[Phantom], monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Let the untrained segmenter find the first phantom's own organs; returns them with a larger heart."""
    monkeypatch.setattr("xreal.pipeline_edit.segment", lambda *_: phantoms[0].organ_mask[None])
    return edit_organ_mask(phantoms[0].organ_mask, heart_scale=1.2)


def test_organs_move_with_their_pixels(
    tiny_pipeline: XRealPipeline, phantoms: list[Phantom], wider: np.ndarray
) -> None:
    image, before = phantoms[0].image, phantoms[0].organ_mask
    output = tiny_pipeline.edit(image, seeds=[0, 1], organ_mask=wider, **QUICK)
    assert output.organ_masks is not None
    np.testing.assert_array_equal(output.organ_masks, [before, wider])
    edited = output.images[0]
    np.testing.assert_array_equal(edited, output.images[1])  # nothing is drawn, so no seed matters
    grown = (wider == Organ.HEART) & (before != Organ.HEART)
    heart, lung = (image[before == organ].mean() for organ in (Organ.HEART, Organ.LEFT_LUNG))
    assert abs(image[grown].mean() - lung) < abs(image[grown].mean() - heart)
    assert abs(edited[grown].mean() - heart) < abs(edited[grown].mean() - lung)
    assert 0 < (output.weight == 0).mean() < 1
    np.testing.assert_array_equal(edited[output.weight == 0], image[output.weight == 0])
    assert not tiny_pipeline.edit(image, organ_mask=before, **QUICK).weight.any()  # the same organs: nothing to do


def test_organs_stay_where_they_are_protected(
    tiny_pipeline: XRealPipeline, phantoms: list[Phantom], wider: np.ndarray
) -> None:
    image, protect = phantoms[0].image, np.zeros((64, 64), np.float32)
    protect[:, :32] = 1
    edited = tiny_pipeline.edit(image, organ_mask=wider, protect=protect, **QUICK).images[0]
    np.testing.assert_array_equal(edited[:, :32], image[:, :32])
    assert (edited[:, 33:] != image[:, 33:]).any()


def test_findings_are_added_to_moved_organs(
    tiny_pipeline: XRealPipeline, phantoms: list[Phantom], wider: np.ndarray
) -> None:
    image = phantoms[0].image
    asked = Lesion("Pneumonia", box(8, 20, 20, 34, height=64, width=64))  # type: ignore[arg-type]
    moved = tiny_pipeline.edit(image, organ_mask=wider, **QUICK).images[0]
    both = tiny_pipeline.edit(image, [asked], organ_mask=wider, **QUICK).images[0]
    assert np.abs(both - moved)[20:34, 8:20].mean() > 1e-4
    np.testing.assert_array_equal(both[48:], moved[48:])


def test_a_model_without_a_segmenter_cannot_move_organs(
    tiny_pipeline: XRealPipeline, phantoms: list[Phantom], organ_mask: np.ndarray
) -> None:
    parts = {name: part for name, part in tiny_pipeline.components.items() if name != "segmenter"}
    with pytest.raises(ModelError, match="no segmenter"):
        XRealPipeline(**parts).edit(phantoms[0].image, organ_mask=organ_mask)


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({}, InputError, "nothing to edit"),
        ({"remove": np.ones((9, 9))}, MaskError, r"area to remove is \(9, 9\), the image \(64, 64\)"),
        ({"remove": np.zeros((64, 64))}, MaskError, "or is all zero"),
        ({"remove": np.ones((64, 64)), "protect": np.ones((64, 64))}, MaskError, "wholly in what must be kept"),
        ({"remove": np.full((64, 64), 2.0)}, MaskError, r"expected \[0, 1\]"),
        ({"remove": np.ones((64, 64)), "strength": 1.5}, InputError, "strength is 1.5"),
        ({"remove": np.ones((64, 64)), "strength": float("nan")}, InputError, "strength is nan"),
        ({"organ_mask": np.ones((9, 9), np.uint8)}, MaskError, "expected the same size, or 64 x 64"),
    ],
)
def test_what_cannot_be_done_is_refused(
    tiny_pipeline: XRealPipeline, phantoms: list[Phantom], asked: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        tiny_pipeline.edit(phantoms[0].image, **asked)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.full((64, 64), 2.0), r"values 2.0 to 2.0; expected \[0, 1\]"),
        (np.full((64, 64), np.nan), "values nan to nan"),
        (np.ones((3, 64, 64)), r"of shape \(3, 64, 64\); expected \(H, W\) floats"),
    ],
)
def test_what_is_no_xray_is_refused(image: np.ndarray, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        plan_edit(image, 64, remove=np.ones((64, 64)))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_file_keeps_its_size_depth_and_all_other_pixels(
    bits: int, run: Run, tmp_path: Path, tiny_model_folder: Path, phantoms: list[Phantom]
) -> None:
    white, kind = (255, np.uint8) if bits == 8 else (65535, np.uint16)
    stored = np.rint(chest(phantoms[2]) * white).astype(kind)
    Image.fromarray(stored).save(tmp_path / "chest.png")
    asked = ("--lesion", "Pneumonia=box:20,60,60,100", "--remove", "ellipse:90,50,12,12", "--keep", "box:0,0,30,150")
    where = ("--model", tiny_model_folder, "--steps", 3, "-n", 2, "--out", tmp_path / "out")
    assert run("edit", tmp_path / "chest.png", *asked, *where) == 0
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"0000.png", "0000.json", "0001.png", "0001.json", "weight.png", "sheet.png"}
    with Image.open(tmp_path / "out/0001.png") as picture:
        assert picture.info["xreal:synthetic"].startswith("true")
        edited = np.asarray(picture)
    assert edited.dtype == kind
    weight = read_image(tmp_path / "out/weight.png")
    near = np.array(Image.fromarray(weight > 0.5).convert("L")) > 0
    np.testing.assert_array_equal(edited[:, :30], stored[:, :30])
    np.testing.assert_array_equal(edited[130:], stored[130:])
    assert (edited != stored)[near].any()
    record = json.loads((tmp_path / "out/0001.json").read_text())
    assert (record["seed"], record["strength"], record["remove"]) == (1, 0.8, ["ellipse:90,50,12,12"])
    assert record["lesions"] == [{"finding": "Pneumonia", "strength": 1.0}]


def test_the_record_says_how_far_the_organs_came(
    run: Run, tmp_path: Path, tiny_model_folder: Path, phantoms: list[Phantom], wider: np.ndarray
) -> None:
    Image.fromarray(np.rint(phantoms[0].image * 255).astype(np.uint8)).save(tmp_path / "chest.png")
    write_organ_mask(tmp_path / "wider.png", wider)
    where = ("--model", tiny_model_folder, "--out", tmp_path / "out")
    assert run("edit", tmp_path / "chest.png", "--organs", tmp_path / "wider.png", *where) == 0
    record = json.loads((tmp_path / "out/0000.json").read_text())
    assert record["conformance"].keys() == {"left lung", "right lung", "heart"}
    assert record["source"] == str(tmp_path / "chest.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "nothing to edit; give --lesion, --remove or --organs"),
        ("--remove box:1,1,9", "3 numbers at '1,1,9'; expected box:"),
        ("--remove none.png", "none.png does not exist"),
        ("--keep box:0,0,500,9 --remove box:1,1,9,9", "not inside the image, which is 120 x 150"),
        ("--lesion Mass=box:1,1,9,9 --strength 2", "strength is 2.0; expected 0"),
        ("--lesion Normal=box:1,1,9,9", "'No Finding' has no place"),
        ("--lesion Mass=box:1,1,9,9 -n 0", "--number and --batch-size"),
    ],
)
def test_the_command_refuses_and_writes_nothing(
    arguments: str,
    message: str,
    run: Run,
    tmp_path: Path,
    tiny_model_folder: Path,
    phantoms: list[Phantom],
    capsys: pytest.CaptureFixture[str],
) -> None:
    Image.fromarray(np.rint(chest(phantoms[2]) * 255).astype(np.uint8)).save(tmp_path / "chest.png")
    out = tmp_path / "out"
    assert run("edit", tmp_path / "chest.png", *arguments.split(), "--model", tiny_model_folder, "--out", out) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
