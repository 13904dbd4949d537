"""Laws of where lesions go, and of what an image's number decides."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import xreal.bulk.sampling
from xreal.bulk.plan import Plan, parse_plan
from xreal.bulk.sampling import check_places, image_seed, list_masks, read_boxes, sample_item
from xreal.data.contract import Box, Sample
from xreal.data.phantom import phantom
from xreal.data.prepared import write_shard
from xreal.errors import DataError, InputError, MaskError
from xreal.masks.areas import extent
from xreal.masks.organs import cardiothoracic_ratio, write_organ_mask
from xreal.vocabulary import Finding, Organ

SIZE = 64
LUNGS = (Organ.LEFT_LUNG, Organ.RIGHT_LUNG)


def planned(*findings: str, n: int = 5, **sections: object) -> Plan:
    return parse_plan({"images": [{"findings": list(findings), "n": n}], **sections})


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("masks")
    for seed in range(4):
        write_organ_mask(folder / f"{seed}.png", phantom(seed, 128).organ_mask)
    return list_masks(planned(anatomies={"masks": str(folder)}).anatomies)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**40), low=st.floats(0.01, 0.4), wider=st.floats(0, 0.1))
def test_ellipse_lies_in_one_lung_and_is_no_larger_than_asked(
    masks: list[Path], seed: int, low: float, wider: float
) -> None:
    plan = planned("Edema", seed=seed, lesions={"area": [low, low + wider]})
    item = sample_item(plan, 0, SIZE, masks, {})
    (lesion,) = item.lesions
    organs = np.unique(item.organ_mask[lesion.mask > 0])
    assert len(organs) == 1
    assert organs[0] in LUNGS
    lungs = np.isin(item.organ_mask, LUNGS).sum()
    assert 0 < lesion.mask.sum() <= (low + wider) * lungs * 1.3 + 8  # pixels of a small ellipse are few


@pytest.mark.parametrize(("finding", "low", "high"), [("Nodule", 0.006, 0.014), ("Mass", 0.014, 0.085)])
def test_nodules_are_small_and_round_and_masses_larger(
    masks: list[Path], finding: str, low: float, high: float
) -> None:
    plan, shares, longer = planned(finding, n=30), [], []
    for index in range(plan.n):
        item = sample_item(plan, index, 256, masks, {})
        mask = item.lesions[0].mask > 0
        shares.append(mask.sum() / np.isin(item.organ_mask, LUNGS).sum())
        x0, y0, x1, y1 = extent(mask)
        longer.append(max(x1 - x0, y1 - y0) / min(x1 - x0, y1 - y0))
    assert np.median(longer) < 1.25  # some are cut at the lung's border
    assert 0.5 * low < min(shares) < max(shares) < 1.1 * high
    larger = sample_item(planned(finding, lesions={"area": [0.2, 0.2]}), 0, 256, masks, {})
    assert larger.lesions[0].mask.sum() / np.isin(larger.organ_mask, LUNGS).sum() > high


def test_effusions_fill_the_base_of_one_lung_and_hide_the_diaphragm(masks: list[Path]) -> None:
    plan, sides = planned("Pleural Effusion", n=20), set()
    for index in range(plan.n):
        item = sample_item(plan, index, 128, masks, {})
        mask = item.lesions[0].mask > 0
        beyond, side = np.unique(item.organ_mask[mask])
        assert beyond == Organ.BACKGROUND
        lung = item.organ_mask == side
        assert ndimage.distance_transform_edt(~lung)[mask].max() <= 4  # 6 of 256 pixels
        rows = np.flatnonzero(lung.any(1))
        assert mask[rows[-1]][lung[rows[-1]]].all()
        assert not mask[: rows[len(rows) // 4]].any()
        sides.add(side)
    assert sides == set(LUNGS)
    anywhere = sample_item(planned("Pleural Effusion", lesions={"area": [0.1, 0.1]}), 0, 128, masks, {})
    assert np.isin(anywhere.organ_mask[anywhere.lesions[0].mask > 0], LUNGS).all()


def test_an_effusion_of_one_lung_rises_towards_its_own_wall(tmp_path: Path) -> None:
    organs = np.zeros((128, 128), np.uint8)
    organs[20:100, 20:60] = Organ.RIGHT_LUNG
    write_organ_mask(tmp_path / "one.png", organs)
    for index in range(4):
        item = sample_item(planned("Pleural Effusion"), index, 128, [tmp_path / "one.png"], {})
        heights = (item.lesions[0].mask > 0).sum(0)
        assert heights[22] > heights[57]


def test_an_image_depends_on_plan_and_number_alone(masks: list[Path]) -> None:
    plan = planned("Edema", "Mass", lesions={"strength": [0.5, 2]})
    same, other = sample_item(plan, 3, SIZE, masks, {}), sample_item(plan, 4, SIZE, masks, {})
    again = sample_item(plan, 3, SIZE, masks, {})
    np.testing.assert_array_equal(same.organ_mask, again.organ_mask)
    for one, two in zip(same.lesions, again.lesions, strict=True):
        np.testing.assert_array_equal(one.mask, two.mask)
        assert one.strength == two.strength
    assert any((a.mask != b.mask).any() for a, b in zip(same.lesions, other.lesions, strict=True))


def test_no_two_tries_share_a_seed() -> None:
    seeds = {
        image_seed(planned("Edema", seed=s), i, attempt) for s in range(4) for i in range(50) for attempt in range(4)
    }
    assert len(seeds) == 800
    assert max(seeds) < 2**48


def test_ranges_of_the_shape_model_are_met() -> None:
    plan = planned(n=6, anatomies={"ctr": [0.52, 0.58]})
    for index in range(6):
        item = sample_item(plan, index, 128, [], {})
        ratio = cardiothoracic_ratio(item.organ_mask)
        assert ratio is not None
        assert 0.5 <= ratio <= 0.6
        assert 0.52 <= item.anatomy["ctr"] <= 0.58


def test_ranges_without_any_chest_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xreal.bulk.sampling, "_TRIES", 3)
    with pytest.raises(InputError, match="no plausible chest in 3 draws"):
        sample_item(planned(anatomies={"ctr": 0.9, "lung_scale": 4}), 0, SIZE, [], {})


def test_cardiomegaly_is_the_heart(masks: list[Path]) -> None:
    item = sample_item(planned("Cardiomegaly"), 0, SIZE, masks, {})
    np.testing.assert_array_equal(item.lesions[0].mask > 0, item.organ_mask == Organ.HEART)


def test_masks_without_lungs_are_refused(tmp_path: Path) -> None:
    heart = np.where(phantom(0, SIZE).organ_mask == Organ.HEART, Organ.HEART, 0).astype(np.uint8)
    write_organ_mask(tmp_path / "heart.png", heart)
    with pytest.raises(MaskError, match="no left lung or right lung, where a lesion was to go"):
        sample_item(planned("Edema"), 0, SIZE, [tmp_path / "heart.png"], {})


@pytest.fixture
def boxed(tmp_path: Path) -> tuple[Path, Sample]:
    """One X-ray with two boxes of Mass, one that has no organ mask, and one of `val` that must not be used."""
    chest = phantom(7, SIZE)
    image = np.rint(chest.image * 255).astype(np.uint8)
    boxes = (Box(Finding.MASS, 12, 20, 8, 10), Box(Finding.MASS, 40, 24, 6, 6))
    sample = Sample(image, chest.organ_mask, "a", "a", findings=(Finding.MASS,), boxes=boxes)
    bare = Sample(image, None, "b", "b", findings=(Finding.NODULE,), boxes=(Box(Finding.NODULE, 1, 1, 9, 9),))
    write_shard(tmp_path / "train-00000.parquet", [sample, bare])
    held_out = Sample(image, chest.organ_mask, "c", "c", boxes=(Box(Finding.EDEMA, 1, 1, 9, 9),))
    write_shard(tmp_path / "val-00000.parquet", [held_out])
    return tmp_path, sample


def test_boxes_return_to_their_place_on_their_own_chest(boxed: tuple[Path, Sample], tmp_path: Path) -> None:
    folder, sample = boxed
    sets = read_boxes([str(folder)])
    assert sets.keys() == {"Mass"}
    assert sample.organ_mask is not None
    write_organ_mask(tmp_path / "own.png", sample.organ_mask)
    plan = planned("Mass", lesions={"boxes": str(folder)})
    item = sample_item(plan, 0, SIZE, [tmp_path / "own.png"], sets)
    np.testing.assert_array_equal(item.lesions[0].mask, sample.box_mask)


def test_boxes_move_with_the_lungs(boxed: tuple[Path, Sample], tmp_path: Path) -> None:
    folder, sample = boxed
    assert sample.organ_mask is not None
    write_organ_mask(tmp_path / "moved.png", np.roll(sample.organ_mask, (3, -2), (0, 1)))
    plan = planned("Mass", lesions={"boxes": str(folder)})
    item = sample_item(plan, 0, SIZE, [tmp_path / "moved.png"], read_boxes([str(folder)]))
    np.testing.assert_array_equal(item.lesions[0].mask, np.roll(sample.box_mask, (3, -2), (0, 1)))


def test_findings_without_a_place_are_refused(boxed: tuple[Path, Sample]) -> None:
    folder, _ = boxed
    with pytest.raises(DataError, match=r"has a box of Nodule; there are Mass \(1 images\)"):
        check_places(planned("Nodule", lesions={"boxes": str(folder)}), read_boxes([str(folder)]))
    with pytest.raises(InputError, match="Support Devices lies in neither lungs nor heart"):
        check_places(planned("Support Devices"), {})
    check_places(planned("Edema", "Cardiomegaly"), {})


def test_folders_without_masks_are_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match="holds no organ masks"):
            list_masks(planned(anatomies={"masks": str(folder)}).anatomies)
