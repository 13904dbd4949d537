"""Any folder of chest X-rays: PNG, JPEG, TIFF or DICOM files, the last also without a suffix.

A ``metadata.csv`` may add, per ``image`` (path relative to the folder), the columns patient_id, split, labels (joined
by "|", empty = no finding), uncertain (likewise), view, sex, age. What it leaves open comes from the DICOM header
(Patient ID, View Position, Patient's Sex and Age), or stays unknown. Views that are known not to be PA or AP are left
out. Without a split, patients are divided 9 : 1 by a hash of their identifier; a picture without a patient counts as
one of its own.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from difflib import get_close_matches
from pathlib import Path

from xreal.data.sources.dicom_header import Header, holds_dicom, read_header
from xreal.data.sources.record import (
    Listing,
    Record,
    findings_from_labels,
    frontal_view,
    parse_age,
    parse_sex,
    read_table,
    split_by_hash,
)
from xreal.errors import DataError

__all__ = ["records"]

_PICTURES = {".png", ".jpg", ".jpeg", ".tif", ".tiff"}
_DICOM = {".dcm", ".dicom"}
_COLUMNS = frozenset({"image", "patient_id", "split", "labels", "uncertain", "view", "sex", "age"})
_OTHER_NAMES = {"finding": "labels", "findings": "labels", "gender": "sex", "patient": "patient_id"}
_LIKE = 0.8  # as difflib compares words
_RADIOGRAPHS = {"", "CR", "DX", "RG"}  # DICOM modalities; "" where the header does not say, and for pictures


def records(raw: Path) -> Listing:
    """List the X-rays.

    Raises:
        DataError: the folder holds none, or the table a column that seems to be misspelt.
    """
    paths = [path for path in sorted(raw.rglob("*")) if _is_picture(path)]
    if not paths:
        raise DataError(f"{raw} holds no picture ({', '.join(sorted(_PICTURES))}) and no DICOM file")
    rows = _table(raw / "metadata.csv")
    listed, left_out = [], Counter[str]()
    for path in paths:
        name = path.relative_to(raw).as_posix()
        row = rows.pop(name, {})
        known = path.suffix.lower() in _PICTURES | _DICOM
        header = Header() if path.suffix.lower() in _PICTURES else read_header(path)
        view = frontal_view(row.get("view") or header.view_position)
        if header.modality not in _RADIOGRAPHS or view is None:
            left_out["not frontal" if view is None else f"modality {header.modality}"] += 1
            continue
        patient_id = row.get("patient_id") or _pseudonym(header.patient_id) or name
        findings = findings_from_labels(row["labels"]) if "labels" in row else ()
        uncertain = findings_from_labels(row["uncertain"]) if row.get("uncertain") else ()
        listed.append(
            Record(
                image_path=path,
                image_id=(name.removesuffix(path.suffix) if known else name).replace("/", "-"),
                patient_id=patient_id,
                split=row.get("split") or split_by_hash(patient_id),
                source="folder",
                findings=findings,
                uncertain=tuple(finding for finding in uncertain if finding not in findings),
                view_position=view,
                sex=parse_sex(row.get("sex") or header.sex),
                age=header.age if not row.get("age") else parse_age(row["age"]),
            )
        )
    if rows:
        left_out["file not there"] = len(rows)
    return Listing(listed, left_out)


def _table(path: Path) -> dict[str, dict[str, str]]:
    """Read the table, if there is one, by image; refuse a column that looks like a misspelt one of ours."""
    if not path.exists():
        return {}
    rows = list(read_table(path, ("image",)))
    columns = set(rows[0]) if rows else set()
    for column in sorted(columns - set(_COLUMNS)):
        near = get_close_matches(column.lower(), _COLUMNS.difference(columns), 1, _LIKE)
        if near or column.lower() in _OTHER_NAMES:
            meant = near[0] if near else _OTHER_NAMES[column.lower()]
            raise DataError(f"{path} has a column {column!r}; call it {meant!r} if it is that, or leave it out")
    return {row["image"]: row for row in rows}


def _pseudonym(patient_id: str) -> str:
    """Stand in for a hospital's Patient ID, which has no place in a data set; the same for the same patient."""
    return hashlib.sha256(patient_id.encode()).hexdigest()[:16] if patient_id else ""


def _is_picture(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix in _PICTURES | _DICOM:
        return path.is_file()
    unnamed = suffix == "" or suffix[1:].isdigit()  # a UID ends in a dot and a number
    return unnamed and path.is_file() and holds_dicom(path)
