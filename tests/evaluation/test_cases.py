"""What counts as a picture of a folder."""

from pathlib import Path

import pytest

from xreal.errors import DataError
from xreal.evaluation.cases import picture_paths


def test_pictures_are_told_from_what_stands_beside_them(tmp_path: Path) -> None:
    names = ("b.png", "b.dcm", "b-seg.dcm", "b-healthy.png", "b-organs.png", "b.json", "a.DCM", "sheet.png", "c.tif")
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in picture_paths(tmp_path)] == ["a.DCM", "b.png", "c.tif"]


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match="holds no PNG, JPEG, TIFF or DICOM picture"):
        picture_paths(tmp_path)
    with pytest.raises(DataError, match="is no folder"):
        picture_paths(tmp_path / "none")
