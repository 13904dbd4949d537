"""What an adapter says about one X-ray before any pixel is read, and the reading of its tables."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from xreal.data.contract import Box
from xreal.errors import DataError
from xreal.vocabulary import Finding, parse_finding

__all__ = ["Record", "findings_from_labels", "read_table", "split_by_hash"]


@dataclass(frozen=True)
class Record:
    """One X-ray of a source.

    Attributes:
        organ_mask_path: label map that comes with the source, read with ``organ_levels``.
        organ_levels: grey level -> ``Organ`` value of that file.
        boxes: in pixels of the image file.
    """

    image_path: Path
    image_id: str
    split: str
    source: str
    patient_id: str = ""
    findings: tuple[Finding, ...] = ()
    view_position: str = ""
    sex: str = ""
    age: int | None = None
    boxes: tuple[Box, ...] = ()
    organ_mask_path: Path | None = None
    organ_levels: tuple[tuple[int, int], ...] = ()


def read_table(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """Read a CSV file that must have these columns.

    Raises:
        DataError: the file or a column is missing.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing")
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        missing = sorted(set(columns) - set(reader.fieldnames or ()))
        if missing:
            raise DataError(f"{path} has no column {', '.join(missing)}; it has {', '.join(reader.fieldnames or ())}")
        return list(reader)


def findings_from_labels(labels: str) -> tuple[Finding, ...]:
    """Parse labels joined by "|"; an empty string is ``Finding.NO_FINDING``."""
    names = [name for name in labels.split("|") if name.strip()]
    return tuple(parse_finding(name) for name in names) or (Finding.NO_FINDING,)


def split_by_hash(patient_id: str, val_share: float = 0.1) -> str:
    """Assign a patient to "train" or "val", always the same way."""
    digest = int.from_bytes(hashlib.sha256(patient_id.encode()).digest()[:4])
    return "val" if digest < val_share * 2**32 else "train"
