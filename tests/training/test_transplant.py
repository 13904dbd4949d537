"""Opacities in other lungs: where the box says, brighter, and nothing else of the host changed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from xreal.cli import app
from xreal.data.contract import Box, Sample
from xreal.data.phantom import phantom
from xreal.data.prepared import PreparedDataset, write_shard
from xreal.errors import DataError, InputError, OutputError
from xreal.masks.areas import extent
from xreal.training.transplant import SIMULATED, TRANSPLANT, find_opacities, transplant
from xreal.training.transplanted import write_transplanted
from xreal.vocabulary import Finding, Organ

SIZE = 128


def chest(seed: int, *findings: Finding) -> Sample:
    drawn = phantom(seed, SIZE, findings)
    boxes = []
    for finding, mask in drawn.lesion_masks.items():
        x0, y0, x1, y1 = extent(mask)
        boxes.append(Box(finding, x0, y0, x1 - x0, y1 - y0))
    return Sample(
        (255 * drawn.image).round().astype(np.uint8),
        drawn.organ_mask,
        f"{seed}",
        f"p{seed}",
        "phantom",
        findings or (Finding.NO_FINDING,),
        boxes=tuple(boxes),
    )


@pytest.fixture(scope="module")
def donors() -> list[Sample]:
    return [chest(seed, Finding.PNEUMONIA) for seed in range(8)]


@pytest.fixture(scope="module")
def hosts() -> list[Sample]:
    return [chest(seed) for seed in range(20, 28)]


def made_of(donors: list[Sample], hosts: list[Sample]) -> list[tuple[Sample, Sample]]:
    generator = np.random.default_rng(0)
    tried = [(host, transplant(host, one, generator)) for host in hosts for one in find_opacities(donors)]
    return [(host, made) for host, made in tried if made is not None]


def test_the_host_changes_in_the_lesion_and_its_lung_alone(donors: list[Sample], hosts: list[Sample]) -> None:
    made = made_of(donors, hosts)
    assert len(made) >= 8
    for host, sample in made:
        change = sample.image.astype(int) - host.image
        lungs = np.isin(host.organ_mask, (Organ.LEFT_LUNG, Organ.RIGHT_LUNG))
        inside = (sample.lesion_area > 0) & lungs
        assert not change[~inside].any()
        assert 0.05 < change[inside].mean() / 255 < 0.2
        assert np.array_equal(sample.organ_mask, host.organ_mask)
        assert (sample.findings, sample.patient_id) == ((Finding.LUNG_OPACITY,), host.patient_id)
        assert sample.source == TRANSPLANT
        assert sample.image_id.startswith(f"{host.image_id}+")


def test_it_lies_where_it_lay_in_the_donors_lung(donors: list[Sample], hosts: list[Sample]) -> None:
    def middle(sample: Sample, box: Box, lung: Organ) -> np.ndarray:
        x0, y0, x1, y1 = extent((sample.organ_mask == lung).astype(np.float32))
        at = np.array([box.x + box.width / 2 - x0, box.y + box.height / 2 - y0])
        return at / (x1 - x0, y1 - y0)

    generator = np.random.default_rng(0)
    for host in hosts:
        for one in find_opacities(donors):
            if (sample := transplant(host, one, generator)) is not None:
                before, after = (
                    middle(one.sample, one.sample.boxes[0], one.lung),
                    middle(host, sample.boxes[0], one.lung),
                )
                assert np.abs(after - before).max() < 0.17  # a random shift of 0.12, and its box rounded


def test_one_seed_one_result(donors: list[Sample], hosts: list[Sample]) -> None:
    first, second = made_of(donors, hosts), made_of(donors, hosts)
    assert all(np.array_equal(one.image, other.image) for (_, one), (_, other) in zip(first, second, strict=True))


def test_boxes_that_no_lung_holds_are_none(donors: list[Sample]) -> None:
    sample = donors[0]
    assert len(find_opacities([sample])) == 2  # and its mirror image
    assert find_opacities([replace(sample, organ_mask=None)]) == []
    assert find_opacities([replace(sample, boxes=(Box(Finding.MASS, 2, 2, 20, 20),))]) == []  # beside the chest
    assert find_opacities([replace(sample, boxes=(Box(Finding.EDEMA, 2, 2, 120, 120),))]) == []  # all of the chest
    both = replace(sample, boxes=(*sample.boxes, replace(sample.boxes[0], finding=Finding.LUNG_OPACITY)))
    assert len(find_opacities([both])) == 2  # two names of one place


def test_a_mirrored_opacity_lies_in_the_other_lung(donors: list[Sample]) -> None:
    found, mirrored = find_opacities(donors[:1])
    assert {found.lung, mirrored.lung} == {Organ.LEFT_LUNG, Organ.RIGHT_LUNG}
    for one in (found, mirrored):
        assert one.sample.organ_mask is not None
        inside = one.sample.organ_mask[one.sample.lesion_area > 0]
        assert (inside == one.lung).mean() > 0.5
    assert np.array_equal(mirrored.sample.image, found.sample.image[:, ::-1])
    assert np.array_equal(mirrored.sample.lesion_area, found.sample.lesion_area[:, ::-1])


def test_what_does_not_fit_is_refused(donors: list[Sample], hosts: list[Sample]) -> None:
    made = made_of(donors, hosts)[0][0]
    (one, *_) = find_opacities(donors)
    generator = np.random.default_rng(0)
    other_lung = np.where(made.organ_mask == one.lung, 0, made.organ_mask).astype(np.uint8)
    assert transplant(replace(made, organ_mask=other_lung), one, generator) is None
    assert transplant(replace(made, organ_mask=None), one, generator) is None
    assert transplant(chest(20), replace(one, sample=chest(0)), generator) is None  # nothing there: not brighter
    smaller = replace(made, image=made.image[:64, :64], organ_mask=made.organ_mask[:64, :64])
    assert transplant(smaller, one, generator) is None


@pytest.fixture
def prepared(tmp_path: Path, donors: list[Sample], hosts: list[Sample]) -> Path:
    folder = tmp_path / "prepared"
    folder.mkdir()
    write_shard(folder / "train-00000.parquet", [*donors, *hosts])
    write_shard(folder / "val-00000.parquet", hosts[:2])
    return folder


def test_a_set_is_written_and_read_beside_its_own(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xreal.training.transplanted.SHARD_ROWS", 4)
    out = tmp_path / "more"
    summary = write_transplanted([prepared], out, 10)
    assert (summary["images"], summary["hosts"]) == (10, 8)
    assert sorted(path.name for path in out.iterdir()) == [
        "sheet.png",
        "summary.json",
        *(f"train-0000{i}.parquet" for i in range(3)),
    ]
    train = PreparedDataset([prepared, out], "train")
    assert len(train) == 26
    assert train.box_findings[16:] == [(Finding.LUNG_OPACITY,)] * 10
    assert len({train[i].image.tobytes() for i in range(16, 26)}) == 10
    assert len(PreparedDataset([prepared, out], "val")) == 2
    with pytest.raises(DataError, match=r"no val-\*\.parquet in .*more; add a source with that split"):
        PreparedDataset([out], "val")
    with pytest.raises(OutputError, match="holds a prepared data set"):
        write_transplanted([prepared], out, 10)


def test_what_cannot_be_made_is_said(prepared: Path, tmp_path: Path, hosts: list[Sample]) -> None:
    with pytest.raises(InputError, match="0 opacities and 0 simulated findings from seed 0: expected one or more"):
        write_transplanted([prepared], tmp_path / "none", 0)
    healthy = tmp_path / "healthy"
    healthy.mkdir()
    write_shard(healthy / "train-00000.parquet", hosts)
    with pytest.raises(DataError, match="0 boxes in a lung and 8 healthy X-rays with an organ mask"):
        write_transplanted([healthy], tmp_path / "none", 1)


def test_opacities_that_fit_nobody_end_in_an_error(tmp_path: Path, donors: list[Sample], hosts: list[Sample]) -> None:
    folder = tmp_path / "prepared"
    folder.mkdir()
    unseen = [replace(sample, image=chest(seed).image) for seed, sample in enumerate(donors)]
    write_shard(folder / "train-00000.parquet", [*unseen[:2], *hosts[:2]])
    with pytest.raises(DataError, match="none of 100 healthy X-rays in a row takes any of the 4 opacities"):
        write_transplanted([folder], tmp_path / "none", 1)


def test_the_command(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app(
        ["transplant", str(prepared), "--out", str(tmp_path / "more"), "-n", "3", "--simulated", "2"],
        standalone_mode=False,
    )
    said = " ".join(capsys.readouterr().out.split())
    assert "3 X-rays with one of 16 opacities and 2 with a simulated finding, of 8 healthy ones" in said
    assert PreparedDataset([tmp_path / "more"], "train").sources == [TRANSPLANT] * 3 + [SIMULATED] * 2
