"""Lesions: text, shapes and painted pictures give the mask that they say."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from xreal.errors import FindingError, InputError, MaskError
from xreal.masks.areas import box
from xreal.masks.lesions import Lesion, outside_lungs_fraction, parse_lesion, warn_if_outside_lungs
from xreal.vocabulary import Finding, Organ

HEIGHT, WIDTH = 80, 100


@pytest.mark.parametrize("finding", ["mass", Finding.MASS])
def test_lesion_normalises_its_fields(finding: str | Finding) -> None:
    mask = np.eye(4, dtype=bool)
    lesion = Lesion(finding, mask, 2)  # type: ignore[arg-type]
    assert lesion.finding is Finding.MASS
    assert type(lesion.strength) is float
    assert lesion.mask.dtype == np.float32
    assert lesion.mask.sum() == 4
    mask[:] = False
    assert lesion.mask.sum() == 4  # a copy


@pytest.mark.parametrize(
    ("finding", "mask", "strength", "error", "said"),
    [
        ("Massive", np.ones((4, 4)), 1, FindingError, "unknown finding"),
        ("No Finding", np.ones((4, 4)), 1, FindingError, "No Finding"),
        ("Mass", np.zeros((4, 4)), 1, MaskError, "all zero"),
        ("Mass", np.ones((1, 4, 4)), 1, MaskError, "shape"),
        ("Mass", np.ones((0, 4)), 1, MaskError, "shape"),
        ("Mass", np.full((4, 4), 255), 1, MaskError, "Divide"),
        ("Mass", np.full((4, 4), -0.1), 1, MaskError, "expected \\[0, 1\\]"),
        ("Mass", np.full((4, 4), np.nan), 1, MaskError, "NaN"),
        ("Mass", np.full((4, 4), "a"), 1, MaskError, "expected"),
        ("Mass", np.ones((4, 4)), 0, MaskError, "strength"),
        ("Mass", np.ones((4, 4)), -1, MaskError, "strength"),
        ("Mass", np.ones((4, 4)), 4.01, MaskError, "strength"),
        ("Mass", np.ones((4, 4)), float("nan"), MaskError, "strength"),
    ],
)
def test_lesion_refuses(finding: str, mask: np.ndarray, strength: float, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        Lesion(finding, mask, strength)  # type: ignore[arg-type]


def test_box_is_exclusive_at_its_end() -> None:
    lesion = parse_lesion("Pneumonia=box:40,12,90,17", HEIGHT, WIDTH)
    expected = np.zeros((HEIGHT, WIDTH), np.float32)
    expected[12:17, 40:90] = 1
    np.testing.assert_array_equal(lesion.mask, expected)
    assert lesion.finding is Finding.PNEUMONIA
    assert lesion.strength == 1
    whole = parse_lesion(f"Edema=box:0,0,{WIDTH},{HEIGHT}", HEIGHT, WIDTH)
    assert whole.mask.min() == 1


@pytest.mark.parametrize(("suffix", "strength"), [("", 1.0), ("@0.5", 0.5), ("@4", 4.0), ("@1e-1", 0.1)])
@pytest.mark.parametrize("place", ["box:1,2,9,8", "ellipse:20,20,5,5", "polygon:0,0,9,0,0,9", "paint"])
def test_strength_suffix(tmp_path: Path, place: str, suffix: str, strength: float) -> None:
    if place == "paint":
        place = str(tmp_path / "me@home.png")
        Image.new("L", (WIDTH, HEIGHT), 255).save(place)
    assert parse_lesion(f"Mass={place}{suffix}", HEIGHT, WIDTH).strength == strength


@pytest.mark.parametrize("text", ["pleural-effusion=box:1,2,9,8", " effusion = box:1,2,9,8 "])
def test_finding_names_are_parsed_like_everywhere(text: str) -> None:
    assert parse_lesion(text, HEIGHT, WIDTH).finding is Finding.PLEURAL_EFFUSION


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not understood; expected Finding=PLACE"),
        ("Mass", "not understood"),
        ("Mass=", "not understood"),
        ("=box:1,2,3,4", "not understood"),
        ("Mass=box:1,2,3", "has 3 numbers"),
        ("Mass=box:1,2,3,4,5", "has 5 numbers"),
        ("Mass=box:", "not a list of numbers"),
        ("Mass=box:a,2,3,4", "not a list of numbers"),
        ("Mass=box:1,2,9,9@", "not a list of numbers"),
        ("Mass=box:1,2,9,9@strong", "not a list of numbers"),
        ("Mass=box:1,2,9,9@5", "strength"),
        ("Mass=box:1,2,9,9@nan", "strength"),
        ("Mass=box:1,2,nan,9", "finite"),
        ("Mass=box:1,2,inf,9", "finite"),
        ("Mass=box:9,2,1,9", "no area"),
        ("Mass=box:9,2,9,9", "no area"),
        ("Mass=box:9.6,2,10.4,9", "no pixel's centre"),
        ("Mass=box:200,200,210,210", "100 x 80"),
        ("Mass=box:90,70,101,80", "100 x 80"),
        ("Mass=box:-1,0,10,10", "100 x 80"),
        ("Mass=box:0,0,80,100", "100 x 80"),
        ("Mass=ellipse:20,20,5", "has 3 numbers"),
        ("Mass=ellipse:20,20,0,5", "no area"),
        ("Mass=ellipse:20,20,-5,5", "no area"),
        ("Mass=ellipse:20,20,25,5", "100 x 80"),
        ("Mass=polygon:1,1,9,9", "2 corners"),
        ("Mass=polygon:1,1,9,9,5", "has 5 numbers"),
        ("Mass=polygon:0.5,0.5,8.5,8.5,4.5,4.5", "no area"),
        ("Mass=polygon:1,1,9,1,5,1", "no area"),
        ("Mass=polygon:1,1,9,1,5,81", "100 x 80"),
        ("Mass=none.png", "none.png does not exist"),
        ("Mass=circle:1,2,3", "does not exist; expected Finding=PLACE"),
    ],
)
def test_bad_text_is_explained(text: str, said: str) -> None:
    with pytest.raises(MaskError, match=said):
        parse_lesion(text, HEIGHT, WIDTH)


@pytest.mark.parametrize("name", ["Massive", "No Finding"])
def test_bad_findings_are_finding_errors(name: str) -> None:
    with pytest.raises(FindingError):
        parse_lesion(f"{name}=box:1,2,9,8", HEIGHT, WIDTH)


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("boxelipsygn:,=@.-0123456789 "), max_size=30))
def test_any_text_gives_a_lesion_or_an_input_error(text: str) -> None:
    try:
        lesion = parse_lesion(f"Mass={text}", HEIGHT, WIDTH)
    except InputError:
        return
    assert lesion.mask.shape == (HEIGHT, WIDTH)
    assert lesion.mask.any()


@pytest.mark.parametrize(
    ("mode", "colour", "value"),
    [
        ("L", 255, 1),
        ("L", 51, 0.2),
        ("1", 1, 1),
        ("RGB", (255, 0, 0), 1),
        ("RGB", (0, 0, 102), 0.4),
        ("RGBA", (255, 255, 255, 51), 0.2),
        ("I;16", 65535, 1),
    ],
)
def test_painted_pixels_are_the_lesion(tmp_path: Path, mode: str, colour: int | tuple[int, ...], value: float) -> None:
    picture = Image.new(mode, (WIDTH, HEIGHT))
    picture.paste(colour, (10, 20, 30, 25))
    picture.save(tmp_path / "a.png")
    mask = parse_lesion(f"Mass={tmp_path / 'a.png'}", HEIGHT, WIDTH).mask
    expected = np.zeros((HEIGHT, WIDTH))
    expected[20:25, 10:30] = value
    np.testing.assert_allclose(mask, expected, atol=1e-6)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_labels_0_and_1_are_a_whole_lesion(tmp_path: Path, kind: type) -> None:
    labels = np.zeros((HEIGHT, WIDTH), kind)
    labels[20:25, 10:30] = 1
    Image.fromarray(labels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(parse_lesion(f"Mass={tmp_path / 'a.png'}", HEIGHT, WIDTH).mask, labels)


def test_a_mask_that_would_draw_next_to_nothing_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((HEIGHT, WIDTH), 255, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(MaskError, match=r"at most 0.4% of white, which draws next to nothing"):
        parse_lesion(f"Mass={tmp_path / 'a.png'}", HEIGHT, WIDTH)


def test_hidden_white_under_transparency_is_not_painted(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (WIDTH, HEIGHT), (255, 255, 255, 0))
    picture.putpixel((3, 4), (255, 255, 255, 255))
    picture.save(tmp_path / "a.png")
    mask = parse_lesion(f"Mass={tmp_path / 'a.png'}", HEIGHT, WIDTH).mask
    assert mask.sum() == 1
    assert mask[4, 3] == 1


def test_bad_paint_is_refused(tmp_path: Path) -> None:
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "black.png")
    Image.new("L", (HEIGHT, WIDTH), 255).save(tmp_path / "turned.png")
    Image.new("CMYK", (WIDTH, HEIGHT), (9, 9, 9, 9)).save(tmp_path / "ink.jpg")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    cases = {
        "black.png": "all zero",
        "turned.png": "80 x 100.*expected 100 x 80",
        "ink.jpg": "CMYK",
        "text.png": "cannot be read",
        "folder.png": "is a folder",
    }
    for name, said in cases.items():
        with pytest.raises(MaskError, match=said):
            parse_lesion(f"Mass={tmp_path / name}", HEIGHT, WIDTH)


def _organs() -> np.ndarray:
    organs = np.zeros((HEIGHT, WIDTH), np.uint8)
    organs[:, :30], organs[:, 30:50], organs[:, 50:60] = Organ.RIGHT_LUNG, Organ.HEART, Organ.AORTA
    return organs


@pytest.mark.parametrize(("x0", "x1", "fraction"), [(0, 50, 0.0), (40, 60, 0.5), (50, 100, 1.0), (0, 100, 0.5)])
def test_outside_fraction(x0: int, x1: int, fraction: float) -> None:
    lesion = box(x0, 10, x1, 20, height=HEIGHT, width=WIDTH)
    assert outside_lungs_fraction(lesion, _organs()) == pytest.approx(fraction)


def test_outside_fraction_is_weighted() -> None:
    lesion = np.zeros((HEIGHT, WIDTH), np.float32)
    lesion[0, 0], lesion[0, 90] = 0.75, 0.25
    assert outside_lungs_fraction(lesion, _organs()) == pytest.approx(0.25)
    with pytest.raises(MaskError, match="same"):
        outside_lungs_fraction(lesion[1:], _organs())
    with pytest.raises(MaskError, match="all zero"):
        outside_lungs_fraction(lesion * 0, _organs())


def test_warning_outside_lungs() -> None:
    with pytest.warns(UserWarning, match="100% of the lesion 'Pneumonia'"):
        warn_if_outside_lungs(parse_lesion("Pneumonia=box:60,0,99,9", HEIGHT, WIDTH), _organs())


@pytest.mark.parametrize(
    ("text", "has_lungs"),
    [
        ("Pneumonia=box:0,0,50,9", True),
        ("Pneumonia=box:40,0,60,9", True),  # exactly half
        ("Support Devices=box:60,0,99,9", True),
        ("Cardiomegaly=box:60,0,99,9", True),
        ("Fracture=box:60,0,99,9", True),
        ("Hernia=box:60,0,99,9", True),
        ("Enlarged Cardiomediastinum=box:60,0,99,9", True),
        ("Pneumonia=box:60,0,99,9", False),
    ],
)
def test_no_warning(text: str, has_lungs: bool) -> None:
    organs = _organs() if has_lungs else np.where(_organs() == Organ.RIGHT_LUNG, 0, _organs())
    warn_if_outside_lungs(parse_lesion(text, HEIGHT, WIDTH), organs)  # warnings are errors in this suite
