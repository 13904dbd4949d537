"""Organ masks: labels come back as written, are never guessed, and what is measured is what was drawn."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from xreal.errors import InputError, MaskError, OutputError
from xreal.masks import organs
from xreal.masks.organs import (
    cardiothoracic_ratio,
    check_organ_mask,
    dice_per_organ,
    implausible,
    organ_fractions,
    read_organ_mask,
    resize_organ_mask,
    write_organ_mask,
)
from xreal.vocabulary import Organ

PAPER = np.array([0, 64, 128, 192, 255], np.uint8)


def chest(size: int = 100) -> np.ndarray:
    """Draw a plain chest in blocks: right lung on the image's left, the heart between and over the left lung."""
    mask = np.zeros((100, 100), np.uint8)
    mask[15:80, 10:42] = Organ.RIGHT_LUNG
    mask[15:80, 58:90] = Organ.LEFT_LUNG
    mask[50:80, 38:76] = Organ.HEART
    mask[25:45, 48:54] = Organ.AORTA
    return resize_organ_mask(mask, size)


labels = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 4)).filter(
    lambda mask: mask.any()
)


@settings(max_examples=25, deadline=None)
@given(labels, st.sampled_from(["a.png", "a.npy"]))
def test_write_then_read_gives_the_same_labels(
    tmp_path_factory: pytest.TempPathFactory, mask: np.ndarray, name: str
) -> None:
    path = tmp_path_factory.getbasetemp() / name
    write_organ_mask(path, mask)
    for levels in ("auto", "index"):
        found = read_organ_mask(path, levels)  # type: ignore[arg-type]
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, mask)


def test_written_png_shows_every_organ_in_its_own_colour(tmp_path: Path) -> None:
    write_organ_mask(tmp_path / "a.png", chest())
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "P"
        colours = {tuple(colour) for colour in np.asarray(picture.convert("RGB")).reshape(-1, 3).tolist()}
    assert len(colours) == 5
    assert (0, 0, 0) in colours
    assert min(max(colour) for colour in colours - {(0, 0, 0)}) > 100  # bright enough to see on black


@pytest.mark.parametrize("levels", ["auto", "paper"])
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.npy"])
def test_grey_levels_of_the_paper_are_read(tmp_path: Path, name: str, levels: str) -> None:
    stored = PAPER[chest()]
    if name.endswith("npy"):
        np.save(tmp_path / name, stored)
    else:
        Image.fromarray(stored).save(tmp_path / name)
    np.testing.assert_array_equal(read_organ_mask(tmp_path / name, levels), chest())  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_grey_index_files_of_any_depth_are_read(tmp_path: Path, dtype: type) -> None:
    Image.fromarray(chest().astype(dtype)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_organ_mask(tmp_path / "a.tif"), chest())


def test_a_mask_of_one_organ_is_not_guessed_from_its_maximum(tmp_path: Path) -> None:
    for value, organ in ((64, Organ.LEFT_LUNG), (128, Organ.RIGHT_LUNG), (2, Organ.RIGHT_LUNG), (4, Organ.AORTA)):
        stored = np.zeros((6, 6), np.uint8)
        stored[2:4] = value
        Image.fromarray(stored).save(tmp_path / "a.png")
        assert set(np.unique(read_organ_mask(tmp_path / "a.png"))) == {0, organ}


def _indexed(indices: np.ndarray, greys: list[int]) -> Image.Image:
    picture = Image.fromarray(indices).convert("L")
    picture.putpalette([grey for grey in greys for _ in range(3)])
    return picture


def test_grey_levels_stored_as_palette_are_read_by_colour_or_refused(tmp_path: Path) -> None:
    # A program that shrinks PNG files may turn grey levels into a palette, in any order.
    order = np.array([3, 9, 5, 7, 6], np.uint8)  # label -> index
    greys = [0] * 10
    for label, index in enumerate(order):
        greys[index] = int(PAPER[label])
    _indexed(order[chest()], greys).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_organ_mask(tmp_path / "a.png"), chest())

    swapped = np.array([0, 2, 1, 3, 4], np.uint8)
    _indexed(swapped[chest()], [0, 128, 64, 192, 255]).save(tmp_path / "b.png")
    with pytest.raises(MaskError, match="two ways"):
        read_organ_mask(tmp_path / "b.png")
    np.testing.assert_array_equal(read_organ_mask(tmp_path / "b.png", "paper"), chest())
    np.testing.assert_array_equal(read_organ_mask(tmp_path / "b.png", "index"), swapped[chest()])


