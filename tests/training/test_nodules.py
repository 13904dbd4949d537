"""Nodules in healthy lungs: round, brighter, where the box says, and nothing else of the host changed."""

from dataclasses import replace

import numpy as np

from xreal.data.contract import Sample
from xreal.training.nodules import add_nodule
from xreal.training.transplant import SIMULATED
from xreal.vocabulary import Finding, Organ


def made_of(host: Sample, count: int = 40) -> list[Sample]:
    generator = np.random.default_rng(0)
    return [one for one in (add_nodule(host, generator) for _ in range(count)) if one is not None]


def test_the_host_is_brighter_in_the_box_alone(host: Sample) -> None:
    made = made_of(host)
    assert len(made) > 30
    lungs = np.isin(host.organ_mask, (Organ.LEFT_LUNG, Organ.RIGHT_LUNG))
    for one in made:
        change = one.image.astype(int) - host.image
        assert change.min() >= 0
        assert change.max() > 10
        assert not change[one.box_mask == 0].any()
        assert lungs[change > 0].mean() > 0.8
        middle = np.array([(one.boxes[0].y + one.boxes[0].height / 2), (one.boxes[0].x + one.boxes[0].width / 2)])
        peak = np.argwhere(change >= np.quantile(change[change > 0], 0.9)).mean(0)
        assert np.abs(peak - middle).max() < 0.3 * max(one.boxes[0].width, one.boxes[0].height)
        assert np.array_equal(one.organ_mask, host.organ_mask)
        assert (one.source, one.jpeg_steps, one.patient_id) == (SIMULATED, (), "p3")


def test_a_mass_is_larger_than_a_nodule(host: Sample) -> None:
    sizes: dict[Finding, list[float]] = {Finding.NODULE: [], Finding.MASS: []}
    for one in made_of(host, 80):
        (finding,) = one.findings
        assert one.boxes[0].finding == finding
        sizes[finding].append(np.sqrt(one.boxes[0].width * one.boxes[0].height))
    assert min(map(len, sizes.values())) > 15
    nodules, masses = (np.array(sizes[finding]) * 430 / host.image.shape[1] for finding in sizes)  # mm
    assert np.median(nodules) < 25
    assert np.quantile(nodules, 0.95) < 38  # lobes go beyond
    assert np.quantile(masses, 0.05) > 25


def test_one_seed_one_nodule(host: Sample) -> None:
    first, second = made_of(host, 5), made_of(host, 5)
    assert all(np.array_equal(one.image, other.image) for one, other in zip(first, second, strict=True))
    assert len({one.image.tobytes() for one in first}) == len(first)


def test_no_lungs_no_nodule(host: Sample) -> None:
    generator = np.random.default_rng(0)
    assert host.organ_mask is not None
    assert add_nodule(replace(host, organ_mask=None), generator) is None
    assert add_nodule(replace(host, organ_mask=np.zeros_like(host.organ_mask)), generator) is None
    heart = np.where(host.organ_mask == Organ.HEART, host.organ_mask, 0).astype(np.uint8)
    assert add_nodule(replace(host, organ_mask=heart), generator) is None
    assert add_nodule(replace(host, image=255 - host.image), generator) is None  # a heart darker than the lungs
