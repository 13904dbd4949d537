"""An edited DICOM X-ray: its source's study, a new series, and stored values that differ only where it changed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileDataset

from xreal.control.editing import from_square
from xreal.data.phantom import Phantom

XRay = Callable[..., FileDataset]


def test_an_edited_file_stays_in_its_study_and_keeps_all_other_stored_values(
    run: Callable[..., int], xray: XRay, tmp_path: Path, tiny_model_folder: Path, phantoms: list[Phantom]
) -> None:
    stored = np.rint(from_square(phantoms[3].image, 150, 120) * 4095).astype(np.uint16)
    source = xray(4095 - stored, 12, "MONOCHROME1", WindowCenter=2048, WindowWidth=4096)
    source.save_as(tmp_path / "chest.dcm", enforce_file_format=True)
    asked = ("--remove", "box:20,60,60,100", "--model", tiny_model_folder, "--steps", 3)
    for out in ("a", "b"):
        assert run("edit", tmp_path / "chest.dcm", *asked, "--out", tmp_path / out) == 0
    edited, again = (pydicom.dcmread(tmp_path / out / "0000.dcm") for out in ("a", "b"))
    assert edited.StudyInstanceUID == source.StudyInstanceUID
    assert edited.SeriesInstanceUID != source.SeriesInstanceUID
    assert edited.SOPInstanceUID == again.SOPInstanceUID != source.SOPInstanceUID
    assert edited.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert (edited[0x0008, 0x001C].value, edited.ImageType[0]) == ("YES", "DERIVED")
    assert str(tmp_path) not in edited.ImageComments
    changed = edited.pixel_array != source.pixel_array
    assert changed[60:100, 20:60].any()
    assert not changed[:30].any()
    assert not changed[:, 90:].any()
