"""Contact sheets: every picture at its place, and colours that mean what they say."""

from pathlib import Path

import numpy as np
from PIL import Image

from xreal.sheets import colour_labels, contact_sheet, overlay, signed_difference, write_sheet

GREY = np.linspace(0, 1, 20 * 30, dtype=np.float32).reshape(20, 30)
COLOUR = np.random.default_rng(0).random((20, 30, 3)).astype(np.float32)


def test_pictures_lie_in_rows_under_their_titles() -> None:
    sheet = contact_sheet([[GREY, COLOUR], [COLOUR]], ["one", "two"])
    assert (sheet.shape, sheet.dtype) == ((16 + 2 * 24 + 4, 2 * 34 + 4, 3), np.uint8)
    grey = np.rint(GREY * 255).astype(np.uint8)
    np.testing.assert_array_equal(sheet[20:40, 4:34], np.repeat(grey[..., None], 3, 2))
    for top, left in ((20, 38), (44, 4)):
        np.testing.assert_array_equal(sheet[top : top + 20, left : left + 30], np.rint(COLOUR * 255))
    assert sheet[3:16, 4:34].max() > 200  # a title
    assert (sheet[44:64, 38:68] == 24).all()  # nothing
    assert contact_sheet([[GREY]]).shape == (28, 38, 3)


def test_overlay_tints_where_the_mask_is() -> None:
    mask = np.zeros((20, 30), np.float32)
    mask[5:10, 5:10] = 1
    tinted = overlay(GREY, mask)
    np.testing.assert_allclose(tinted[mask == 0], np.repeat(GREY[mask == 0][:, None], 3, 1))
    assert (tinted[mask == 1][:, 0] > tinted[mask == 1][:, 2]).all()


def test_differences_are_red_brighter_blue_darker_grey_equal() -> None:
    before = np.full((1, 3), 0.5, np.float32)
    ((equal, brighter, darker),) = signed_difference(np.array([[0.5, 0.7, 0.1]], np.float32), before)
    np.testing.assert_allclose(equal, 0.5)
    np.testing.assert_allclose(brighter, [0.7, 0.38, 0.3], atol=1e-6)
    assert darker[2] > 0.85 > 0.15 > darker[0]


def test_organs_have_a_colour_each() -> None:
    colours = colour_labels(np.arange(5, dtype=np.uint8)[None])
    assert len(np.unique(colours[0], axis=0)) == 5
    assert (colours[0, 0] == 0).all()


def test_sheet_is_written_as_it_is(tmp_path: Path) -> None:
    write_sheet(tmp_path / "sheet.png", [[GREY]], ["grey"])
    with Image.open(tmp_path / "sheet.png") as opened:
        np.testing.assert_array_equal(np.asarray(opened), contact_sheet([[GREY]], ["grey"]))
