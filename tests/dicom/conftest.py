"""X-rays as devices write them, made here: no file of a patient is in this project."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

XRay = Callable[..., FileDataset]


@pytest.fixture(scope="session")
def xray() -> XRay:
    """Return a function stored values, bits, elements -> data set of a digital X-ray, not compressed."""

    def make(stored: np.ndarray, bits: int, photometric: str = "MONOCHROME2", **elements: Any) -> FileDataset:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
        dataset.Modality, dataset.PatientID, dataset.PatientName = "DX", "p1", "Doe^Jane"
        dataset.ImageType = ["ORIGINAL", "PRIMARY"]
        dataset.PixelRepresentation = int(stored.dtype.kind == "i")
        dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = *stored.shape, 1
        dataset.PhotometricInterpretation = photometric
        dataset.BitsAllocated = 8 * stored.dtype.itemsize
        dataset.BitsStored, dataset.HighBit = bits, bits - 1
        dataset.PixelData = stored.tobytes()
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        return dataset

    return make


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Return a function data set, name -> the file it is written to."""

    def write(dataset: FileDataset, name: str = "chest.dcm") -> Path:
        dataset.save_as(tmp_path / name, enforce_file_format=True)
        return tmp_path / name

    return write


@pytest.fixture(scope="session")
def noise() -> Callable[..., np.ndarray]:
    """Return a function bits, height, width -> values that use every bit, black and white among them."""

    def make(bits: int, height: int = 34, width: int = 38) -> np.ndarray:
        values = np.random.default_rng(bits).integers(0, 2**bits, (height, width))
        values[0, :2] = 0, 2**bits - 1
        return values.astype(np.uint8 if bits <= 8 else np.uint16)

    return make