@pytest.mark.parametrize(
    ("values", "levels", "said"),
    [
        ([0, 7], "auto", "value 7; expected 0 to 4"),
        ([0, 1, 64], "auto", "values 0, 1, 64; expected"),
        ([0, 63, 129], "auto", "values 63, 129; expected"),
        ([0, 64], "index", "value 64; expected 0 to 4"),
        ([0, 1], "paper", "value 1; expected 0, 64"),
        (list(range(0, 250, 3)), "auto", "values 6, 9.*JPEG"),
        ([0], "auto", "all background"),
        ([0], "paper", "all background"),
    ],
)
@pytest.mark.parametrize("name", ["a.png", "a.npy"])
def test_other_values_are_named(tmp_path: Path, name: str, values: list[int], levels: str, said: str) -> None:
    stored = np.resize(np.array(values, np.uint8), (10, 10))
    np.save(tmp_path / name, stored) if name.endswith("npy") else Image.fromarray(stored).save(tmp_path / name)
    with pytest.raises(MaskError, match=said):
        read_organ_mask(tmp_path / name, levels)  # type: ignore[arg-type]


def test_jpeg_of_a_mask_is_refused_with_the_reason(tmp_path: Path) -> None:
    Image.fromarray(PAPER[chest()]).save(tmp_path / "a.jpg")
    with pytest.raises(MaskError, match="JPEG"):
        read_organ_mask(tmp_path / "a.jpg")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "1"])
def test_colours_and_one_bit_are_refused(tmp_path: Path, mode: str) -> None:
    Image.fromarray(PAPER[chest()]).convert(mode).save(tmp_path / "a.png")
    with pytest.raises(MaskError, match=f"mode '{mode}'"):
        read_organ_mask(tmp_path / "a.png")


def test_unreadable_files_are_mask_errors(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "a.npy").write_bytes(b"no array")
    np.save(tmp_path / "float.npy", np.ones((4, 4)))
    np.save(tmp_path / "object.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    for name in ("a.png", "a.npy", "none.png", "none.npy", "float.npy", "object.npy"):
        with pytest.raises(MaskError, match=name):
            read_organ_mask(tmp_path / name)
    with pytest.raises(MaskError, match="levels"):
        read_organ_mask(tmp_path / "a.png", "grey")  # type: ignore[arg-type]


def test_masks_are_not_written_elsewhere(tmp_path: Path) -> None:
    for path in (tmp_path / "a.jpg", tmp_path / "none" / "a.png"):
        with pytest.raises(OutputError):
            write_organ_mask(path, chest())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.int8])
def test_check_returns_a_uint8_copy(dtype: type) -> None:
    mask = chest().astype(dtype)
    checked = check_organ_mask(mask, 100)
    assert checked.dtype == np.uint8
    assert not np.shares_memory(checked, mask)
    np.testing.assert_array_equal(checked, mask)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.full((4, 4), 7), 'organ_mask holds value 7; expected 0 to 4 \\(Organ\\).*levels="paper"'),
        (np.full((4, 4), 257), "257"),  # would wrap to 1 in uint8
        (np.full((4, 4), -1), "-1"),
        (np.zeros((4, 4), int), "all background"),
        (np.ones((4, 4)), "float64"),
        (np.ones((4, 4), bool), "bool"),
        (np.ones((1, 4, 4), int), "shape"),
        (np.ones((0, 4), int), "shape"),
        (np.ones((5, 5), int), r"5 x 5.*expected 4 x 4.*resize_organ_mask\(mask, 4\)"),
    ],
)
def test_check_refuses(mask: np.ndarray, said: str) -> None:
    with pytest.raises(MaskError, match=said):
        check_organ_mask(mask, 4)


@settings(max_examples=20, deadline=None)
@given(labels, st.integers(1, 3))
def test_enlarging_by_a_whole_factor_repeats_pixels(mask: np.ndarray, factor: int) -> None:
    side = max(mask.shape)
    large = resize_organ_mask(mask, side * factor)
    np.testing.assert_array_equal(large[::factor, ::factor], resize_organ_mask(mask, side))
    assert (large > 0).sum() == (mask > 0).sum() * factor**2


