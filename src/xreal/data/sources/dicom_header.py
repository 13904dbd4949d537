"""What a DICOM header says about the patient and the view."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from xreal.data.sources.record import parse_age, parse_sex
from xreal.dicom import is_dicom, require_dicom

__all__ = ["Header", "holds_dicom", "read_header"]

_TAGS = ("Modality", "PatientID", "PatientSex", "PatientAge", "ViewPosition")
_START = 132  # bytes by which DICOM is known


@dataclass(frozen=True)
class Header:
    """DICOM names; "" and None where the header has nothing."""

    modality: str = ""
    patient_id: str = ""
    sex: str = ""
    age: int | None = None
    view_position: str = ""


def holds_dicom(path: Path) -> bool:
    """Return whether a file's content is DICOM, whatever its name."""
    with path.open("rb") as stream:
        return is_dicom(stream.read(_START))


def read_header(path: Path) -> Header:
    """Read a header without its pixels; empty for a picture, and for a damaged file, which reading its pixels reports.

    Raises:
        InputError: it is a DICOM file, and the extra ``dicom`` is not installed.
    """
    if not path.is_file() or not holds_dicom(path):
        return Header()
    require_dicom()
    import pydicom

    try:
        with warnings.catch_warnings():  # remarks on files of others, which a reader can do nothing about
            warnings.simplefilter("ignore")
            tags = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS), force=True)
            modality, patient_id, sex, age, view = (str(tags.get(name) or "") for name in _TAGS)
    except Exception:  # damaged files raise nearly anything
        return Header()
    return Header(modality, patient_id, parse_sex(sex), parse_age(age), view.strip().upper())
