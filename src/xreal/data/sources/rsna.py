"""RSNA Pneumonia Detection Challenge (Shih et al., 2019): 26,684 X-rays of ChestX-ray14 with boxes around opacities.

Layout: ``stage_2_train_labels.csv`` (patientId, x, y, width, height, Target; one row per box),
``stage_2_detailed_class_info.csv`` (patientId, class: Normal, Lung Opacity, No Lung Opacity / Not Normal),
``stage_2_train_images/<patientId>.dcm``. View, sex and age come from the DICOM headers. A "patientId" is an image: with
RSNA's table of origins (``pneumonia-challenge-dataset-mappings_2018.json``: subset_img_id, img_id of ChestX-ray14) in
the folder, images of one patient are known as such; without it each counts as a patient of its own. There is no split;
patients are divided 9 : 1. Terms: of the challenge, research use; the images are the NIH's.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from xreal.data.contract import Box
from xreal.data.sources.dicom_header import read_header
from xreal.data.sources.record import (
    Listing,
    Record,
    find_table,
    frontal_view,
    keep_existing,
    read_table,
    split_by_hash,
)
from xreal.errors import DataError
from xreal.vocabulary import Finding

__all__ = ["records"]

_OPACITY = (Finding.LUNG_OPACITY, Finding.PNEUMONIA)  # a box: an opacity that radiologists took for pneumonia

# "Not Normal" is something else than an opacity, nobody says what: no finding can be named, and not "No Finding".
_CLASSES: dict[str, tuple[Finding, ...]] = {
    "Normal": (Finding.NO_FINDING,),
    "Lung Opacity": _OPACITY,
    "No Lung Opacity / Not Normal": (),
}
_SUFFIXES = (".dcm", ".png", ".jpg")


def records(raw: Path) -> Listing:
    """List the X-rays of the training images; those of the test have no labels.

    Raises:
        DataError: a table is missing, names another class, or no picture of it is there.
    """
    places: dict[str, list[Box]] = defaultdict(list)
    for row in read_table(
        find_table(raw, "stage_2_train_labels.csv"), ("patientId", "x", "y", "width", "height", "Target")
    ):
        if row["Target"] == "1":
            place = {key: float(row[key]) for key in ("x", "y", "width", "height")}
            places[row["patientId"]] += [Box(finding, **place) for finding in _OPACITY]
    info = find_table(raw, "stage_2_detailed_class_info.csv")
    classes = {row["patientId"]: row["class"] for row in read_table(info, ("patientId", "class"))}
    if unknown := set(classes.values()) - set(_CLASSES):
        raise DataError(f"{info} names the class {sorted(unknown)[0]!r}; expected one of {', '.join(_CLASSES)}")
    patients = _patients(raw)
    left_out: Counter[str] = Counter()

    def listed() -> Iterator[Record]:
        for name, label in classes.items():
            paths = [raw / "stage_2_train_images" / f"{name}{suffix}" for suffix in _SUFFIXES]
            path = next((path for path in paths if path.is_file()), paths[0])
            header = read_header(path)
            view = frontal_view(header.view_position)
            if view is None:
                left_out["not frontal"] += 1
                continue
            patient = patients.get(name, f"rsna-{name}")
            yield Record(
                image_path=path,
                image_id=f"rsna-{name}",
                patient_id=patient,
                split=split_by_hash(patient),
                source="rsna",
                findings=_CLASSES[label],
                view_position=view,
                sex=header.sex,
                age=header.age,
                boxes=tuple(places[name]),
            )

    return keep_existing(listed(), left_out)


def _patients(raw: Path) -> dict[str, str]:
    tables = sorted(raw.glob("pneumonia-challenge-dataset-mappings*.json"))
    if not tables:
        return {}
    try:
        rows = json.loads(tables[0].read_text(encoding="utf-8"))
        return {row["subset_img_id"]: f"nih-{int(row['img_id'].split('_')[0])}" for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{tables[0]} is not a list of subset_img_id and img_id ({error!r}); copy it again") from error
