"""What the trees of the data sets are made of: tables, pictures, DICOM files."""

import csv
import gzip
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xreal.data.contract import Sample
from xreal.data.prepare import prepare
from xreal.data.prepared import PreparedDataset

SIZE = 32


@pytest.fixture(scope="session")
def write_table() -> Callable[..., None]:
    """Return a function path, rows -> CSV file, gzipped if its name says so."""

    def write(path: Path, *rows: tuple[object, ...]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (gzip.open if path.suffix == ".gz" else open)(path, "wt", newline="", encoding="utf-8") as stream:
            csv.writer(stream, lineterminator="\n").writerows(rows)

    return write


@pytest.fixture(scope="session")
def write_picture() -> Callable[..., None]:
    """Return a function path, shape, dtype -> a picture that is not blank."""

    def write(path: Path, shape: tuple[int, int] = (SIZE, SIZE), dtype: type = np.uint8) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        ramp = np.linspace(0, np.iinfo(dtype).max, shape[0] * shape[1]).reshape(shape)
        Image.fromarray(ramp.astype(dtype)).save(path)

    return write


@pytest.fixture(scope="session")
def write_dicom() -> Callable[..., None]:
    """Return a function path, shape, tags -> a DICOM file of 8 bits, MONOCHROME2."""
    pydicom = pytest.importorskip("pydicom", reason="DICOM files need the extra dicom")

    def write(path: Path, shape: tuple[int, int] = (SIZE, SIZE), **tags: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset = pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
        dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3"
        dataset.Modality, dataset.PhotometricInterpretation = "DX", "MONOCHROME2"
        dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset.Rows, dataset.Columns = shape
        dataset.PixelData = np.linspace(0, 255, shape[0] * shape[1]).astype(np.uint8).tobytes()
        with warnings.catch_warnings():  # RSNA and SIIM write ages as "51", which DICOM does not know
            warnings.simplefilter("ignore")
            for name, value in tags.items():
                setattr(dataset, name, value)
            dataset.save_as(path, enforce_file_format=True)

    return write


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., tuple[dict[str, Sample], dict]]:
    """Return a function source, folder, options -> its samples by image_id, and the summary."""

    def run(source: str, raw: Path, **options: object) -> tuple[dict[str, Sample], dict]:
        out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        summary = prepare(source, raw, out, SIZE, **options)
        splits = sorted({path.name.split("-")[0] for path in out.glob("*.parquet")})
        return {s.image_id: s for split in splits for s in PreparedDataset([out], split)}, summary

    return run
