"""MIMIC-CXR-JPG 2.x (Johnson et al., 2019): 377,110 X-rays of 65,379 patients, 243,324 of them PA or AP.

Layout, as PhysioNet has it, tables gzipped or not:
``mimic-cxr-2.0.0-metadata.csv`` (dicom_id, subject_id, study_id, ViewPosition, …), ``mimic-cxr-2.0.0-split.csv``
(dicom_id, study_id, subject_id, split: train, validate, test), ``mimic-cxr-2.0.0-chexpert.csv`` (subject_id, study_id
and the CheXpert columns), ``files/p10/p10000032/s50414267/<dicom_id>.jpg``. Reports are not read. Sex and age are not
in these tables. Terms: PhysioNet Credentialed Health Data License; nothing derived may name or identify a patient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from xreal.data.sources.chexpert_labels import COLUMNS, affirmed_and_uncertain
from xreal.data.sources.record import Listing, Record, find_table, frontal_view, keep_existing, read_table
from xreal.errors import DataError

__all__ = ["records"]

_SPLITS = {"train": "train", "validate": "val", "test": "test"}


def records(raw: Path) -> Listing:
    """List the PA and AP views that have a split; a study without a CheXpert row has no findings.

    Raises:
        DataError: a table is missing, or names a split that is none.
    """
    metadata, split, chexpert = (
        find_table(raw, f"mimic-cxr-2.*-{name}.csv", f"mimic-cxr-2.*-{name}.csv.gz")
        for name in ("metadata", "split", "chexpert")
    )
    splits = {row["dicom_id"]: row["split"] for row in read_table(split, ("dicom_id", "split"))}
    if unknown := set(splits.values()) - set(_SPLITS):
        raise DataError(f"{split} names the split {sorted(unknown)[0]!r}; expected one of {', '.join(_SPLITS)}")
    labels = {
        (row["subject_id"], row["study_id"]): affirmed_and_uncertain(row)
        for row in read_table(chexpert, ("subject_id", "study_id", *COLUMNS))
    }
    left_out: Counter[str] = Counter()

    def listed() -> Iterator[Record]:
        for row in read_table(metadata, ("dicom_id", "subject_id", "study_id", "ViewPosition")):
            name, subject, study = row["dicom_id"], row["subject_id"], row["study_id"]
            view = frontal_view(row["ViewPosition"])
            if not view:
                left_out["view unknown" if view == "" else "not frontal"] += 1
            elif name not in splits:
                left_out["without a split"] += 1
            else:
                findings, uncertain = labels.get((subject, study), ((), ()))
                yield Record(
                    image_path=raw / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}" / f"{name}.jpg",
                    image_id=f"mimic-{name}",
                    patient_id=f"mimic-{subject}",
                    split=_SPLITS[splits[name]],
                    source="mimic-cxr-jpg",
                    findings=findings,
                    uncertain=uncertain,
                    view_position=view,
                )

    return keep_existing(listed(), left_out)
