"""Sampled and edited anatomies: laws of every mask, what was asked for is there, and nothing else has changed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from xreal.errors import InputError, MaskError
from xreal.masks.organs import cardiothoracic_ratio, dice_per_organ, implausible
from xreal.masks.shape_checks import mask_measures
from xreal.masks.shape_fitting import fit_shape_model
from xreal.masks.shape_model import load_shape_model
from xreal.masks.shapes import edit_organ_mask, move_along_mode, plausible_ranges, sample_organ_mask
from xreal.vocabulary import Organ

ORGANS = (Organ.LEFT_LUNG, Organ.RIGHT_LUNG, Organ.HEART)
MODEL = load_shape_model()


def check_laws(mask: np.ndarray, size: int = 256) -> None:
    assert mask.shape == (size, size)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, *ORGANS}
    for organ in ORGANS:
        assert ndimage.label(mask == organ, structure=np.ones((3, 3)))[1] == 1, organ
    right, left = (np.nonzero(mask == lung)[1] for lung in (Organ.RIGHT_LUNG, Organ.LEFT_LUNG))
    assert right.mean() < left.mean()
    assert not (ndimage.binary_dilation(mask == Organ.RIGHT_LUNG) & (mask == Organ.LEFT_LUNG)).any()
    assert not mask[[0, -1]].any()
    assert not mask[:, [0, -1]].any()
    assert implausible(mask) == []


@pytest.fixture(scope="module")
def chest() -> np.ndarray:
    """Return a chest with room around it, and with an irregular border that no mode of the model has."""
    mask = sample_organ_mask(5, tilt=0, ctr=0.47, lung_scale=0.95, heart_scale=0.95)
    rows, columns = np.nonzero(mask == Organ.RIGHT_LUNG)
    row = int(np.median(rows))
    side = columns[rows == row].min()
    mask[row - 3 : row + 4, side : side + 5] = 0
    return mask


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([64, 128, 256]))
def test_samples_are_chests(seed: int, size: int) -> None:
    check_laws(sample_organ_mask(seed, size, model=MODEL), size)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.floats(0.38, 0.6), st.none() | st.floats(0.95, 1.05), st.none() | st.floats(-2.0, 5.0))
def test_samples_have_the_measures_that_were_asked_for(
    seed: int, ctr: float, lung_scale: float | None, tilt: float | None
) -> None:
    mask = sample_organ_mask(seed, ctr=ctr, lung_scale=lung_scale, tilt=tilt, model=MODEL)
    check_laws(mask)
    assert cardiothoracic_ratio(mask) == pytest.approx(ctr, abs=0.0101)
    measures = mask_measures(mask)
    average = plausible_ranges(mask, MODEL)["lung_scale"]
    usual = plausible_ranges(model=MODEL)["lung_scale"]
    if lung_scale is not None:  # relative to the average chest
        assert usual[0] / average[0] == pytest.approx(lung_scale, rel=0.011)
    if tilt is not None:
        assert measures["tilt"] == pytest.approx(tilt, abs=0.51)


def test_a_seed_gives_one_mask_and_another_seed_another() -> None:
    first = sample_organ_mask(3, ctr=0.5, model=MODEL)
    np.testing.assert_array_equal(first, sample_organ_mask(3, ctr=0.5))
    assert (first != sample_organ_mask(4, ctr=0.5)).mean() > 0.01


def test_samples_spread_as_the_masks_that_the_model_learnt_from() -> None:
    ratios = [cardiothoracic_ratio(sample_organ_mask(seed, 128, model=MODEL)) for seed in range(40)]
    low, high = plausible_ranges(model=MODEL)["ctr"]
    assert np.mean(ratios) == pytest.approx((low + high) / 2, abs=0.05)
    assert np.std(ratios) == pytest.approx((high - low) / (2 * 2.33), rel=0.4)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"ctr": 0.95}, r"ctr 0\.95: .*Usual are ctr 0\.3\d to 0\.6\d"),
        ({"ctr": 1.5}, "ctr is 1.5; expected"),
        ({"ctr": float("nan")}, "ctr is nan"),
        ({"lung_scale": 3.0}, "lung_scale 3: "),
        ({"heart_scale": 0.0}, "heart_scale is 0.0"),
        ({"heart_scale": 0.7, "ctr": 0.7}, "heart_scale 0.7"),
        ({"tilt": 60.0}, "tilt is 60.0"),
        ({"size": 8}, "size is 8"),
    ],
)
def test_chests_that_do_not_exist_are_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        sample_organ_mask(0, model=MODEL, **wrong)  # type: ignore[arg-type]


def test_modes_move_the_average_chest() -> None:
    average = move_along_mode(0, 0.0, model=MODEL)
    changes = [(move_along_mode(mode, 2.0, model=MODEL) != average).mean() for mode in (0, 10, MODEL.n_modes - 1)]
    assert changes[0] > changes[1] > changes[2] > 0
    for sign in (-3, 3):
        check_laws(move_along_mode(0, sign, model=MODEL))
    with pytest.raises(InputError, match=f"expected a mode from 0 to {MODEL.n_modes - 1}"):
        move_along_mode(MODEL.n_modes, 1.0, model=MODEL)


def test_fit_finds_a_chest_of_the_model_again(chest: np.ndarray) -> None:
    fit = fit_shape_model(chest, MODEL)
    assert min(fit.dice.values()) > 0.98
    assert np.sqrt((fit.scores**2).mean()) < 1.5
    large = np.zeros((300, 420), np.uint8)  # the same chest elsewhere, in an image that is not square
    large[20:276, 100:356] = chest
    assert min(fit_shape_model(large, MODEL).dice.values()) > 0.97


@pytest.mark.parametrize("settings", [{}, {"heart_scale": 1.0, "lung_scale": 1, "tilt": 0.0}, {"ctr": "own"}])
def test_an_edit_of_nothing_returns_the_mask_itself(chest: np.ndarray, settings: dict[str, object]) -> None:
    chest = chest.copy()
    chest[60:80, 120:126] = Organ.AORTA
    own = {name: cardiothoracic_ratio(chest) if value == "own" else value for name, value in settings.items()}
    edited = edit_organ_mask(chest, model=MODEL, **own)  # type: ignore[arg-type]
    np.testing.assert_array_equal(edited, chest)
    assert not np.shares_memory(edited, chest)


@settings(max_examples=6, deadline=None)
@given(
    st.integers(0, 1000),
    st.sampled_from([("ctr", 0.38), ("ctr", 0.62), ("heart_scale", 0.85), ("heart_scale", 1.15), ("lung_scale", 0.9)]),
)
def test_edits_are_chests_with_the_new_measure(seed: int, change: tuple[str, float]) -> None:
    name, value = change
    before = sample_organ_mask(seed, ctr=0.48, heart_scale=1, lung_scale=1, tilt=0, model=MODEL)
    after = edit_organ_mask(before, model=MODEL, **{name: value})  # type: ignore[arg-type]
    check_laws(after)
    was, now = mask_measures(before), mask_measures(after)
    if name == "ctr":
        assert now["ctr"] == pytest.approx(value, abs=0.0101)
    else:
        size = name.replace("scale", "size")
        assert now[size] / was[size] == pytest.approx(value, rel=0.015)


def test_heart_edits_leave_the_lungs_outer_borders_and_what_the_model_cannot_express(chest: np.ndarray) -> None:
    edited = edit_organ_mask(chest, heart_scale=1.2, model=MODEL)
    was, now = mask_measures(chest), mask_measures(edited)
    assert now["heart_width"] / was["heart_width"] == pytest.approx(1.2, abs=0.02)
    lungs = [np.isin(mask, (Organ.LEFT_LUNG, Organ.RIGHT_LUNG)) for mask in (chest, edited)]
    rows = np.flatnonzero(lungs[0].any(1) & lungs[1].any(1))[3:-8]  # a border that lies flat has no column
    for side in (slice(None), slice(None, None, -1)):
        moved = lungs[0][rows, side].argmax(1) - lungs[1][rows, side].argmax(1)
        assert np.quantile(np.abs(moved), 0.9) <= 1
    row = int(np.median(np.nonzero(chest == Organ.RIGHT_LUNG)[0]))
    depths = []
    for mask in (chest, edited):  # of the notch, against the border above and below it
        above, here, below = (np.flatnonzero(mask[r] == Organ.RIGHT_LUNG).min() for r in (row - 12, row, row + 12))
        depths.append(here - (above + below) / 2)
    assert depths[0] > 3
    assert depths[1] == pytest.approx(depths[0], abs=1.5)


def test_lung_edits_leave_the_heart(chest: np.ndarray) -> None:
    edited = edit_organ_mask(chest, lung_scale=0.9, model=MODEL)
    assert dice_per_organ(chest, edited)["heart"] > 0.97


def test_tilt_turns_everything_clockwise(chest: np.ndarray) -> None:
    chest = chest.copy()
    chest[60:80, 120:126] = Organ.AORTA
    turned = edit_organ_mask(chest, tilt=6, model=MODEL)
    was, now = mask_measures(chest), mask_measures(turned)
    assert now["tilt"] - was["tilt"] == pytest.approx(6, abs=0.6)
    assert now["lung_size"] == pytest.approx(was["lung_size"], rel=0.01)
    back = edit_organ_mask(turned, tilt=-6, model=MODEL)
    scores = dice_per_organ(chest, back)
    assert min(scores[organ.title] for organ in ORGANS) > 0.95
    assert (turned == Organ.AORTA).any()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ctr": 0.95}, "ctr 0.95"),
        ({"lung_scale": 2.0}, "lung_scale 2"),
        ({"lung_scale": 0.3}, "lung_scale 0.3"),
        ({"heart_scale": 2.5}, "heart_scale 2.5"),
        ({"heart_scale": -1.0}, "heart_scale is -1.0"),
        ({"tilt": float("nan")}, "tilt is nan"),
    ],
)
def test_edits_that_a_chest_cannot_take_are_refused(chest: np.ndarray, change: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        edit_organ_mask(chest, model=MODEL, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", ORGANS)
def test_a_missing_organ_is_named(chest: np.ndarray, missing: Organ) -> None:
    mask = np.where(chest == missing, 0, chest)
    for call in (
        lambda: edit_organ_mask(mask, ctr=0.5, model=MODEL),
        lambda: fit_shape_model(mask, MODEL),
        lambda: plausible_ranges(mask, MODEL),
    ):
        with pytest.raises(MaskError, match=f"no {missing.title}"):
            call()


def test_mirrored_chests_are_refused(chest: np.ndarray) -> None:
    with pytest.raises(MaskError, match="Mirror the mask"):
        fit_shape_model(chest[:, ::-1], MODEL)


def test_ranges_are_those_of_samples_or_relative_to_a_mask(chest: np.ndarray) -> None:
    ranges = plausible_ranges(model=MODEL)
    assert list(ranges) == ["ctr", "heart_scale", "lung_scale", "tilt"]
    assert all(ranges[name][0] < 1 < ranges[name][1] for name in ("heart_scale", "lung_scale"))
    small = edit_organ_mask(chest, heart_scale=0.9, model=MODEL)
    ratio = plausible_ranges(small, MODEL)["heart_scale"][1] / plausible_ranges(chest, MODEL)["heart_scale"][1]
    assert ratio == pytest.approx(1 / 0.9, rel=0.015)
