"""From the command line: what is drawn as DICOM is what is drawn as PNG, and can be used again."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

import xreal.dicom.dataset
from xreal.dicom import read_dicom
from xreal.images import read_image
from xreal.masks import read_organ_mask, write_organ_mask

Run = Callable[..., int]
NAMES = ("0000", "0000-healthy", "0000-seg")


@pytest.fixture
def drawn(run: Run, organ_mask: np.ndarray, tiny_model_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function folder's name, options -> the folder with a drawn image."""

    def draw(name: str, *options: object) -> Path:
        mask = tmp_path / f"organs of {name}.png"
        write_organ_mask(mask, organ_mask)
        fixed = ("--model", tiny_model_folder, "--organs", mask, "--steps", 2, "--out", tmp_path / name, "--dicom")
        assert run("generate", *fixed, *options) == 0
        return tmp_path / name

    return draw


def test_images_and_masks_are_one_study_and_the_same_when_drawn_again(
    drawn: Callable[..., Path], organ_mask: np.ndarray
) -> None:
    lesion = ("--lesion", "Pneumonia=box:8,24,24,40")
    first, again, other = (
        drawn(name, *lesion, *more) for name, more in zip("abc", ((), (), ("--seed", 1)), strict=True)
    )
    for name in NAMES[:2]:
        shown = read_dicom(first / f"{name}.dcm")
        np.testing.assert_allclose(shown, read_image(first / f"{name}.png"), rtol=0, atol=0.501 / 255 + 0.501 / 4095)
    np.testing.assert_array_equal(read_organ_mask(first / "0000-seg.dcm"), organ_mask)
    sets = {name: pydicom.dcmread(first / f"{name}.dcm") for name in NAMES}
    assert len({dataset.StudyInstanceUID for dataset in sets.values()}) == 1
    assert len({dataset.SeriesInstanceUID for dataset in sets.values()}) == 3
    referred = sets["0000-seg"].ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]
    assert referred.ReferencedSOPInstanceUID == sets["0000"].SOPInstanceUID
    assert sets["0000-seg"].SegmentSequence[-1].SegmentLabel == "Pneumonia"
    for name in NAMES:
        assert pydicom.dcmread(again / f"{name}.dcm").SOPInstanceUID == sets[name].SOPInstanceUID
        assert pydicom.dcmread(other / f"{name}.dcm").StudyInstanceUID != sets[name].StudyInstanceUID


def test_what_was_written_can_be_segmented_and_drawn_from(
    drawn: Callable[..., Path], run: Run, tiny_model_folder: Path, organ_mask: np.ndarray, tmp_path: Path
) -> None:
    folder = drawn("a")
    assert not (folder / "0000-healthy.dcm").exists()
    assert run("segment", folder / "0000.dcm", "--out", tmp_path / "found.npy", "--model", tiny_model_folder) == 0
    assert np.load(tmp_path / "found.npy").shape == organ_mask.shape
    again = drawn("b", "--organs", folder / "0000-seg.dcm")  # the later option counts
    for name in ("0000.dcm", "0000-seg.dcm"):
        assert pydicom.dcmread(again / name).SOPInstanceUID == pydicom.dcmread(folder / name).SOPInstanceUID


def test_without_the_extra_nothing_is_drawn(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(xreal.dicom.dataset, "find_spec", lambda name: None)
    assert run("generate", "--dicom", "--out", tmp_path / "out") == 2
    assert 'pip install "xreal-cxr[dicom]"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_dicom_files_is_segmented(
    run: Run, drawn: Callable[..., Path], tiny_model_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "chests"
    folder.mkdir()
    (drawn("one") / "0000.dcm").rename(folder / "chest.DCM")
    assert run("segment", folder, "--out", tmp_path / "masks", "--model", tiny_model_folder) == 0
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["chest.png"]