def test_resize_errors() -> None:
    speck = np.zeros((50, 50), np.uint8)
    speck[0, 0] = Organ.HEART
    with pytest.raises(MaskError, match="all background"):
        resize_organ_mask(speck, 2)
    with pytest.raises(InputError, match="size"):
        resize_organ_mask(speck, 0)


@settings(max_examples=20, deadline=None)
@given(labels)
def test_fractions_and_dice_laws(mask: np.ndarray) -> None:
    fractions = organ_fractions(mask)
    assert list(fractions) == ["left lung", "right lung", "heart", "aorta"]
    assert sum(fractions.values()) == pytest.approx((mask > 0).mean())
    present = {title for title, fraction in fractions.items() if fraction}
    assert dice_per_organ(mask, mask) == dict.fromkeys(present, 1.0)
    assert dice_per_organ(mask, np.zeros_like(mask)) == dict.fromkeys(present, 0.0)


def test_dice_of_half_an_organ() -> None:
    requested, found = np.zeros((4, 4), int), np.zeros((4, 4), int)
    requested[:, :2], found[:, 1:3] = Organ.HEART, Organ.HEART
    found[:, 3] = Organ.AORTA  # not asked for, not scored
    assert dice_per_organ(requested, found) == {"heart": 0.5}
    with pytest.raises(MaskError, match="same size"):
        dice_per_organ(requested, found[:3])


def test_cardiothoracic_ratio_is_that_of_the_drawing() -> None:
    assert cardiothoracic_ratio(chest()) == pytest.approx(38 / 80)
    assert cardiothoracic_ratio(chest()[:, ::-1]) == pytest.approx(38 / 80)
    for organ in (Organ.HEART, Organ.LEFT_LUNG, Organ.RIGHT_LUNG):
        assert cardiothoracic_ratio(np.where(chest() == organ, 0, chest())) is None


def _without(organ: Organ) -> np.ndarray:
    return np.where(chest() == organ, 0, chest())


def _heart_at(rows: slice, columns: slice) -> np.ndarray:
    mask = _without(Organ.HEART)
    mask[rows, columns] = Organ.HEART
    return mask


def _split_lung() -> np.ndarray:
    mask = chest()
    mask[40:48, 5:45] = 0
    return mask


def _thin_left_lung() -> np.ndarray:
    mask = chest()
    mask[:, 62:][mask[:, 62:] == Organ.LEFT_LUNG] = 0
    mask[15:80, 85:90] = Organ.LEFT_LUNG
    return mask


def _lung_with_a_tail(length: int, across: int = 0) -> np.ndarray:
    mask = chest(300)
    mask[240 : 240 + length, 260:270] = Organ.LEFT_LUNG
    mask[230 + length : 240 + length, 270 - across : 270] = Organ.LEFT_LUNG
    return mask


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (_lung_with_a_tail(55, 200), "left lung has a thin tail"),
        (_without(Organ.HEART), "heart is missing"),
        (_without(Organ.LEFT_LUNG), "left lung is missing"),
        (_without(Organ.RIGHT_LUNG), "right lung is missing"),
        (chest()[:, ::-1], "mirrored or swapped"),
        (_heart_at(slice(50, 54), slice(40, 70)), "heart's share"),
        (_heart_at(slice(15, 40), slice(42, 70)), "down"),
        (_heart_at(slice(50, 80), slice(5, 35)), "across"),
        (_split_lung(), "right lung is in pieces"),
        (_thin_left_lung(), "right lung's area"),
        (np.pad(chest(), 100), "left lung's share"),
    ],
)
def test_implausible_chests_have_a_reason(mask: np.ndarray, said: str) -> None:
    assert any(said in reason for reason in implausible(mask))


def test_a_plain_chest_is_plausible_with_or_without_aorta_and_specks() -> None:
    assert implausible(chest()) == []
    assert implausible(chest(224)) == []
    assert implausible(_lung_with_a_tail(12)) == []  # a sharp angle beside the diaphragm
    assert implausible(_without(Organ.AORTA)) == []
    speck = chest()
    speck[5, 5] = Organ.LEFT_LUNG
    assert implausible(speck) == []


def test_palette_can_be_read_one_way_only() -> None:
    greys = {(level, level, level) for level in PAPER.tolist()}
    assert not greys & set(organs._PALETTE[1:])
