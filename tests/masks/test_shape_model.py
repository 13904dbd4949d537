"""The shape model itself: landmarks, learning from masks, derivatives, files."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import xreal
from xreal.data.phantom import phantom
from xreal.errors import DataError, ModelError
from xreal.masks.landmarks import LANDMARKS, N_LANDMARKS, draw_landmarks, find_landmarks
from xreal.masks.organs import dice_per_organ
from xreal.masks.shape_fitting import fit_shape_model, reach
from xreal.masks.shape_measures import MEASURES, measure, slopes
from xreal.masks.shape_model import ShapeModel, learn_shape_model, load_shape_model, save_shape_model
from xreal.masks.shapes import sample_organ_mask
from xreal.masks.warping import warp_organ_mask
from xreal.vocabulary import Organ

MODEL = load_shape_model()


@pytest.fixture(scope="module")
def masks() -> list[np.ndarray]:
    return [np.where(mask == Organ.AORTA, 0, mask) for mask in (phantom(s, 128).organ_mask for s in range(40))]


@pytest.fixture(scope="module")
def learnt(masks: list[np.ndarray]) -> ShapeModel:
    return learn_shape_model(masks)


def test_landmarks_say_where_the_organs_are(masks: list[np.ndarray]) -> None:
    for mask in masks[:8]:
        points = find_landmarks(mask)
        assert points.shape == (N_LANDMARKS, 2)
        assert min(dice_per_organ(mask, draw_landmarks(points, 128)).values()) > 0.96
        for organ in (Organ.RIGHT_LUNG, Organ.LEFT_LUNG):
            outline = points[LANDMARKS[organ]]
            assert outline[0, 1] == outline[:, 1].min()  # the first is the apex
            sideways = outline[32, 0] - outline[:, 0].mean()  # the 33rd the costophrenic angle
            assert sideways < 0 if organ == Organ.RIGHT_LUNG else sideways > 0
            assert outline[32, 1] > np.quantile(outline[:, 1], 0.7)


def test_landmarks_move_with_the_mask(masks: list[np.ndarray]) -> None:
    mask = np.pad(masks[0], 20)
    moved = np.roll(mask, (5, -7), axis=(0, 1))
    np.testing.assert_allclose((find_landmarks(moved) - find_landmarks(mask)) * len(mask), [[-7, 5]] * N_LANDMARKS)


def test_learnt_model_fits_and_samples_what_it_learnt_from(masks: list[np.ndarray], learnt: ShapeModel) -> None:
    assert 35 <= learnt.count[0] <= 40
    for mask in masks[:5]:
        assert min(fit_shape_model(mask, learnt).dice.values()) > 0.95
    average = np.mean([measure(find_landmarks(mask))["heart_size"] for mask in masks])
    assert learnt.average[MEASURES.index("heart_size")] == pytest.approx(average, rel=0.02)
    assert sample_organ_mask(1, 128, model=learnt).any()


def test_scores_are_standard_normal(masks: list[np.ndarray], learnt: ShapeModel) -> None:
    points = np.stack([learnt.points(fit_shape_model(mask, learnt).scores) for mask in masks[:10]])
    middle = learnt.points(np.zeros(learnt.n_scores))
    assert np.abs(points.mean(0) - middle).mean() < 0.05
    gram = np.einsum("kpd,lpd->kl", MODEL.modes, MODEL.modes)
    variances = np.diag(gram)
    assert (np.diff(variances) <= 0).all()  # largest first
    np.testing.assert_allclose(gram - np.diag(variances), 0, atol=1e-4 * variances[0])  # orthogonal


def test_derivatives_are_those_of_differences() -> None:
    generator = np.random.default_rng(0)
    scores, way = generator.normal(size=(2, MODEL.n_scores))
    step = 1e-6 * way
    change = (MODEL.points(scores + step) - MODEL.points(scores - step)) / 2
    np.testing.assert_allclose(MODEL.jacobian(scores) @ step, change, atol=1e-11)
    points, nudge = MODEL.points(scores), 1e-6 * generator.normal(size=(N_LANDMARKS, 2))
    for name in ("heart_size", "lung_size", "tilt"):  # widths have corners: their slopes are smoothed
        found = (measure(points + nudge)[name] - measure(points - nudge)[name]) / 2
        assert (slopes(points, name) * nudge).sum() == pytest.approx(found, rel=1e-4)
    wider = points.copy()
    wider[LANDMARKS[Organ.HEART], 0] += 0.01 * (points[LANDMARKS[Organ.HEART], 0] - 0.5)
    found = measure(wider)["ctr"] - measure(points)["ctr"]
    assert (slopes(points, "ctr") * (wider - points)).sum() == pytest.approx(found, rel=0.1)


def test_reach_goes_the_shortest_way() -> None:
    start = np.zeros(MODEL.n_scores)
    half, whole = (reach(MODEL, start, {"heart_size": size}) for size in (0.29, 0.30))
    assert half is not None
    assert whole is not None
    for scores, size in ((half, 0.29), (whole, 0.30)):
        assert measure(MODEL.points(scores))["heart_size"] == pytest.approx(size, abs=1e-5)
    assert 0 < np.linalg.norm(half) < np.linalg.norm(whole) < 2
    along = half @ whole / np.linalg.norm(half) / np.linalg.norm(whole)
    assert along > 0.99
    assert reach(MODEL, start, {}) is start
    assert reach(MODEL, start, {"heart_size": 1e6}) is None


def test_warp_by_no_motion_changes_nothing_and_by_a_shift_shifts(masks: list[np.ndarray]) -> None:
    mask = np.pad(phantom(0, 128).organ_mask, 16)
    points = find_landmarks(mask)
    np.testing.assert_array_equal(warp_organ_mask(mask, points, points), mask)
    shifted = warp_organ_mask(mask, points, points + np.array([4, -3]) / len(mask))
    np.testing.assert_array_equal(shifted, np.roll(mask, (-3, 4), axis=(0, 1)))


def test_model_comes_back_from_its_file(learnt: ShapeModel, tmp_path: Path) -> None:
    save_shape_model(tmp_path / "a.safetensors", learnt)
    again = load_shape_model(tmp_path / "a.safetensors")
    for field in fields(ShapeModel):
        np.testing.assert_allclose(getattr(again, field.name), getattr(learnt, field.name), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(sample_organ_mask(2, 128, model=again), sample_organ_mask(2, 128, model=learnt))


def test_other_files_are_refused(learnt: ShapeModel, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(ModelError, match="cannot be read"):
        load_shape_model(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be read"):
        load_shape_model(path)
    save_file({"mean": np.zeros((3, 2), np.float32)}, path)
    with pytest.raises(ModelError, match=r"it holds mean \(3, 2\)"):
        load_shape_model(path)
    save_shape_model(path, replace(learnt, mean=learnt.mean * np.nan))
    with pytest.raises(ModelError, match="not finite"):
        load_shape_model(path)


def test_few_masks_make_no_model(masks: list[np.ndarray]) -> None:
    one_lung = np.where(masks[0] == Organ.LEFT_LUNG, 0, masks[0])
    with pytest.raises(DataError, match="5 masks have both lungs"):
        learn_shape_model([*masks[:5], one_lung])


def test_package_holds_a_small_model() -> None:
    path = Path(xreal.__file__).parent / "weights" / "shapes" / "shape_model.safetensors"
    assert path.stat().st_size < 300_000
    assert MODEL.count[0] > 1000
