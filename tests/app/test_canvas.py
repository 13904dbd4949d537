"""What travels between page and server: it comes back as it was, and nothing damaged gets in."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xreal.app.canvas import MAX_LAYERS, SIDE, Canvas, Layer, decode_runs, encode_runs, read_canvas, show_canvas
from xreal.errors import FindingError, InputError
from xreal.vocabulary import Finding

EMPTY = [0, SIDE**2]
FULL = [1, SIDE**2]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 3000)), min_size=1, max_size=20))
def test_runs_come_back(pieces: list[tuple[int, int]]) -> None:
    flat = np.concatenate([np.full(length, label, np.uint8) for label, length in pieces])
    labels = np.resize(flat, SIDE**2).reshape(SIDE, SIDE)
    np.testing.assert_array_equal(decode_runs(encode_runs(labels), 4), labels)


def test_a_drawing_comes_back() -> None:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[10:20, 30:40] = 1
    canvas = Canvas(mask * 3, (Layer(Finding.EDEMA, mask, 0.5), Layer(Finding.MASS, mask * 0, 1.0)), mask * 4)
    back = read_canvas(show_canvas(canvas))
    np.testing.assert_array_equal(back.organs, canvas.organs)
    np.testing.assert_array_equal(back.paint, canvas.paint)
    assert [layer.finding for layer in back.layers] == [Finding.EDEMA, Finding.MASS]
    (lesion,) = back.lesions()  # an empty layer is no lesion
    assert (lesion.finding, lesion.strength, lesion.mask.sum()) == (Finding.EDEMA, 0.5, 100)


def test_a_removal_is_no_lesion() -> None:
    area = np.zeros((SIDE, SIDE), np.uint8)
    area[10:20, 30:40] = 1
    canvas = Canvas(area * 0, (Layer(Finding.NO_FINDING, area, 1.0), Layer(Finding.MASS, area, 1.0)))
    back = read_canvas(show_canvas(canvas))
    assert [lesion.finding for lesion in back.lesions()] == [Finding.MASS]
    np.testing.assert_array_equal(back.removal(), area)
    assert Canvas(area, (Layer(Finding.NO_FINDING, area * 0, 1.0),)).removal() is None


@pytest.mark.parametrize(
    "runs",
    [None, "0", [], [0], [0, SIDE**2 - 1], [0, SIDE**2 + 1], [5, SIDE**2], [-1, SIDE**2], [0.0, SIDE**2],
     [True, SIDE**2], [0, -1, 0, SIDE**2 + 1], [0, 0, 0, SIDE**2], [[0], SIDE**2]],
)  # fmt: skip
def test_damaged_runs_are_refused(runs: Any) -> None:
    with pytest.raises(InputError, match="the drawing is damaged; expected 256 × 256 labels from 0 to 4"):
        decode_runs(runs, 4)


def layer(finding: Any = "Edema", strength: Any = 1, runs: Any = FULL) -> dict[str, Any]:
    return {"finding": finding, "strength": strength, "runs": runs}


@pytest.mark.parametrize(
    ("payload", "error", "message"),
    [
        (None, InputError, "sent no drawing"),
        ({"organs": EMPTY}, InputError, "sent no drawing"),
        ({"organs": EMPTY, "paint": EMPTY, "layers": [None]}, InputError, "no strength"),
        ({"organs": EMPTY, "paint": EMPTY, "layers": [layer(strength="1")]}, InputError, "no strength"),
        ({"organs": EMPTY, "paint": EMPTY, "layers": [layer(strength=True)]}, InputError, "no strength"),
        ({"organs": EMPTY, "paint": EMPTY, "layers": [layer("Edemma")]}, FindingError, "Did you mean 'Edema'"),
        ({"organs": EMPTY, "paint": EMPTY, "layers": [layer(), layer()]}, InputError, "two layers"),
        ({"organs": EMPTY, "paint": EMPTY, "layers": [layer()] * (MAX_LAYERS + 1)}, InputError, "at most 8"),
        ({"organs": EMPTY, "paint": EMPTY, "layers": [layer(runs=[2, SIDE**2])]}, InputError, "damaged"),
        ({"organs": None, "paint": EMPTY, "layers": []}, InputError, "damaged"),
        ({"organs": EMPTY, "layers": []}, InputError, "damaged"),
    ],
)
def test_bad_drawings_are_refused(payload: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_canvas(payload)


@pytest.mark.parametrize("strength", [0, -1, 5, float("nan")])
def test_a_strength_out_of_range_is_refused(strength: float) -> None:
    with pytest.raises(InputError, match="strength of Edema"):
        read_canvas({"organs": EMPTY, "paint": EMPTY, "layers": [layer(strength=strength)]}).lesions()
