"""VinDr-CXR (Nguyen et al., Scientific Data 2022): 18,000 PA X-rays read by radiologists, with boxes.

Layout, as PhysioNet has it: ``annotations/image_labels_{train,test}.csv`` (image_id, rad_id, 0 or 1 for each of 28
labels; in ``train`` one row for each of three radiologists, in ``test`` their consensus),
``annotations/annotations_{train,test}.csv`` (image_id, rad_id, class_name, x_min, y_min, x_max, y_max; empty where
there is no box), ``{train,test}/<image_id>.dicom``, or ``.png``, ``.jpg``, ``.dcm``. Each image counts as a patient of
its own: the set does not say whose it is. ``train`` is divided 9 : 1 into "train" and "val". Terms: PhysioNet
Credentialed Health Data License.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from xreal.data.contract import Box
from xreal.data.sources.dicom_header import read_header
from xreal.data.sources.record import Listing, Record, find_table, keep_existing, read_table, split_by_hash
from xreal.vocabulary import Finding, find_finding

__all__ = ["records"]

_SUFFIXES = (".dicom", ".dcm", ".png", ".jpg")
_NAMED = {
    "clavicle fracture": Finding.FRACTURE,
    "rib fracture": Finding.FRACTURE,
    "lung cavity": Finding.LUNG_LESION,
    "lung tumor": Finding.LUNG_LESION,
}
_SIDES = ("x", "y", "width", "height")
_SAME_PLACE = 0.4  # intersection over union from which two boxes are one lesion, as in the VinBigData challenge


def records(raw: Path) -> Listing:
    """List the X-rays of both parts.

    A finding that more than half of an image's radiologists saw is affirmed; one that fewer saw is uncertain. Boxes of
    one finding that overlap by at least 0.4 (intersection over union) are one lesion, and their mean is its box.

    Raises:
        DataError: a table is missing, or no picture of it is there.
    """

    def listed() -> Iterator[Record]:
        for part in ("train", "test"):
            labels = find_table(raw, f"annotations/image_labels_{part}.csv", f"image_labels_{part}.csv")
            readings: dict[str, list[set[str]]] = defaultdict(list)
            for row in read_table(labels, ("image_id", "No finding")):
                readings[row["image_id"]].append({name for name, value in row.items() if value in ("1", "1.0")})
            boxes = _boxes(find_table(raw, f"annotations/annotations_{part}.csv", f"annotations_{part}.csv"))
            for name, seen in readings.items():
                yield _record(raw, part, name, seen, boxes.get(name, {}))

    return keep_existing(listed(), Counter())


def _finding(label: str) -> Finding | None:
    return _NAMED.get(label.strip().lower()) or find_finding(label)


def _boxes(table: Path) -> dict[str, dict[Finding, list[Box]]]:
    boxes: dict[str, dict[Finding, list[Box]]] = defaultdict(lambda: defaultdict(list))
    for row in read_table(table, ("image_id", "class_name", "x_min", "y_min", "x_max", "y_max")):
        finding = _finding(row["class_name"])
        if finding is not None and row["x_min"]:
            left, top, right, bottom = (float(row[key]) for key in ("x_min", "y_min", "x_max", "y_max"))
            boxes[row["image_id"]][finding].append(Box(finding, left, top, right - left, bottom - top))
    return boxes


def _record(
    raw: Path, part: str, name: str, seen: Sequence[set[str]], boxes: Mapping[Finding, Sequence[Box]]
) -> Record:
    votes = Counter(finding for labels in seen for finding in {_finding(label) for label in labels} if finding)
    affirmed = [finding for finding in Finding if 2 * votes[finding] > len(seen)]
    if len(affirmed) > 1:
        affirmed = [finding for finding in affirmed if finding is not Finding.NO_FINDING]
    uncertain = [f for f in Finding if 0 < 2 * votes[f] <= len(seen) and f is not Finding.NO_FINDING]
    paths = [raw / part / f"{name}{suffix}" for suffix in _SUFFIXES]
    path = next((path for path in paths if path.is_file()), paths[0])
    header = read_header(path)
    patient = f"vindr-{name}"
    return Record(
        image_path=path,
        image_id=patient,
        patient_id=patient,
        split="test" if part == "test" else split_by_hash(patient),
        source="vindr-cxr",
        findings=tuple(affirmed),
        uncertain=tuple(uncertain),
        other_labels=tuple(sorted({label for labels in seen for label in labels if _finding(label) is None})),
        view_position="PA",
        sex=header.sex,
        age=header.age,
        boxes=tuple(box for finding in (*affirmed, *uncertain) for box in _merged(boxes.get(finding, ()))),
    )


def _overlap(one: Box, other: Box) -> float:
    width = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    height = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / max(one.width * one.height + other.width * other.height - shared, 1e-9)


def _merged(boxes: Sequence[Box]) -> list[Box]:
    """Average boxes that overlap enough with the first of their group."""
    groups: list[list[Box]] = []
    for box in boxes:
        group = next((group for group in groups if _overlap(group[0], box) >= _SAME_PLACE), None)
        if group is None:
            groups.append([box])
        else:
            group.append(box)
    return [
        Box(group[0].finding, *(sum(getattr(box, side) for box in group) / len(group) for side in _SIDES))
        for group in groups
    ]
