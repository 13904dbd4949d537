"""SIIM-ACR Pneumothorax Segmentation (2019): 12,047 X-rays of ChestX-ray14 with pneumothoraces drawn by radiologists.

Layout: ``train-rle.csv`` (or the second stage's ``stage_2_train.csv``) with ImageId and EncodedPixels, one row per
drawn region, "-1" where there is none; ``dicom-images-train/<study>/<series>/<ImageId>.dcm``. Run lengths go down the
columns of the image, each start counted from the end of the run before. View, sex, age and patient come from the DICOM
headers. No region means no pneumothorax, which is not "No Finding": such X-rays have no findings. There is no split;
patients are divided 9 : 1. Terms: of the challenge, research use; the images are the NIH's.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

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
from xreal.vocabulary import Finding

__all__ = ["records"]


def records(raw: Path) -> Listing:
    """List the X-rays that the table names.

    Raises:
        DataError: the table is missing, or no picture of it is there.
    """
    table = find_table(raw, "train-rle.csv", "stage_2_train.csv")
    regions: dict[str, list[str]] = defaultdict(list)
    for row in read_table(table, ("ImageId", "EncodedPixels")):
        runs = row["EncodedPixels"].strip()
        regions[row["ImageId"]] += [] if runs == "-1" else [runs]
    folders = [folder for folder in sorted(raw.glob("dicom-images-*")) if folder.is_dir()] or [raw]
    pictures = {path.stem: path for folder in folders for path in folder.rglob("*.dcm")}
    left_out: Counter[str] = Counter()

    def listed() -> Iterator[Record]:
        for name, drawn in regions.items():
            path = pictures.get(name, raw / "dicom-images-train" / "*" / "*" / f"{name}.dcm")
            header = read_header(path)
            view = frontal_view(header.view_position)
            if view is None:
                left_out["not frontal"] += 1
                continue
            patient = f"siim-{header.patient_id or name}"
            yield Record(
                image_path=path,
                image_id=f"siim-{name}",
                patient_id=patient,
                split=split_by_hash(patient),
                source="siim-acr",
                findings=(Finding.PNEUMOTHORAX,) if drawn else (),
                view_position=view,
                sex=header.sex,
                age=header.age,
                lesion_runs=tuple((Finding.PNEUMOTHORAX, runs) for runs in drawn),
            )

    return keep_existing(listed(), left_out)
