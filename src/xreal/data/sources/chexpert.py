"""CheXpert (Irvin et al., AAAI 2019): 224,316 X-rays of 65,240 patients, 191,229 of them frontal.

Layout: ``train.csv`` and ``valid.csv`` with Path, Sex, Age, Frontal/Lateral, AP/PA and the CheXpert columns; pictures
``train/patient00001/study1/view1_frontal.jpg``, as in CheXpert-v1.0 and CheXpert-v1.0-small. The batches of the full
download (``CheXpert-v1.0 batch 2 (train 1)/patient…``, ``CheXpert-v1.0 batch 1 (validate & csv)/valid/patient…``) are
found too. ``train`` is labelled from reports, ``valid`` (200 studies, here "val") by three radiologists. Terms:
Stanford University School of Medicine CheXpert Research Use Agreement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from xreal.data.sources.chexpert_labels import COLUMNS, affirmed_and_uncertain
from xreal.data.sources.record import (
    Listing,
    Record,
    find_table,
    frontal_view,
    keep_existing,
    parse_age,
    parse_sex,
    read_table,
)
from xreal.errors import DataError

__all__ = ["records"]

_SPLITS = {"train": "train", "valid": "val"}


def records(raw: Path) -> Listing:
    """List the frontal views of both tables.

    Raises:
        DataError: a table is missing, or a Path is not …/train|valid/patient…/study…/view….
    """
    left_out: Counter[str] = Counter()
    batches = sorted(raw.glob("CheXpert-v1.0 batch *"))

    def picture(split: str, patient: str, study: str, view: str) -> Path:
        usual = raw / split / patient / study / view
        places = (batch / inner / patient / study / view for batch in batches for inner in ("", split))
        return usual if usual.is_file() else next((path for path in places if path.is_file()), usual)

    def listed() -> Iterator[Record]:
        for name in _SPLITS:
            table = find_table(raw, f"{name}.csv", f"{name}.csv.gz", f"CheXpert-v1.0 batch */{name}.csv")
            for row in read_table(table, ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *COLUMNS)):
                parts = PurePosixPath(row["Path"]).parts[-4:]
                if len(parts) < 4 or parts[0] not in _SPLITS:
                    raise DataError(f"{table}: Path {row['Path']!r} is not …/{name}/patient…/study…/view….jpg")
                split, patient, study, view = parts
                if row["Frontal/Lateral"] != "Frontal":
                    left_out["not frontal"] += 1
                    continue
                findings, uncertain = affirmed_and_uncertain(row)
                yield Record(
                    image_path=picture(split, patient, study, view),
                    image_id=f"chexpert-{patient}-{study}-{PurePosixPath(view).stem}",
                    patient_id=f"chexpert-{patient}",
                    split=_SPLITS[split],
                    source="chexpert",
                    findings=findings,
                    uncertain=uncertain,
                    view_position=frontal_view(row["AP/PA"]) or "",
                    sex=parse_sex(row["Sex"]) if row["Sex"] != "Unknown" else "",
                    age=parse_age(row["Age"]),
                    mask_key="/".join(parts),
                )

    return keep_existing(listed(), left_out)
