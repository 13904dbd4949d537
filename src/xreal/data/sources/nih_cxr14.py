"""NIH ChestX-ray14 (Wang et al., CVPR 2017): selections of its frontal X-rays with one table.

Layout: ``images/*``, ``metadata.csv`` with columns image, split, labels (joined by "|", empty = no finding) and, where
known, patient_id, view, sex, age; ``boxes.csv`` (optional) with image, label, x, y, width, height in pixels of the
image file, and source: the NIH box list and the RSNA 2018 pneumonia annotations ("RSNA"). Labels were mined from
reports; about 10% of them are wrong. Terms: use unrestricted, acknowledge the NIH Clinical Center.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from xreal.data.contract import Box
from xreal.data.sources.record import Record, findings_from_labels, read_table
from xreal.vocabulary import Finding, parse_finding

__all__ = ["records"]

# Findings that a radiologist may have boxed as an opacity; where the image's label names one, its boxes show it.
_OPACITIES = (
    Finding.ATELECTASIS,
    Finding.CONSOLIDATION,
    Finding.EDEMA,
    Finding.INFILTRATION,
    Finding.PLEURAL_EFFUSION,
)


def records(raw: Path) -> list[Record]:
    """List the X-rays of one selection."""
    table = read_table(raw / "metadata.csv", ("image", "split", "labels"))
    findings = {row["image"]: findings_from_labels(row["labels"]) for row in table}
    boxes: dict[str, list[Box]] = defaultdict(list)
    if (raw / "boxes.csv").exists():
        for row in read_table(raw / "boxes.csv", ("image", "label", "x", "y", "width", "height")):
            place = {key: float(row[key]) for key in ("x", "y", "width", "height")}
            names = [parse_finding(row["label"])]
            if row.get("source") == "RSNA":  # opacities that radiologists took for pneumonia
                labels = findings.get(row["image"], ())
                names += [Finding.PNEUMONIA, *(name for name in _OPACITIES if name in labels)]
            boxes[row["image"]] += [Box(name, **place) for name in names]
    return [
        Record(
            image_path=raw / "images" / row["image"],
            image_id=f"nih-{Path(row['image']).stem}",
            patient_id=f"nih-{row.get('patient_id') or Path(row['image']).stem}",
            split=row["split"],
            source="nih-cxr14",
            findings=findings[row["image"]],
            view_position=row.get("view", ""),
            sex=row.get("sex", ""),
            age=int(row["age"]) if row.get("age", "").isdigit() else None,
            boxes=tuple(boxes[row["image"]]),
        )
        for row in table
    ]
