"""NIH ChestX-ray14 (Wang et al., CVPR 2017): 112,120 frontal X-rays of 30,805 patients, or a selection of them.

The whole set, as the NIH has it: ``Data_Entry_2017.csv`` or ``Data_Entry_2017_v2020.csv`` (Image Index, Finding Labels
joined by "|", Patient ID, Patient Age, Patient Gender, View Position, …), ``train_val_list.txt`` and ``test_list.txt``,
``images_001/images/*.png`` to ``images_012`` (or ``images/``), and, where there, ``BBox_List_2017.csv`` (Image Index,
Finding Label, and x, y, w, h below the header "Bbox [x,y,w,h],,,"). The NIH's test list is "test"; the other patients
are divided 9 : 1.

A selection: ``images/*``, ``metadata.csv`` with columns image, split, labels (joined by "|", empty = no finding) and,
where known, patient_id, view, sex, age; ``boxes.csv`` (optional) with image, label, x, y, width, height in pixels of
the image file, and source: the NIH box list and the RSNA 2018 pneumonia annotations ("RSNA").

Labels were mined from reports; about 10% of them are wrong. Terms: use unrestricted, acknowledge the NIH Clinical
Center.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from xreal.data.contract import Box
from xreal.data.sources.record import (
    Listing,
    Record,
    find_table,
    findings_from_labels,
    frontal_view,
    keep_existing,
    parse_age,
    parse_sex,
    read_table,
    split_by_hash,
)
from xreal.errors import DataError
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
_ENTRIES = "Data_Entry_2017*.csv"


def records(raw: Path) -> Listing:
    """List the X-rays of the whole set, or of a selection.

    Raises:
        DataError: a table or every picture is missing, or an image is in no list or in both.
    """
    return _whole(raw) if any(raw.glob(_ENTRIES)) else Listing(_selection(raw))


def _whole(raw: Path) -> Listing:
    train, test = (
        set(find_table(raw, name).read_text(encoding="utf-8").split())
        for name in ("train_val_list.txt", "test_list.txt")
    )
    if both := train & test:
        raise DataError(f"{sorted(both)[0]} is in both train_val_list.txt and test_list.txt; copy the lists again")
    boxes = _box_list(raw / "BBox_List_2017.csv")
    pictures = {path.name: path for folder in sorted(raw.glob("images*")) for path in sorted(folder.rglob("*.png"))}
    left_out: Counter[str] = Counter()

    def listed() -> Iterator[Record]:
        for row in read_table(
            find_table(raw, _ENTRIES), ("Image Index", "Finding Labels", "Patient ID", "Patient Age")
        ):
            name, patient = row["Image Index"], f"nih-{int(row['Patient ID'])}"
            if name not in train and name not in test:
                left_out["in no list of the split"] += 1
                continue
            yield Record(
                image_path=pictures.get(name, raw / "images" / name),
                image_id=f"nih-{Path(name).stem}",
                patient_id=patient,
                split="test" if name in test else split_by_hash(patient),
                source="nih-cxr14",
                findings=findings_from_labels(row["Finding Labels"]),
                view_position=frontal_view(row.get("View Position", "")) or "",
                sex=parse_sex(row.get("Patient Gender") or row.get("Patient Sex", "")),
                age=parse_age(row["Patient Age"]),
                boxes=tuple(boxes.get(name, ())),
            )

    return keep_existing(listed(), left_out)


def _box_list(table: Path) -> dict[str, list[Box]]:
    """Read the NIH's list by position: its header splits "Bbox [x,y,w,h]" over four columns and adds empty ones."""
    boxes: dict[str, list[Box]] = defaultdict(list)
    if table.exists():
        with table.open(newline="", encoding="utf-8-sig") as stream:
            for number, row in enumerate(csv.reader(stream), start=1):
                if number == 1 or not row:
                    continue
                try:
                    name, label, *place = row[:6]
                    boxes[name].append(Box(parse_finding(label), *map(float, place)))
                except (ValueError, TypeError) as error:
                    raise DataError(f"{table}, line {number}: {error}; expected image, finding, x, y, w, h") from error
    return boxes


def _selection(raw: Path) -> list[Record]:
    if not (raw / "metadata.csv").exists():
        raise DataError(
            f"{raw} holds neither Data_Entry_2017.csv (the whole set as NIH gives it) nor metadata.csv (a selection)"
        )
    table = list(read_table(raw / "metadata.csv", ("image", "split", "labels")))
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
