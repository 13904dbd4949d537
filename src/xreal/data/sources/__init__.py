"""Data-set adapters: each lists the frontal X-rays of one source in its own layout as ``Record``s.

| name | what | beside image and labels |
|---|---|---|
| ``jsrt`` | JSRT film radiographs with the SCR expert masks | lungs, heart |
| ``nih-cxr14`` | NIH ChestX-ray14, whole or a selection with ``metadata.csv`` | boxes |
| ``folder`` | any folder of pictures or DICOM files, with or without ``metadata.csv`` | – |
| ``mimic-cxr-jpg`` | MIMIC-CXR-JPG | uncertain labels |
| ``chexpert`` | CheXpert, full or small | uncertain labels |
| ``padchest`` | PadChest | – |
| ``vindr-cxr`` | VinDr-CXR | boxes, uncertain labels where radiologists disagree |
| ``rsna`` | RSNA Pneumonia Detection Challenge | boxes |
| ``siim-acr`` | SIIM-ACR Pneumothorax Segmentation | drawn lesions |

``chexmask`` adds organ masks to any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from xreal.data.sources import (
    chexpert,
    folder,
    jsrt,
    mimic_cxr,
    nih_cxr14,
    padchest,
    rsna,
    siim_acr,
    vindr_cxr,
)
from xreal.data.sources.record import Listing, Record

__all__ = ["SOURCES", "Listing", "Record"]

SOURCES: dict[str, Callable[[Path], Listing]] = {
    "jsrt": jsrt.records,
    "nih-cxr14": nih_cxr14.records,
    "folder": folder.records,
    "mimic-cxr-jpg": mimic_cxr.records,
    "chexpert": chexpert.records,
    "padchest": padchest.records,
    "vindr-cxr": vindr_cxr.records,
    "rsna": rsna.records,
    "siim-acr": siim_acr.records,
}
