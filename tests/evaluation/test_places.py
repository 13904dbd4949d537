"""The judge of places: learns what radiologists boxed, and says so of lesions that were drawn."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from xreal.data.contract import Box, Sample
from xreal.data.phantom import phantom
from xreal.data.prepared import PreparedDataset, write_shard
from xreal.errors import DataError
from xreal.evaluation.card import pathology_axes, places_axis
from xreal.evaluation.cases import Cases
from xreal.evaluation.judges import load_judges
from xreal.evaluation.places import FEWEST_BOXES, PlaceJudge, learn_places, look_at_places, real_places
from xreal.masks.areas import ellipse
from xreal.vocabulary import Finding, Organ

SIZE = 64


class Brightness:
    """Features that are seen at a glance: mean and spread of the window's middle and of its edge."""

    name, weights = "brightness", ""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        middle = images[:, 32:96, 32:96]
        rest = images.copy()
        rest[:, 32:96, 32:96] = np.nan
        return np.stack([middle.mean((1, 2)), np.nanmean(rest, (1, 2)), middle.std((1, 2))], 1).astype(np.float64)


def ill(seed: int) -> Sample:
    """A phantom with a bright opacity in its right lung, boxed."""
    chest = phantom(seed, SIZE)
    rows, columns = np.nonzero(chest.organ_mask == Organ.RIGHT_LUNG)
    pick = np.random.default_rng(seed).integers(len(rows))
    x, y = float(columns[pick]), float(rows[pick])
    glow = ndimage.gaussian_filter(ellipse(x, y, 5, 6, height=SIZE, width=SIZE), 1)
    image = np.rint(255 * np.clip(chest.image + 0.3 * glow, 0, 1)).astype(np.uint8)
    boxes = (Box(Finding.PNEUMONIA, x - 5, y - 6, 10, 12), Box(Finding.LUNG_OPACITY, x - 5, y - 6, 10, 12))
    return Sample(image, chest.organ_mask, f"{seed}", findings=(Finding.PNEUMONIA,), boxes=boxes)


def healthy(seed: int) -> Sample:
    """A phantom of no known view."""
    chest = phantom(seed, SIZE)
    image = np.rint(255 * chest.image).astype(np.uint8)
    return Sample(image, chest.organ_mask, f"{seed}", findings=(Finding.NO_FINDING,))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("places")
    write_shard(folder / "train-00000.parquet", [*map(ill, range(FEWEST_BOXES)), *map(healthy, range(400, 420))])
    without = replace(ill(200), boxes=())
    heart = replace(ill(201), boxes=(Box(Finding.CARDIOMEGALY, 20, 30, 20, 20),))
    unmasked = replace(ill(202), organ_mask=None)
    lungless = replace(ill(203), organ_mask=np.zeros((SIZE, SIZE), np.uint8))
    odd = [without, heart, unmasked, lungless]
    write_shard(folder / "val-00000.parquet", [*map(ill, range(100, 120)), *odd, *map(healthy, range(420, 430))])
    write_shard(folder / "test-00000.parquet", [*map(ill, range(FEWEST_BOXES))])
    return folder


@pytest.fixture(scope="module")
def judge(data: Path) -> PlaceJudge:
    return learn_places(Brightness(), PreparedDataset([data], "train"))


def test_windows_show_the_place_in_its_middle() -> None:
    image = np.zeros((2, 64, 64), np.float32)
    image[0, 10:20, 40:60] = 1
    image[1, 0:8, 0:8] = 1
    windows = look_at_places(image, np.array([[40, 10, 60, 20], [0, 0, 8, 8]]))
    assert windows.shape == (2, 128, 128)
    rows, columns = np.nonzero(windows[0] > 0.5)
    side = 128 / 1.4  # of the place's longer side
    assert (np.ptp(columns) + 1, np.ptp(rows) + 1) == (pytest.approx(side, abs=3), pytest.approx(side / 2, abs=3))
    assert (columns.mean(), rows.mean()) == (pytest.approx(63.5, abs=1), pytest.approx(63.5, abs=1))
    assert windows[1, 0, 0] == 1  # beyond the image, its edge


def test_boxes_are_collected_once_beside_the_same_places_of_healthy_lungs(data: Path) -> None:
    windows, truth, brighter = real_places(PreparedDataset([data], "val"))
    assert (truth > 0).sum() == 20  # two findings in one box; none of those without box, mask or lungs, or of the heart
    assert (truth < 0).sum() == 60
    assert windows.shape == (len(truth), 128, 128)
    bright = windows[:, 32:96, 32:96].mean((1, 2))
    assert np.median(bright[truth > 0]) > np.median(bright[truth < 0]) + 0.1
    assert brighter.shape == (20,)
    assert 0.08 < brighter.mean() < 0.25  # 0.3 in the middle of each, fading out
    np.testing.assert_array_equal(windows, real_places(PreparedDataset([data], "val")).windows)


