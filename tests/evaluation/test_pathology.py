"""Pathology control: right on lesions whose place and effect are known, and noticing what went wrong."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from xreal.data.phantom import phantom
from xreal.errors import InputError
from xreal.evaluation.pathology import (
    auroc_and_interval,
    classifier_response,
    lesion_locality,
    localisation,
    response_per_finding,
)
from xreal.models.encoder import Reading
from xreal.vocabulary import Finding

SIZE = 64
LEFT, RIGHT = Finding.EDEMA, Finding.PNEUMONIA


class Oracle(nn.Module):
    """Judges by brightness: Edema by that of the left half, Pneumonia by that of the right half."""

    device = torch.device("cpu")
    findings = (Finding.NO_FINDING, LEFT, RIGHT)

    def forward(self, image: Tensor) -> Reading:
        half = image.shape[-1] // 2
        left, right = image.clone(), image.clone()
        left[..., half:], right[..., :half] = 0, 0
        maps = torch.cat([-image, left, right], 1)
        nothing = torch.zeros(len(image))
        return Reading(image[:, 0, 0], nothing, nothing, nothing, 40 * (maps.mean((2, 3)) - 0.25), maps)


@pytest.fixture(scope="module")
def healthy() -> np.ndarray:
    return np.stack([phantom(seed, SIZE).image for seed in range(8)])


@pytest.fixture(scope="module")
def masks() -> np.ndarray:
    """Squares of 16 pixels, the even ones in the left half, the odd ones in the right half."""
    squares = np.zeros((8, SIZE, SIZE), np.float32)
    for i, square in enumerate(squares):
        x = 8 + 32 * (i % 2)
        square[20 + i : 36 + i, x : x + 16] = 1
    return squares


@pytest.fixture(scope="module")
def requested() -> list[tuple[Finding, ...]]:
    return [(LEFT,), (RIGHT,)] * 4


def paint(healthy: np.ndarray, masks: np.ndarray, blur: float = 1.5, strength: float = 0.25) -> np.ndarray:
    soft = np.stack([ndimage.gaussian_filter(mask, blur) * (mask > 0) for mask in masks]) if blur else masks
    return (healthy + strength * soft).astype(np.float32)


def test_locality_of_an_exact_lesion(healthy: np.ndarray, masks: np.ndarray) -> None:
    scores = lesion_locality(paint(healthy, masks), healthy, masks)
    assert set(scores) == {"inside", "outside", "ratio", "brighter", "ssim outside", "psnr outside", "seam"}
    assert scores["inside"].min() > 0.1
    assert scores["outside"].max() == 0
    np.testing.assert_allclose(scores["psnr outside"], 100)


def test_change_outside_is_noticed(healthy: np.ndarray, masks: np.ndarray) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, healthy.shape).astype(np.float32)
    scores = lesion_locality(paint(healthy, masks) + noise, healthy, masks)
    np.testing.assert_allclose(scores["psnr outside"], 40, atol=0.5)  # −20 log10 0.01


def test_cut_edges_are_noticed_as_seams(healthy: np.ndarray, masks: np.ndarray) -> None:
    unchanged = lesion_locality(healthy, healthy, masks)["seam"]
    np.testing.assert_allclose(unchanged, 1)
    wide = np.stack([ndimage.gaussian_filter(mask, 6) for mask in masks])
    blended = lesion_locality((healthy + 0.25 * wide).astype(np.float32), healthy, masks)["seam"]
    cut = lesion_locality(paint(healthy, masks, blur=0), healthy, masks)["seam"]
    assert (cut > 1.1 * blended).all()
    assert cut.mean() > 1.4
    assert blended.mean() < 1.1


def test_the_images_own_edge_is_no_seam(healthy: np.ndarray) -> None:
    mask = np.zeros_like(healthy)
    mask[:, :, :20] = 1  # three of its four sides are the image's
    far, near = healthy.copy(), healthy.copy()
    far[:, :4, :10] += 0.5
    near[:, 30:34, 15:] += 0.5
    np.testing.assert_allclose(lesion_locality(far, healthy, mask)["seam"], 1)
    assert lesion_locality(near, healthy, mask)["seam"].min() > 1.02


def test_images_without_twin_or_mask_give_no_number(healthy: np.ndarray, masks: np.ndarray) -> None:
    twins, places = healthy.copy(), masks.copy()
    twins[0], places[1] = np.nan, 0
    for measure in (lesion_locality, localisation):
        for values in measure(paint(healthy, masks), twins, places).values():
            assert np.isnan(values).tolist() == [True, True] + [False] * 6


def test_classifier_answers_to_what_was_requested(
    healthy: np.ndarray, masks: np.ndarray, requested: list[tuple[Finding, ...]]
) -> None:
    images = paint(healthy, masks)
    scores = classifier_response(Oracle(), images, healthy, requested)
    assert scores["requested"].min() > 0.01
    np.testing.assert_allclose(scores["others"], 0, atol=1e-6)
    assert scores["no finding"].max() < 0
    swapped = classifier_response(Oracle(), images, healthy, requested[1:] + requested[:1])
    np.testing.assert_allclose(swapped["requested"], 0, atol=1e-6)
    assert swapped["others"].min() > 0.01
    np.testing.assert_allclose(swapped["others absolute"], swapped["others"], atol=1e-6)


def test_findings_that_the_classifier_does_not_know_are_not_judged(healthy: np.ndarray, masks: np.ndarray) -> None:
    unknown = [(Finding.MASS,)] * 8
    scores = classifier_response(Oracle(), paint(healthy, masks), healthy, unknown)
    assert np.isnan(scores["requested"]).all()
    assert np.isfinite(scores["others"]).all()
    assert response_per_finding(Oracle(), healthy, healthy, unknown) == {}


def test_each_finding_has_its_own_row(
    healthy: np.ndarray, masks: np.ndarray, requested: list[tuple[Finding, ...]]
) -> None:
    twins = healthy.copy()
    twins[1] = np.nan
    rows = response_per_finding(Oracle(), paint(healthy, masks, strength=1), twins, requested)
    assert {name: row["n"] for name, row in rows.items()} == {"Edema": 4, "Pneumonia": 3}
    for row in rows.values():
        assert row["before"].shape == row["after"].shape == (row["n"],)
        assert (row["after"] > row["before"]).all()
        assert row["auroc"][0] > 0.9
    ignored = response_per_finding(Oracle(), healthy, twins, requested)
    assert all(row["auroc"][0] == 0.5 for row in ignored.values())


def test_auroc_of_known_answers() -> None:
    rng = np.random.default_rng(0)
    low = rng.normal(0, 1, 200)
    assert auroc_and_interval(low + 100, low) == (1, 1, 1)
    assert auroc_and_interval(low - 100, low) == (0, 0, 0)
    area, lower, upper = auroc_and_interval(rng.normal(1, 1, 200), low)
    assert area == pytest.approx(0.760, abs=0.05)  # Φ(1 / √2)
    assert lower < area < upper
    assert 0.05 < upper - lower < 0.15
    assert auroc_and_interval(np.array([0.0, 1.0]), np.array([0.0, 1.0]))[0] == 0.5


def test_lesions_in_their_place_are_found_and_misplaced_ones_are_not(healthy: np.ndarray, masks: np.ndarray) -> None:
    images = paint(healthy, masks)
    there = localisation(images, healthy, masks)
    assert there["pointing game"].tolist() == [1] * 8
    assert there["iou"].min() > 0.6
    np.testing.assert_allclose(there["chance"], 256 / 4096)
    elsewhere = localisation(images, healthy, np.roll(masks, 32, axis=2))
    assert elsewhere["pointing game"].tolist() == [0] * 8
    assert elsewhere["iou"].max() == 0
    everywhere = localisation(healthy + 0.2 * np.random.default_rng(0).random(healthy.shape), healthy, masks)
    assert everywhere["iou"].max() < 0.3
    nowhere = localisation(healthy, healthy, masks)
    assert nowhere["pointing game"].tolist() == nowhere["iou"].tolist() == [0] * 8


def test_requests_must_fit_the_images(healthy: np.ndarray, masks: np.ndarray) -> None:
    said = "expected as many of each, all of one size"
    with pytest.raises(InputError, match=said):
        lesion_locality(healthy, healthy[:3], masks)
    with pytest.raises(InputError, match=said):
        classifier_response(Oracle(), healthy, healthy, [(RIGHT,)])
    with pytest.raises(InputError, match=said):
        localisation(healthy, healthy, masks[:2])
