"""Lesions: text, shapes and painted pictures give the mask that they say; soft edges end where they say."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from xreal.errors import FindingError, InputError, MaskError
from xreal.masks.lesions import (
    Lesion,
    box,
    fade,
    feather,
    outside_lungs_fraction,
    parse_lesion,
    polygon,
    resize_lesion_mask,
    warn_if_outside_lungs,
)
from xreal.vocabulary import Finding, Organ

HEIGHT, WIDTH = 80, 100
soft_masks = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.sampled_from([0, 0, 0, 0.25, 1])
)


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


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_polygon_of_a_boxs_corners_is_the_box(data: st.DataObject) -> None:
    x0, y0 = data.draw(st.integers(0, WIDTH - 1)), data.draw(st.integers(0, HEIGHT - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, WIDTH)), data.draw(st.integers(y0 + 1, HEIGHT))
    expected = box(x0, y0, x1, y1, height=HEIGHT, width=WIDTH)
    found = parse_lesion(f"Mass=polygon:{x0},{y0},{x1},{y0},{x1},{y1},{x0},{y1}", HEIGHT, WIDTH)
    np.testing.assert_array_equal(found.mask, expected)
    assert expected.sum() == (x1 - x0) * (y1 - y0)


def test_ellipse_has_its_area_extent_and_symmetry() -> None:
    mask = parse_lesion("Edema=ellipse:50,40,30,20", HEIGHT, WIDTH).mask
    assert mask.sum() == pytest.approx(np.pi * 30 * 20, rel=0.02)
    rows, columns = np.nonzero(mask)
    assert (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1) == (20, 80, 20, 60)
    np.testing.assert_array_equal(mask, mask[::-1])
    np.testing.assert_array_equal(mask, mask[:, ::-1])


def test_polygon_triangle_has_half_the_box() -> None:
    mask = polygon([(10, 10), (70, 10), (10, 70)], height=HEIGHT, width=WIDTH)
    assert mask.sum() == pytest.approx(60 * 60 / 2, rel=0.03)
    assert mask[12, 12] == 1
    assert mask[65, 65] == 0


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


@settings(max_examples=40, deadline=None)
@given(soft_masks, st.floats(0, 6))
def test_feather_keeps_the_inside_and_ends_at_its_radius(mask: np.ndarray, radius: float) -> None:
    soft = feather(mask, radius)
    assert soft.dtype == np.float32
    assert soft.shape == mask.shape
    assert soft.min() >= 0
    assert soft.max() == mask.max()
    np.testing.assert_array_equal(soft[mask > 0], mask[mask > 0])
    rows, columns = np.nonzero(mask)
    for row, column in np.ndindex(mask.shape):
        nearest = min(np.hypot(rows - row, columns - column), default=np.inf)
        assert (soft[row, column] > 0) == (nearest <= radius)


def test_feather_falls_from_the_edge() -> None:
    mask = box(40, 0, 100, 80, height=HEIGHT, width=WIDTH)
    soft = feather(mask, 8)
    ramp = soft[40, 32:41]
    assert (np.diff(ramp) > 0).all()
    assert 0 < ramp[0] < 0.05
    assert ramp[-2] > 0.95
    assert (soft[:, :32] == 0).all()
    np.testing.assert_array_equal(feather(mask, 0), mask)


@pytest.mark.parametrize("radius", [-1, float("nan"), float("inf")])
def test_feather_refuses_radius(radius: float) -> None:
    with pytest.raises(MaskError, match="radius"):
        feather(np.ones((4, 4)), radius)


@settings(max_examples=40, deadline=None)
@given(soft_masks, st.floats(0.5, 6))
def test_fade_falls_towards_the_border_alone(mask: np.ndarray, radius: float) -> None:
    soft = fade(mask, radius)
    assert soft.dtype == np.float32
    assert (soft <= mask).all()
    assert ((soft > 0) == (mask > 0)).all()
    rows, columns = np.nonzero(mask == 0)
    for row, column in np.argwhere(mask > 0):
        nearest = min(np.hypot(rows - row, columns - column), default=np.inf)
        if nearest >= radius:
            assert soft[row, column] == mask[row, column]


def test_fade_ends_in_the_middle_of_a_narrow_lesion_and_spares_the_edge_of_the_image() -> None:
    mask = box(40, 0, 100, 80, height=HEIGHT, width=WIDTH)
    soft = fade(mask, 8)
    assert (np.diff(soft[40, 39:48]) > 0).all()
    assert (soft[0, 48:92] == 1).all()
    np.testing.assert_array_equal(soft[20:50, 48:92], 1)
    narrow = fade(box(40, 10, 46, 60, height=HEIGHT, width=WIDTH), 8)
    assert narrow.max() == 1
    assert 0 < narrow[30, 40] < 0.5
    np.testing.assert_array_equal(fade(np.ones((4, 5)), 3), 1)
    np.testing.assert_array_equal(fade(mask, 0), mask)


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


@settings(max_examples=30, deadline=None)
@given(soft_masks, st.integers(1, 4))
def test_resize_keeps_mass(mask: np.ndarray, factor: int) -> None:
    side = max(mask.shape)
    large = resize_lesion_mask(mask, side * factor)
    assert large.shape == (side * factor,) * 2
    assert large.dtype == np.float32
    assert large.sum() == pytest.approx(mask.sum() * factor**2, rel=1e-5)
    np.testing.assert_allclose(resize_lesion_mask(large, side), resize_lesion_mask(mask, side), atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(soft_masks, st.integers(1, 20))
def test_resize_stays_in_range_and_loses_no_lesion(mask: np.ndarray, size: int) -> None:
    resized = resize_lesion_mask(mask, size)
    assert resized.min() >= 0
    assert resized.max() <= mask.max() + 1e-6
    assert resized.any() == mask.any()


def test_resize_keeps_a_line_on_the_edge_of_two_new_pixels() -> None:
    line = np.zeros((13, 13), np.float32)
    line[:, 6] = 1  # its centre is on the edge between the third and the fourth of six columns
    np.testing.assert_allclose(resize_lesion_mask(line, 6)[0], [0, 0, 3 / 13, 3 / 13, 0, 0], atol=1e-6)


def test_resize_refuses() -> None:
    with pytest.raises(InputError, match="size"):
        resize_lesion_mask(np.ones((4, 4)), 0)
    with pytest.raises(MaskError):
        resize_lesion_mask(np.full((4, 4), 2.0), 4)
