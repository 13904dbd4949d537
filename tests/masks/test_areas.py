"""Areas: shapes give the mask that they say; soft edges end where they say; resizing keeps what there is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xreal.errors import InputError, MaskError
from xreal.masks.areas import box, extent, fade, feather, polygon, resize_lesion_mask
from xreal.masks.lesions import parse_lesion

HEIGHT, WIDTH = 80, 100
soft_masks = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.sampled_from([0, 0, 0, 0.25, 1])
)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_polygon_of_a_boxs_corners_is_the_box(data: st.DataObject) -> None:
    x0, y0 = data.draw(st.integers(0, WIDTH - 1)), data.draw(st.integers(0, HEIGHT - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, WIDTH)), data.draw(st.integers(y0 + 1, HEIGHT))
    expected = box(x0, y0, x1, y1, height=HEIGHT, width=WIDTH)
    found = parse_lesion(f"Mass=polygon:{x0},{y0},{x1},{y0},{x1},{y1},{x0},{y1}", HEIGHT, WIDTH)
    np.testing.assert_array_equal(found.mask, expected)
    assert expected.sum() == (x1 - x0) * (y1 - y0)
    assert extent(expected) == (x0, y0, x1, y1)


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
