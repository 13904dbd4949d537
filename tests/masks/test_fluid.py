"""Laws of where free fluid lies."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xreal.masks.fluid import above_fluid


@given(
    seed=st.integers(0, 2**40),
    height=st.integers(1, 60),
    width=st.integers(1, 30),
    top=st.integers(0, 4),
    right=st.booleans(),
)
def test_fluid_lies_at_the_base_and_rises_towards_the_wall(
    seed: int, height: int, width: int, top: int, right: bool
) -> None:
    lung = np.zeros((70, 40), bool)
    lung[top : top + height, 5 : 5 + width] = True
    above = above_fluid(lung, right, np.random.default_rng(seed))
    fluid = lung & (above < 0)
    assert fluid[top + height - 1, 5 : 5 + width].all()
    heights = fluid.sum(0)[5 : 5 + width]
    assert (np.diff(heights if right else heights[::-1]) <= 0).all()
    assert heights.max() <= max(2, np.ceil(0.62 * height))


def test_a_level_is_drawn_from_the_generator() -> None:
    lung = np.ones((64, 32), bool)
    one, same, other = (above_fluid(lung, True, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1
    assert np.diff(one[:, 0]) == pytest.approx(-1)  # in pixels
