"""Laws of the procedural chest, over many seeds."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import xreal
from xreal.data.phantom import Phantom, phantom
from xreal.errors import InputError
from xreal.vocabulary import Finding, Organ

EXAMPLES = Path(xreal.__file__).parent / "examples"
SEEDS = range(12)
IN_LUNG = sorted(set(Finding) - {Finding.NO_FINDING, Finding.CARDIOMEGALY})


@pytest.fixture(scope="module", params=SEEDS)
def chest(request: pytest.FixtureRequest) -> Phantom:
    return phantom(request.param, 128)


def columns(mask: np.ndarray) -> np.ndarray:
    return np.flatnonzero(mask.any(0))


def cardiothoracic_ratio(organ_mask: np.ndarray) -> float:
    lungs = np.isin(organ_mask, (Organ.LEFT_LUNG, Organ.RIGHT_LUNG))
    return np.ptp(columns(organ_mask == Organ.HEART)) / np.ptp(columns(lungs))


def test_keeps_the_contract(chest: Phantom) -> None:
    assert chest.image.shape == chest.organ_mask.shape == (128, 128)
    assert chest.image.dtype == np.float32
    assert chest.organ_mask.dtype == np.uint8
    assert chest.image.min() >= 0
    assert chest.image.max() <= 1
    assert np.unique(chest.organ_mask).tolist() == [0, 1, 2, 3]
    assert chest.lesion_masks == {}


def test_organs_lie_as_in_a_chest(chest: Phantom) -> None:
    right, left, heart = (chest.organ_mask == o for o in (Organ.RIGHT_LUNG, Organ.LEFT_LUNG, Organ.HEART))
    for organ in (right, left, heart):
        assert ndimage.label(organ)[1] == 1
        assert not organ[[0, -1]].any()
        assert not organ[:, [0, -1]].any()
    centre = {name: ndimage.center_of_mass(m) for name, m in (("right", right), ("left", left), ("heart", heart))}
    assert centre["right"][1] < 64 < centre["left"][1]
    assert centre["heart"][0] > max(centre["right"][0], centre["left"][0])
    heart_columns, midline = columns(heart), (columns(right)[0] + columns(left)[-1]) / 2
    assert heart_columns[-1] - midline > midline - heart_columns[0] > 0
    assert right.sum() > left.sum() * 0.95  # the heart takes its room from the left lung
    assert 0.40 <= cardiothoracic_ratio(chest.organ_mask) <= 0.55


def test_lungs_have_narrow_apex_and_concave_base(chest: Phantom) -> None:
    for organ in (Organ.RIGHT_LUNG, Organ.LEFT_LUNG):
        lung = chest.organ_mask == organ
        rows = np.flatnonzero(lung.any(1))
        widths = lung.sum(1)[rows]
        assert widths[len(rows) // 12] < 0.75 * widths.max()
        lowest = 127 - lung[::-1].argmax(0)[columns(lung)]
        lateral = lowest if organ == Organ.RIGHT_LUNG else lowest[::-1]
        middle = lateral[len(lateral) // 3 : len(lateral) // 2]
        assert lateral[: len(lateral) // 4].max() > middle.min() + 3


def test_image_is_monochrome2(chest: Phantom) -> None:
    lungs = np.isin(chest.organ_mask, (Organ.LEFT_LUNG, Organ.RIGHT_LUNG))
    heart, air = chest.organ_mask == Organ.HEART, chest.image[:4, :4].mean()
    assert air < chest.image[lungs].mean() < chest.image[heart].mean() - 0.25


def test_same_seed_same_chest_and_other_seed_other() -> None:
    first, again, other = (phantom(seed, 64, [Finding.PNEUMONIA]) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.organ_mask, again.organ_mask)
    np.testing.assert_array_equal(first.lesion_masks[Finding.PNEUMONIA], again.lesion_masks[Finding.PNEUMONIA])
    assert (first.organ_mask != other.organ_mask).mean() > 0.01


def test_size_changes_the_grid_and_not_the_chest() -> None:
    large, small = phantom(3, 256), phantom(3, 64)
    np.testing.assert_array_less(np.mean(large.organ_mask[2::4, 2::4] != small.organ_mask), 0.02)
    coarse = large.image.reshape(64, 4, 64, 4).mean((1, 3))
    assert np.abs(coarse - small.image).mean() < 0.03


@pytest.mark.parametrize("finding", IN_LUNG)
def test_finding_changes_the_lungs_where_its_mask_says_so(finding: Finding) -> None:
    for seed in range(3):
        healthy, ill = phantom(seed, 128), phantom(seed, 128, [finding])
        mask = ill.lesion_masks[finding]
        assert mask.dtype == np.float32
        assert set(np.unique(mask)) == {0.0, 1.0}
        np.testing.assert_array_equal(healthy.organ_mask, ill.organ_mask)
        assert np.isin(ill.organ_mask[mask > 0], (Organ.LEFT_LUNG, Organ.RIGHT_LUNG)).all()
        change = np.abs(ill.image - healthy.image)
        assert change[mask > 0].mean() > 0.03
        assert change[mask > 0].mean() > 5 * change[mask == 0].mean()


@pytest.mark.parametrize("seed", SEEDS)
def test_cardiomegaly_widens_the_heart(seed: int) -> None:
    ill = phantom(seed, 128, [Finding.CARDIOMEGALY])
    assert 0.55 <= cardiothoracic_ratio(ill.organ_mask) <= 0.66
    np.testing.assert_array_equal(ill.lesion_masks[Finding.CARDIOMEGALY] > 0, ill.organ_mask == Organ.HEART)


def test_findings_combine_in_any_order_and_no_finding_adds_nothing() -> None:
    first = phantom(2, 64, [Finding.NODULE, Finding.PLEURAL_EFFUSION, Finding.NO_FINDING])
    second = phantom(2, 64, [Finding.PLEURAL_EFFUSION, Finding.NODULE, Finding.NODULE])
    np.testing.assert_array_equal(first.image, second.image)
    assert set(first.lesion_masks) == {Finding.NODULE, Finding.PLEURAL_EFFUSION}


def test_organ_masks_are_distinct_over_seeds() -> None:
    digests = {hashlib.sha256(phantom(seed, 64).organ_mask.tobytes()).hexdigest() for seed in SEEDS}
    assert len(digests) == len(SEEDS)


@pytest.mark.parametrize(("seed", "size"), [(-1, 256), (0, 31), (0, -4)])
def test_out_of_range_is_refused(seed: int, size: int) -> None:
    with pytest.raises(InputError, match=rf"seed={seed}, size={size}\): expected seed >= 0 and size >= 32"):
        phantom(seed, size)


@pytest.mark.parametrize("name", ["organs", "organs-wide-heart", "organs-small-lungs"])
def test_bundled_examples_are_palette_pictures_of_labels(name: str) -> None:
    with Image.open(EXAMPLES / f"{name}.png") as picture:
        assert (picture.mode, picture.size) == ("P", (256, 256))
        organ_mask = np.asarray(picture)
    assert np.unique(organ_mask).tolist() == [0, 1, 2, 3]
    assert (cardiothoracic_ratio(organ_mask) >= 0.55) == (name == "organs-wide-heart")


def test_lesion_of_scripts_generate_lies_in_the_example_s_right_lung() -> None:
    text = (Path(__file__).parents[2] / "scripts" / "generate").read_text()
    x, y, half_x, half_y = map(int, re.search(r"ellipse:(\d+),(\d+),(\d+),(\d+)", text).groups())
    rows, columns = np.indices((256, 256))
    ellipse = ((columns - x) / half_x) ** 2 + ((rows - y) / half_y) ** 2 <= 1
    with Image.open(EXAMPLES / "organs.png") as picture:
        assert (np.asarray(picture)[ellipse] == Organ.RIGHT_LUNG).all()
