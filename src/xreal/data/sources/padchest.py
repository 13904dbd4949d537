"""PadChest (Bustos et al., Medical Image Analysis 2020): 160,868 X-rays of 67,625 patients, 174 labels.

Layout: ``PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv[.gz]`` with ImageID, ImageDir, StudyDate_DICOM,
PatientID, PatientBirth, PatientSex_DICOM, Projection (PA, AP, AP_horizontal, L, COSTAL, EXCLUDE),
PhotometricInterpretation_DICOM and Labels (a Python list of strings); 16-bit pictures ``<ImageDir>/<ImageID>``, or all
in one folder. Reports are not read. There is no split; patients are divided 9 : 1. Terms: PadChest Dataset Research Use
Agreement (BIMCV).
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from xreal.data.sources.record import (
    Listing,
    Record,
    find_table,
    frontal_view,
    keep_existing,
    parse_age,
    parse_sex,
    read_table,
    split_by_hash,
)
from xreal.errors import DataError
from xreal.vocabulary import Finding, find_finding

__all__ = ["records"]

_COLUMNS = (
    "ImageID",
    "ImageDir",
    "StudyDate_DICOM",
    "PatientID",
    "PatientBirth",
    "PatientSex_DICOM",
    "Projection",
    "PhotometricInterpretation_DICOM",
    "Labels",
)
# Labels that are kinds of a finding; names that mean a finding anywhere are aliases in the vocabulary. Not here, since
# no finding says as much: interstitial pattern, granuloma, costophrenic angle blunting, COPD signs, …
_KINDS = {
    Finding.ATELECTASIS: (
        "laminar atelectasis", "lobar atelectasis", "segmental atelectasis", "round atelectasis",
        "total atelectasis", "atelectasis basal",
    ),
    Finding.ENLARGED_CARDIOMEDIASTINUM: ("mediastinal enlargement", "superior mediastinal enlargement"),
    Finding.FRACTURE: (
        "rib fracture", "callus rib fracture", "clavicle fracture", "vertebral fracture", "humeral fracture",
    ),
    Finding.HERNIA: ("hiatal hernia",),
    Finding.LUNG_OPACITY: ("alveolar pattern", "ground glass pattern", "increased density"),
    Finding.MASS: ("pulmonary mass",),
    Finding.NODULE: ("multiple nodules",),
    Finding.PLEURAL_EFFUSION: ("loculated pleural effusion", "loculated fissural effusion", "hydropneumothorax"),
    Finding.PLEURAL_OTHER: ("pleural plaques", "calcified pleural plaques", "pleural mass", "empyema"),
    Finding.PLEURAL_THICKENING: ("apical pleural thickening", "calcified pleural thickening"),
    Finding.PNEUMONIA: ("atypical pneumonia",),
    Finding.PNEUMOTHORAX: ("hydropneumothorax",),
    Finding.SUPPORT_DEVICES: (
        "pacemaker", "dai", "single chamber device", "dual chamber device", "electrical device", "catheter",
        "central venous catheter", "central venous catheter via jugular vein",
        "central venous catheter via subclavian vein", "central venous catheter via umbilical vein",
        "reservoir central venous catheter", "endotracheal tube", "tracheostomy tube", "nsg tube", "chest drain tube",
        "ventriculoperitoneal drain tube", "gastrostomy tube", "nephrostomy tube", "double j stent",
        "artificial heart valve", "artificial mitral heart valve", "artificial aortic heart valve", "endoprosthesis",
        "aortic endoprosthesis",
    ),
}  # fmt: skip
_UNUSABLE = {"exclude", "suboptimal study"}
_RELATIVE = {"unchanged"}  # says nothing without the study before


def records(raw: Path) -> Listing:
    """List the PA and AP views (AP_horizontal is AP, the patient lying) whose label says what is there.

    Raises:
        DataError: the table is missing, or a row's Labels are no list.
    """
    table = find_table(raw, "PADCHEST_*.csv", "PADCHEST_*.csv.gz")
    left_out: Counter[str] = Counter()

    def listed() -> Iterator[Record]:
        for row in read_table(table, _COLUMNS):
            view = frontal_view(row["Projection"].replace("AP_horizontal", "AP"))
            labels = _labels(row["Labels"], row["ImageID"])
            if not view:
                left_out["not frontal"] += 1
            elif set(labels) & _UNUSABLE:
                left_out["unusable, says the label"] += 1
            elif not labels or set(labels) & _RELATIVE:
                left_out["without a label of its own"] += 1
            else:
                yield _record(raw, row, labels, view)

    return keep_existing(listed(), left_out)


def _labels(text: str, image: str) -> list[str]:
    if not text or text == "nan":
        return []
    try:
        return [label.strip().lower() for label in ast.literal_eval(text) if str(label).strip()]
    except (ValueError, SyntaxError, AttributeError, TypeError) as error:
        raise DataError(f"Labels of {image} are {text!r}; expected a list such as ['pleural effusion']") from error


def _record(raw: Path, row: dict[str, str], labels: list[str], view: str) -> Record:
    named = {label: _findings(label) for label in labels}
    findings = {finding for names in named.values() for finding in names}
    if len(named) > 1:
        findings.discard(Finding.NO_FINDING)
    in_folder, flat = raw / row["ImageDir"] / row["ImageID"], raw / row["ImageID"]
    studied, born = (_year(row[name]) for name in ("StudyDate_DICOM", "PatientBirth"))
    patient = f"padchest-{row['PatientID']}"
    return Record(
        image_path=flat if not in_folder.is_file() and flat.is_file() else in_folder,
        image_id=f"padchest-{Path(row['ImageID']).stem}",
        patient_id=patient,
        split=split_by_hash(patient),
        source="padchest",
        findings=tuple(finding for finding in Finding if finding in findings),
        other_labels=tuple(label for label, names in named.items() if not names),
        view_position=view,
        sex=parse_sex(row["PatientSex_DICOM"]),
        age=parse_age(str(studied - born)) if studied and born else None,
        monochrome1=row["PhotometricInterpretation_DICOM"] == "MONOCHROME1",
    )


def _year(text: str) -> int:
    return int(text[:4]) if text[:4].isdecimal() else 0


def _findings(label: str) -> set[Finding]:
    kinds = {finding for finding, names in _KINDS.items() if label in names}
    finding = find_finding(label)
    return kinds if finding is None else kinds | {finding}
