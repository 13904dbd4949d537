"""Edits of X-ray files: read whatever comes, change it, write it in the depth it came in, with provenance."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

import xreal
from xreal.dicom import is_dicom, write_dicom
from xreal.errors import InputError
from xreal.images import fit_square, open_picture, read_image, write_image, write_json
from xreal.pipeline_output import XRealEditOutput
from xreal.sheets import overlay, signed_difference, write_sheet

__all__ = ["Source", "open_source", "write_edit_sheet", "write_edits"]

_SHEET_SIDE = 384


@dataclass(frozen=True)
class Source:
    """An X-ray to be edited.

    Attributes:
        path: its file.
        image: (H, W) float32 in [0, 1].
        bits: 8 or 16, what its values need to be written unchanged.
        dicom: it is a DICOM file.
        sha256: of the file.
    """

    path: Path
    image: np.ndarray
    bits: Literal[8, 16]
    dicom: bool
    sha256: str


def open_source(path: Path) -> Source:
    """Read an X-ray that is to be edited: PNG, JPEG, TIFF or DICOM.

    Raises:
        ImageError: as ``images.read_image``.
    """
    image = read_image(path)
    data = path.read_bytes()
    deep = open_picture(path).mode.startswith("I")  # of DICOM too
    return Source(path, image, 16 if deep else 8, is_dicom(data[:256]), hashlib.sha256(data).hexdigest())


def write_edits(
    out: Path,
    first: int,
    source: Source,
    output: XRealEditOutput,
    provenance: dict[str, Any],
    conformance: Sequence[dict[str, float]] | None = None,
) -> None:
    """Write ``0000.png`` and ``0000.json`` for each edit, counting from ``first``; of a DICOM source ``0000.dcm`` too.

    The PNG has the source's size and depth (of DICOM 16 bits). The DICOM file stays in its source's study. Beside them
    ``weight.png``: where it is black, nothing was changed.

    Args:
        out: folder that exists.
        first: number of the first edit.
        source: what was edited.
        output: the edits.
        provenance: what all edits share: the weights' hash, what was asked; "source" is the file, unless it says.
        conformance: per edit, where organs moved, the Dice of each with what was asked for.

    Raises:
        InputError: the edits are of another size than the source.
        OutputError: a file cannot be written.
    """
    if output.images.shape[1:] != source.image.shape:
        raise InputError(f"edits are {output.images.shape[1:]}, their source {source.image.shape}; expected one size")
    write_image(out / "weight.png", output.weight)
    weights = str(provenance.get("weights", ""))
    for number, (image, seed) in enumerate(zip(output.images, output.seeds, strict=True), first):
        # What makes the edit, without the names of files: made again elsewhere, its identifiers are the same.
        made = {"seed": seed, "weights": weights, **output.settings, "source_sha256": source.sha256}
        text = {"xreal:seed": str(seed), "xreal:weights": weights}
        write_image(out / f"{number:04d}.png", image, text, bits=source.bits)
        if source.dicom:
            description = "Synthetic edit of a chest X-ray"
            write_dicom(out / f"{number:04d}.dcm", image, made, series_description=description, source=source.path)
        record = {"xreal": xreal.__version__, "source": str(source.path), **provenance, **made}
        changed = np.abs(image - source.image) * (2**source.bits - 1) >= 0.5  # of a step of grey
        if conformance is not None:
            record["conformance"] = conformance[number - first]
        write_json(out / f"{number:04d}.json", {**record, "changed_share": round(float(changed.mean()), 6)})


def write_edit_sheet(path: Path, source: Source, images: Sequence[np.ndarray], weight: np.ndarray) -> None:
    """Write a row per edit: the X-ray with what may change, the edit, the difference."""
    small, area = fit_square(source.image, _SHEET_SIDE), fit_square(weight, _SHEET_SIDE)
    edits = [fit_square(image, _SHEET_SIDE) for image in images]
    rows = [[small, overlay(small, area), edit, signed_difference(edit, small)] for edit in edits]
    write_sheet(path, rows, ["X-ray", "may change", "edit", "difference x2"])