def test_real_opacities_are_told_from_healthy_places(judge: PlaceJudge, data: Path) -> None:
    axis = places_axis(judge, PreparedDataset([data], "val"))
    assert axis["auroc in place"]["value"] > 0.95
    assert axis["auroc in place"]["n"] == axis["brighter"]["n"] == 20
    assert axis["brighter"]["low"] > 0.08
    assert axis["kid in place"]["low"] < 0 < axis["kid in place"]["high"]
    assert axis["kid in place, healthy"]["low"] > 0


def test_a_visible_lesion_is_told_from_its_twin_and_none_is_not(judge: PlaceJudge) -> None:
    chests = [phantom(seed, SIZE) for seed in range(300, 324)]
    healthy = np.stack([chest.image for chest in chests])
    masks = np.repeat(ellipse(18, 34, 5, 6, height=SIZE, width=SIZE)[None], len(chests), 0)
    cases = Cases(
        images=healthy + 0.3 * ndimage.gaussian_filter(masks, (0, 1, 1)),
        image_ids=tuple(map(str, range(len(chests)))),
        organ_masks=np.stack([chest.organ_mask for chest in chests]),
        healthy=healthy,
        jpeg_steps=((),) * len(chests),
        lesion_masks=masks,
        findings=((Finding.PNEUMONIA,), (Finding.EDEMA,)) * (len(chests) // 2),
    )
    judges = load_judges()
    axis, per_finding = pathology_axes(judges, cases, judge)
    assert axis["auroc in place"]["value"] > 0.9
    assert {name: one["auroc in place"]["n"] for name, one in per_finding.items()} == {"Pneumonia": 12, "Edema": 12}
    assert axis["kid in place"]["value"] < axis["kid in place, healthy"]["low"]
    few, _ = pathology_axes(judges, cases.take(range(12)), judge)
    assert "auroc in place" in few
    assert "kid in place" not in few
    nothing, _ = pathology_axes(judges, replace(cases, images=healthy + np.float32(1e-6)), judge)
    assert nothing["auroc in place"]["value"] == pytest.approx(0.5, abs=0.05)
    assert "auroc in place" not in pathology_axes(judges, cases)[0]


def test_too_few_boxes_are_refused(data: Path) -> None:
    with pytest.raises(DataError, match="20 boxes of opacities in X-rays with organ masks are too few to learn from"):
        learn_places(Brightness(), PreparedDataset([data], "val"))


def test_without_healthy_x_rays_nothing_is_learnt(data: Path) -> None:
    with pytest.raises(DataError, match="no healthy X-ray with an organ mask"):
        learn_places(Brightness(), PreparedDataset([data], "test"))


def test_a_healthy_place_is_the_same_share_of_the_lungs_and_of_the_same_view(tmp_path: Path) -> None:
    def chest(name: str, left: int, value: int, view: str, *findings: Finding, boxes: tuple[Box, ...] = ()) -> Sample:
        organs, image = np.zeros((2, SIZE, SIZE), np.uint8)
        organs[10:50, left : left + 20], organs[10:50, left + 20 : left + 40] = Organ.RIGHT_LUNG, Organ.LEFT_LUNG
        image[20:30, left + 5 : left + 15] = value
        return Sample(image, organs, name, findings=findings, view_position=view, boxes=boxes)

    box = Box(Finding.PNEUMONIA, 5, 20, 10, 10)
    write_shard(
        tmp_path / "train-00000.parquet",
        [
            chest("ill", 0, 255, "AP", Finding.PNEUMONIA, boxes=(box,)),
            chest("alike", 20, 100, "AP", Finding.NO_FINDING),
            chest("other view", 20, 200, "PA", Finding.NO_FINDING),
            chest("other finding", 20, 50, "AP", Finding.EDEMA),
        ],
    )
    windows, truth, brighter = real_places(PreparedDataset([tmp_path], "train"))
    assert truth.tolist() == [1, -1]
    # The lungs beside the box are black; those without a box include the 100.
    assert brighter == pytest.approx([1 - (100 / 255) * (1 - 100 / 1600)])
    np.testing.assert_allclose(windows[:, 40:88, 40:88].mean((1, 2)), [1, 100 / 255], atol=1e-6)
