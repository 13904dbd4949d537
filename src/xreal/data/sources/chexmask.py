"""CheXmask (Gaggion et al., Scientific Data 2024): organ masks, found by a network, of 676,803 X-rays of other sets.

A table of its ``OriginalResolution`` folder: the image's name in the column that its data set has for it (dicom_id,
Path, Image Index, ImageID, image_id), Dice RCA (Mean), Left Lung, Right Lung, Heart as run lengths (the patient's
sides), Height and Width. Such tables have many gigabytes, so only the place of each row is held in memory. Terms: CC BY
4.0.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from xreal.data.sources.record import Record
from xreal.data.sources.run_length import decode_row_runs
from xreal.errors import DataError, MaskError
from xreal.vocabulary import Organ

__all__ = ["read_organ_row", "with_organ_rows"]

_NAMES = ("dicom_id", "Path", "Image Index", "ImageID", "image_id", "Image ID")
# The heart is painted last: the lungs of the tables go on behind it.
_ORGANS = {"Left Lung": Organ.LEFT_LUNG, "Right Lung": Organ.RIGHT_LUNG, "Heart": Organ.HEART}
_TRUSTED = 0.7  # estimated mean Dice below which CheXmask's authors advise not to use a mask
_SUFFIXES = {".png", ".jpg", ".jpeg", ".dcm", ".dicom"}
_LONGEST_FIELD = 2**27  # characters; Python's csv stops at 2**17, which some lungs and landmarks exceed


def with_organ_rows(records: Sequence[Record], table: Path) -> list[Record]:
    """Tell each X-ray that the table names where its row is.

    Raises:
        DataError: the table is missing, compressed, lacks a column, or names none of the X-rays.
    """
    header, rows = _index(table)
    missing = [name for name in ("Dice RCA (Mean)", "Height", "Width", *_ORGANS) if name not in header]
    if missing:
        raise DataError(f"{table} has no column {', '.join(missing)}; give a table of CheXmask's OriginalResolution")
    keys = [_key(record.mask_key or record.image_path.name) for record in records]
    if not any(key in rows for key in keys):
        raise DataError(f"{table} names none of the X-rays, such as {keys[0]}; give the table of this data set")
    return [
        replace(record, organ_row=(table, rows[key])) if key in rows else record
        for record, key in zip(records, keys, strict=True)
    ]


def read_organ_row(table: Path, offset: int) -> np.ndarray | None:
    """Read the mask whose row starts at that byte.

    Returns:
        (H, W) uint8 ``Organ``, or None where its quality estimate is below 0.7.

    Raises:
        MaskError: the row is damaged.
    """
    with table.open("rb") as stream:
        header, row = _parse(next(_rows(stream))[1]), b""
        stream.seek(offset)
        row = next(_rows(stream))[1]
    values = dict(zip(header, _parse(row), strict=False))
    try:
        if float(values["Dice RCA (Mean)"]) < _TRUSTED:
            return None
        shape = int(float(values["Height"])), int(float(values["Width"]))
        mask = np.zeros(shape, np.uint8)
        for name, organ in _ORGANS.items():
            mask[decode_row_runs(values[name], shape) == 1] = organ
    except (KeyError, ValueError) as error:
        raise MaskError(f"{table}, row at byte {offset}: {error}") from error
    return mask


def _index(table: Path) -> tuple[list[str], dict[str, int]]:
    """Return the header, and the byte at which the row of each image starts."""
    if not table.is_file():
        raise DataError(f"{table} is missing")
    with table.open("rb") as stream:
        if stream.read(2) == b"\x1f\x8b":
            raise DataError(f"{table} is compressed; unpack it with gunzip, so that single rows can be read from it")
        stream.seek(0)
        rows = _rows(stream)
        header = _parse(next(rows, (0, b""))[1])
        column = next((header.index(name) for name in _NAMES if name in header), None)
        if column is None:
            raise DataError(f"{table} has no column {' or '.join(_NAMES)}; it has {', '.join(header)}")
        return header, {
            _key(row.split(b",", column + 1)[column].decode().strip('" \r\n')): offset
            for offset, row in rows
            if row.count(b",") > column
        }


def _rows(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the rows from here on with their place; a row goes on over lines until its quotes are closed."""
    offset, row, quotes = stream.tell(), [], 0
    for line in stream:
        row.append(line)
        quotes += line.count(b'"')
        if quotes % 2 == 0:
            whole = b"".join(row)
            yield offset, whole
            offset, row, quotes = offset + len(whole), [], 0


def _parse(row: bytes) -> list[str]:
    csv.field_size_limit(_LONGEST_FIELD)
    return next(csv.reader([row.decode("utf-8-sig")]), [])


def _key(name: str) -> str:
    """Name an image without its suffix and folders; CheXpert's by split, patient, study and view."""
    path = PurePosixPath(name)
    parts = path.parts[-4:] if "patient" in name else path.parts[-1:]
    return "/".join(parts).removesuffix(path.suffix if path.suffix in _SUFFIXES else "")
