"""What an adapter says about one X-ray before any pixel is read, and the words and tables that adapters share."""

from __future__ import annotations

import csv
import gzip
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from xreal.data.contract import Box
from xreal.errors import DataError
from xreal.vocabulary import Finding, parse_finding

__all__ = [
    "Listing",
    "Record",
    "find_table",
    "findings_from_labels",
    "frontal_view",
    "keep_existing",
    "parse_age",
    "parse_sex",
    "read_table",
    "split_by_hash",
]

_OLDEST = 120  # years; ChestX-ray14 has ages such as 414


@dataclass(frozen=True)
class Record:
    """One frontal X-ray of a source.

    Attributes:
        image_path: PNG, JPEG, TIFF or DICOM.
        image_id: unique in the source.
        patient_id: all X-rays of one patient have the same; "" where it is unknown.
        uncertain: findings that the label neither affirms nor denies; none of them is in ``findings``.
        other_labels: what else the source says, in its own words, for which there is no ``Finding``.
        boxes: in pixels of the image file; those of an uncertain finding too.
        lesion_runs: finding and relative, column-major run lengths of one drawn lesion, on the grid of the image file.
        organ_mask_path: label map that comes with the source, read with ``organ_levels``.
        organ_levels: grey level -> ``Organ`` value of that file.
        mask_key: the image's name in a CheXmask table; "" for the name of its file.
        organ_row: CheXmask table and the byte at which this image's row starts.
        monochrome1: the picture was made from a DICOM file whose air is white, and may still be that way.
    """

    image_path: Path
    image_id: str
    split: str
    source: str
    patient_id: str = ""
    findings: tuple[Finding, ...] = ()
    uncertain: tuple[Finding, ...] = ()
    other_labels: tuple[str, ...] = ()
    view_position: str = ""
    sex: str = ""
    age: int | None = None
    boxes: tuple[Box, ...] = ()
    lesion_runs: tuple[tuple[Finding, str], ...] = ()
    organ_mask_path: Path | None = None
    organ_levels: tuple[tuple[int, int], ...] = ()
    mask_key: str = ""
    organ_row: tuple[Path, int] | None = None
    monochrome1: bool = False


@dataclass(frozen=True)
class Listing:
    """The frontal X-rays of a source, and how many others its tables name, by the reason for leaving them out."""

    records: list[Record]
    left_out: Mapping[str, int] = field(default_factory=dict)


def read_table(path: Path, columns: Iterable[str]) -> Iterator[dict[str, str]]:
    """Read a CSV file, gzipped or not, that must have these columns, row by row; names of columns are stripped.

    Raises:
        DataError: the file or a column is missing, or it is no such file.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing")
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            names = reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            if missing := sorted(set(columns) - set(names)):
                raise DataError(f"{path} has no column {', '.join(missing)}; it has {', '.join(names)}")
            for row in reader:
                yield {name: value or "" for name, value in row.items() if name is not None}
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a CSV file ({error}); copy it again") from error


def find_table(raw: Path, *patterns: str) -> Path:
    """Return the first file below ``raw`` that matches a pattern, the earlier patterns first.

    Raises:
        DataError: there is none.
    """
    for pattern in patterns:
        if found := sorted(raw.glob(pattern)):
            return found[0]
    raise DataError(f"{raw} holds no {' or '.join(patterns)}; give the folder that the data set was unpacked into")


def keep_existing(listed: Iterable[Record], left_out: Counter[str]) -> Listing:
    """Leave out, and count, the X-rays whose file is not there: part of a large data set is a data set.

    Raises:
        DataError: no file is there.
    """
    records: list[Record] = []
    missing: list[Record] = []
    for record in listed:
        (records if record.image_path.is_file() else missing).append(record)
    if missing and not records:
        raise DataError(f"none of {len(missing)} pictures is there; the first was expected at {missing[0].image_path}")
    if missing:
        left_out["file not there"] = len(missing)
    return Listing(records, left_out)


def findings_from_labels(labels: str) -> tuple[Finding, ...]:
    """Parse labels joined by "|"; an empty string is ``Finding.NO_FINDING``."""
    names = [name for name in labels.split("|") if name.strip()]
    return tuple(parse_finding(name) for name in names) or (Finding.NO_FINDING,)


def frontal_view(view: str) -> str | None:
    """Return "PA" or "AP", "" for an unknown view, None for one that is not frontal."""
    view = view.strip().upper()
    return view if view in ("PA", "AP", "") else None


def parse_age(text: str) -> int | None:
    """Return whole years from "58", "58.0" or DICOM's "058Y", "034M", "012W", "010D"; None if it says nothing."""
    match = re.fullmatch(r"\s*(\d+)(?:\.\d*)?\s*([YMWD]?)\s*", text.upper())
    if match is None:
        return None
    years = int(match[1]) // {"": 1, "Y": 1, "M": 12, "W": 52, "D": 365}[match[2]]
    return years if years <= _OLDEST else None


def parse_sex(text: str) -> str:
    """Return "M" or "F" from such words as "Male", "f"; "" for anything else."""
    letter = text.strip()[:1].upper()
    return letter if letter in ("M", "F") else ""


def split_by_hash(patient_id: str, val_share: float = 0.1) -> str:
    """Assign a patient to "train" or "val", always the same way."""
    digest = int.from_bytes(hashlib.sha256(patient_id.encode()).digest()[:4])
    return "val" if digest < val_share * 2**32 else "train"
