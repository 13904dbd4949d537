"""The card on pictures whose faults are known: real ones score as real, and each fault is noticed by its metric."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from xreal.config import PRESETS
from xreal.data.phantom import phantom
from xreal.data.prepared import PreparedDataset
from xreal.evaluation.cases import Cases, write_case
from xreal.vocabulary import Finding

SIZE, COUNT = PRESETS["tiny"].image_size, 100
FLOOR = "real vs real"
Rows = dict[str, dict[str, dict[str, dict[str, float]]]]


@pytest.fixture(scope="module")
def others() -> Cases:
    """Hold phantoms that are in no split of the data set, mixed as it is."""
    chests = [phantom(5000 + i, SIZE, (Finding.PNEUMONIA,) if i % 2 else ()) for i in range(COUNT)]
    return Cases(
        images=np.stack([chest.image for chest in chests]),
        image_ids=tuple(f"{i:03d}" for i in range(COUNT)),
        findings=tuple((Finding.PNEUMONIA,) if i % 2 else (Finding.NO_FINDING,) for i in range(COUNT)),
        organ_masks=np.stack([chest.organ_mask for chest in chests]),
        lesion_masks=np.zeros((COUNT, SIZE, SIZE), np.float32),
        healthy=np.full((COUNT, SIZE, SIZE), np.nan, np.float32),
        jpeg_steps=((),) * COUNT,
    )


@pytest.fixture
def judged(data: Path, judges: Path, tmp_path: Path, run: Callable[..., int]) -> Callable[..., dict]:
    """Return a function cases, axes -> the report that the command writes of them."""

    def judge(cases: Cases, only: str) -> dict:
        folder = tmp_path / "pictures"
        folder.mkdir()
        for i in range(len(cases)):
            write_case(folder, cases, i, {})
        out = tmp_path / "report"
        arguments = ("--real", data, "--judges", judges, "--generated", folder, "--out", out, "--only", only)
        assert run("evaluate", *arguments) == 0
        report = json.loads((out / "report.json").read_text())
        report["judged"] = report["rows"]["pictures"]
        report["floor"] = report["rows"][FLOOR]
        return report

    return judge


def test_real_pictures_that_pretend_score_as_real(others: Cases, judged: Callable[..., dict]) -> None:
    report = judged(others, "fidelity,anatomy")
    seen, floor = report["judged"], report["floor"]
    accuracy = seen["real or generated"]["accuracy"]
    assert accuracy["low"] < 0.5 < accuracy["high"]
    assert accuracy["n"] == 2 * COUNT
    distances, floors = seen["fidelity: cxr-encoder"], floor["fidelity: cxr-encoder"]
    assert distances["frechet distance"]["value"] < 2 * floors["frechet distance"]["value"]
    assert distances["kid"]["low"] < 0 < distances["kid"]["high"]
    for share in ("precision", "recall", "coverage"):
        assert distances[share]["value"] == pytest.approx(floors[share]["value"], abs=0.15)
    assert seen["radiomics"]["radiomics distance"]["value"] < 2 * floor["radiomics"]["radiomics distance"]["value"]
    assert abs(seen["spectrum"]["spectrum difference high band"]["value"]) < 0.5
    for organ in ("right lung", "left lung", "heart"):
        dice = seen["anatomy"][f"dice {organ}"]["value"]
        assert dice == pytest.approx(floor["anatomy"][f"dice {organ}"]["value"], abs=0.05)
        assert dice > report["rows"]["shuffled masks"]["anatomy"][f"dice {organ}"]["value"] + 0.02
    for finding in ("Pneumonia", "No Finding"):
        assert report["findings"]["pictures"][finding]["kid"]["n"] == COUNT // 2


def blurred(cases: Cases) -> Cases:
    return replace(cases, images=ndimage.gaussian_filter(cases.images, (0, 0.8, 0.8)))


def noised(cases: Cases) -> Cases:
    noise = np.random.default_rng(0).normal(0, 0.08, cases.images.shape)
    return replace(cases, images=np.clip(cases.images + noise, 0, 1).astype(np.float32))


def gridded(cases: Cases) -> Cases:
    lines = np.zeros((SIZE, SIZE), np.float32)
    lines[::8] = lines[:, ::8] = 0.03
    return replace(cases, images=np.clip(cases.images + lines, 0, 1))


def one_repeated(cases: Cases) -> Cases:
    return replace(cases, images=np.repeat(cases.images[:1], len(cases), axis=0))


@pytest.mark.parametrize(
    ("spoil", "axis", "metric", "sign", "least"),
    [
        (blurred, "spectrum", "spectrum difference high band", -1, 2.0),
        (noised, "spectrum", "spectrum difference high band", 1, 2.0),
        (gridded, "spectrum", "grid excess", 1, 3.0),
        (one_repeated, "fidelity: cxr-encoder", "recall", -1, 0.5),
    ],
)
def test_spoilt_pictures_are_told_from_real_ones_and_the_fault_is_named(
    spoil: Callable[[Cases], Cases],
    axis: str,
    metric: str,
    sign: int,
    least: float,
    others: Cases,
    judged: Callable[..., dict],
) -> None:
    report = judged(spoil(others), "fidelity")
    assert report["judged"]["real or generated"]["accuracy"]["low"] > 0.8
    assert sign * (report["judged"][axis][metric]["value"] - report["floor"][axis][metric]["value"]) > least
    radiomics, floor = (report[row]["radiomics"]["radiomics distance"]["value"] for row in ("judged", "floor"))
    assert radiomics > 2 * floor


def mirrored(cases: Cases) -> Cases:
    return replace(cases, images=cases.images[:, :, ::-1])


def masks_shuffled(cases: Cases) -> Cases:
    return replace(cases, organ_masks=np.roll(cases.organ_masks, 1, axis=0))


@pytest.mark.parametrize("spoil", [mirrored, masks_shuffled])
def test_organs_that_are_not_where_they_were_asked_for_are_noticed(
    spoil: Callable[[Cases], Cases], others: Cases, judged: Callable[..., dict]
) -> None:
    report = judged(spoil(others.take(range(30))), "anatomy")
    for organ in ("right lung", "left lung", "heart"):
        floor, seen = (report[row]["anatomy"][f"dice {organ}"] for row in ("floor", "judged"))
        assert seen["high"] < floor["low"], organ


def test_copies_of_training_pictures_are_noticed_and_nothing_else(
    others: Cases, data: Path, judged: Callable[..., dict]
) -> None:
    train = Cases.from_samples(PreparedDataset((data,), "train"))
    copies = np.clip(0.9 * train.images + 0.03, 0, 1)
    some = others.take(range(40))
    report = judged(replace(some, images=np.concatenate([copies, some.images[len(copies) :]])), "privacy")
    assert report["judged"]["privacy"]["flagged"]["value"] == pytest.approx(len(copies) / 40)


def test_pictures_of_the_reference_are_named(data: Path, judged: Callable[..., dict]) -> None:
    real = Cases.from_samples(PreparedDataset((data,), "val")).take(range(5))
    report = judged(replace(real, image_ids=tuple("abcde")), "anatomy")
    assert "5 of the images judged are real images of the reference, pixel for pixel" in report["notes"]
