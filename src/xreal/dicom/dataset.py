"""What reading and writing share: opening a data set, identifiers, and the equipment that xreal is."""

from __future__ import annotations

import io
import json
import os
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from xreal.errors import ImageError, InputError, OutputError
from xreal.files import write_bytes

__all__ = ["canonical_json", "equipment", "is_dicom", "make_uid", "open_dataset", "quiet", "require_dicom", "save"]

_PREAMBLE, _MAGIC = 128, b"DICM"
# An identifier of the same content is the same on every computer: UUIDs of this namespace, version 5 (RFC 9562).
_NAMESPACE = uuid.UUID("6f0e5f6a-3f0b-5a37-9f0e-0b1f6d7f8c21")


def require_dicom() -> None:
    """Check that the libraries of the extra ``dicom`` are there.

    Raises:
        InputError: they are not.
    """
    if find_spec("pydicom") is None or find_spec("highdicom") is None:
        raise InputError('DICOM needs pydicom and highdicom, which are missing: pip install "xreal-cxr[dicom]".')


def is_dicom(data: bytes) -> bool:
    """Tell from its first bytes whether a file is DICOM.

    Files have "DICM" after 128 bytes; old ones begin with an element of group 0002 or 0008, little endian, instead.
    """
    if data[_PREAMBLE : _PREAMBLE + 4] == _MAGIC:
        return True
    return len(data) > 8 and data[0] in (2, 8) and data[1] == 0 and data[3] == 0


@contextmanager
def quiet() -> Iterator[None]:
    """Silence pydicom's remarks on files of others, which a reader can do nothing about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_dataset(path: str | os.PathLike[str]) -> Any:
    """Read a DICOM file whole, whatever kind of object it holds.

    Returns:
        ``pydicom.FileDataset``.

    Raises:
        ImageError: the file is missing, damaged or not DICOM, or the extra ``dicom`` is not installed.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ImageError(f"{path} {what}; expected a DICOM file. Check the path.")
    try:
        require_dicom()
    except InputError as error:
        raise ImageError(f"{path}: {error}") from None
    import pydicom

    data = path.read_bytes()
    if not is_dicom(data):
        raise ImageError(f"{path} is not a DICOM file; expected one. Pictures are read by xreal.images.")
    try:
        with quiet():
            dataset = pydicom.dcmread(io.BytesIO(data), force=True)
            if not hasattr(dataset.file_meta, "TransferSyntaxUID"):  # files without a header: DICOM's default
                dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
            dataset.walk(lambda _parent, _element: None)  # elements are decoded late: find what is damaged now
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise ImageError(
            f"{path} cannot be read as DICOM ({error}). It is damaged or cut short: copy it again."
        ) from error
    return dataset


def save(dataset: Any, path: str | os.PathLike[str]) -> None:
    """Write a data set as a DICOM file with its header, whole or not at all.

    Raises:
        OutputError: the name does not end in .dcm, or the file cannot be written.
    """
    if Path(path).suffix.lower() != ".dcm":
        raise OutputError(f"{path} does not end in .dcm; DICOM files are written as such. Change the name.")
    buffer = io.BytesIO()
    with quiet():
        dataset.save_as(buffer, enforce_file_format=True, implicit_vr=False, little_endian=True)
    write_bytes(path, buffer.getvalue())


def canonical_json(provenance: Mapping[str, Any]) -> str:
    """Write JSON in one way only (keys sorted, ASCII), so that equal provenance gives equal text.

    Raises:
        InputError: the provenance holds something that JSON cannot.
    """
    try:
        return json.dumps(dict(provenance), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"provenance is not JSON ({error}); convert it to plain numbers and text.") from error


def make_uid(*parts: str) -> str:
    """Make the identifier that belongs to these texts: "2.25." and a UUID as a number (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, json.dumps(parts)).int}"


def equipment(weights: str) -> dict[str, str]:
    """Describe xreal as equipment; the weights' hash takes the place of the serial number."""
    return {
        "manufacturer": "xreal",
        "manufacturer_model_name": "xreal-cxr",
        "software_versions": version("xreal-cxr"),
        "device_serial_number": weights or "unknown",
    }
