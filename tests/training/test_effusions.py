"""Effusions in healthy lungs: at the base, at most as white as the heart, with a meniscus, and nothing else changed."""

from dataclasses import replace

import numpy as np
import pytest

from xreal.data.contract import Sample
from xreal.masks.areas import extent
from xreal.training.effusions import add_effusion
from xreal.training.transplant import SIMULATED
from xreal.vocabulary import Finding, Organ


@pytest.fixture(scope="module")
def made(host: Sample) -> list[Sample]:
    generator = np.random.default_rng(0)
    return [one for one in (add_effusion(host, generator) for _ in range(30)) if one is not None]


def test_the_base_of_one_lung_is_whiter(host: Sample, made: list[Sample]) -> None:
    assert len(made) > 25
    assert host.organ_mask is not None
    white = np.quantile(host.image[host.organ_mask == Organ.HEART], 0.8)
    sides = set()
    for one in made:
        change = one.image.astype(int) - host.image
        assert change.min() >= 0
        assert one.image[change > 0].max() <= white + 1
        lung = max((Organ.LEFT_LUNG, Organ.RIGHT_LUNG), key=lambda organ: change[host.organ_mask == organ].sum())
        sides.add(lung)
        inside = host.organ_mask == lung
        assert change[inside].sum() > 0.7 * change.sum()  # the rest lies along the lung's own soft edge
        _, top, _, bottom = extent(inside)
        rows = np.flatnonzero((change > 10).any(axis=1))
        assert rows[0] > top + 0.2 * (bottom - top)
        assert rows[-1] > bottom - 0.1 * (bottom - top)
        assert (one.findings, one.source, one.jpeg_steps) == ((Finding.PLEURAL_EFFUSION,), SIMULATED, ())
        assert np.array_equal(one.organ_mask, host.organ_mask)
        assert change[one.lesion_area > 0].mean() > change[one.lesion_area == 0].mean()
    assert sides == {Organ.LEFT_LUNG, Organ.RIGHT_LUNG}


def test_the_fluid_rises_towards_the_chest_wall(made: list[Sample]) -> None:
    for one in made:
        if one.lesion_mask is None:
            continue
        x0, _, x1, _ = extent(one.lesion_mask)
        columns = np.arange(x0, x1)
        tops = one.lesion_mask[:, x0:x1].argmax(axis=0)
        right = columns.mean() < one.image.shape[1] / 2  # the patient's: its wall is on the left of the image
        order = tops if right else tops[::-1]
        upper = order[len(order) // 10 :]  # the wall itself is round
        assert upper[: len(upper) // 4].mean() <= upper[len(upper) // 2 : 3 * len(upper) // 4].mean() + 1


def test_half_of_the_places_are_outlines(made: list[Sample]) -> None:
    drawn = sum(one.lesion_mask is not None for one in made)
    assert 5 < drawn < len(made) - 5
    for one in made:
        (box,) = one.boxes
        assert box.finding == Finding.PLEURAL_EFFUSION
        if one.lesion_mask is not None:
            assert extent(one.lesion_mask) == (box.x, box.y, box.x + box.width, box.y + box.height)


def test_one_seed_one_effusion(host: Sample, made: list[Sample]) -> None:
    again = add_effusion(host, np.random.default_rng(0))
    assert again is not None
    assert np.array_equal(again.image, made[0].image)


def test_no_lung_or_heart_no_effusion(host: Sample) -> None:
    generator = np.random.default_rng(0)
    assert host.organ_mask is not None
    assert add_effusion(replace(host, organ_mask=None), generator) is None
    for missing in ((Organ.LEFT_LUNG, Organ.RIGHT_LUNG), (Organ.HEART,)):
        organs = np.where(np.isin(host.organ_mask, missing), 0, host.organ_mask).astype(np.uint8)
        assert add_effusion(replace(host, organ_mask=organs), generator) is None
    assert add_effusion(replace(host, image=255 - host.image), generator) is None  # lungs whiter than the heart
