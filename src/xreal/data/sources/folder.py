"""Any folder of frontal chest X-rays.

Every picture below the folder is taken. A ``metadata.csv`` may add, per ``image`` (path relative to the folder), the
columns patient_id, split, labels (joined by "|"), view, sex, age; what is missing stays unknown. Without a split,
patients are divided 9 : 1 by a hash of their identifier.
"""

from __future__ import annotations

from pathlib import Path

from xreal.data.sources.record import Record, findings_from_labels, read_table, split_by_hash
from xreal.errors import DataError

__all__ = ["records"]

_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff"}


def records(raw: Path) -> list[Record]:
    """List the pictures.

    Raises:
        DataError: the folder holds none.
    """
    paths = sorted(path for path in raw.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise DataError(f"{raw} holds no picture ({', '.join(sorted(_SUFFIXES))})")
    table = raw / "metadata.csv"
    rows = {row["image"]: row for row in read_table(table, ("image",))} if table.exists() else {}
    listed = []
    for path in paths:
        name = path.relative_to(raw).as_posix()
        row = rows.get(name, {})
        patient_id = row.get("patient_id") or name
        listed.append(
            Record(
                image_path=path,
                image_id=name.rsplit(".", 1)[0].replace("/", "-"),
                patient_id=patient_id,
                split=row.get("split") or split_by_hash(patient_id),
                source="folder",
                findings=findings_from_labels(row["labels"]) if "labels" in row else (),
                view_position=row.get("view", ""),
                sex=row.get("sex", ""),
                age=int(row["age"]) if row.get("age", "").isdigit() else None,
            )
        )
    return listed
