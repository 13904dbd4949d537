"""What is judged: images, and what was asked of each. Read from a prepared data set or from a folder of pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from xreal.data.contract import Sample
from xreal.errors import DataError
from xreal.images import fit_square, fit_square_mask, read_image, write_image, write_json
from xreal.masks.organs import read_organ_mask, write_organ_mask
from xreal.vocabulary import Finding, parse_finding

__all__ = ["Cases", "joined", "picture_paths", "read_cases", "write_case"]

_SIDE_FILES = ("-healthy", "-organs", "-lesion", "-prior", "-seg")
_NO_CASES = ("sheet", "weight")  # what `xreal generate` and `xreal edit` write beside their pictures
_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm")


@dataclass(frozen=True)
class Cases:
    """N images and what was asked of them, or what their labels say.

    Attributes:
        images: (N, H, W) float32 in [0, 1].
        image_ids: N names.
        findings: of each image; (``Finding.NO_FINDING``,) for a healthy one, () where nothing is known.
        organ_masks: requested, (N, H, W) uint8 ``Organ``; all background where there is none.
        lesion_masks: union of the requested lesions, (N, H, W) float32 in [0, 1]; all 0 where there is none.
        healthy: twins without lesions, (N, H, W) float32; NaN where there is none.
        jpeg_steps: of each image; see ``Sample``.
    """

    images: np.ndarray
    image_ids: tuple[str, ...]
    findings: tuple[tuple[Finding, ...], ...]
    organ_masks: np.ndarray
    lesion_masks: np.ndarray
    healthy: np.ndarray
    jpeg_steps: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        """Count the images."""
        return len(self.images)

    def take(self, indices: Sequence[int] | np.ndarray) -> Cases:
        """Return the cases of those indices, in that order."""
        rows = np.asarray(indices, np.intp)
        picked: dict[str, Any] = {}
        for field in fields(self):
            values = getattr(self, field.name)
            picked[field.name] = values[rows] if isinstance(values, np.ndarray) else tuple(values[i] for i in rows)
        return Cases(**picked)

    @classmethod
    def from_samples(cls, samples: Iterable[Sample]) -> Cases:
        """Take real X-rays with their labels and, where they have them, their masks and boxes."""
        samples = list(samples)
        images = np.stack([sample.image for sample in samples]).astype(np.float32) / 255
        blank = np.zeros(images.shape[1:], np.uint8)
        return cls(
            images=images,
            image_ids=tuple(sample.image_id for sample in samples),
            findings=tuple(sample.findings for sample in samples),
            organ_masks=np.stack([blank if s.organ_mask is None else s.organ_mask for s in samples]),
            lesion_masks=np.stack([sample.box_mask for sample in samples]).astype(np.float32),
            healthy=np.full_like(images, np.nan),
            jpeg_steps=tuple(sample.jpeg_steps for sample in samples),
        )


def joined(first: Cases, second: Cases) -> Cases:
    """Return the cases of both, in that order."""
    parts: dict[str, Any] = {}
    for field in fields(first):
        one, other = getattr(first, field.name), getattr(second, field.name)
        parts[field.name] = np.concatenate([one, other]) if isinstance(one, np.ndarray) else one + other
    return Cases(**parts)


def picture_paths(folder: Path) -> list[Path]:
    """List the pictures of a folder by name, without what stands beside them; of several kinds of one name the first.

    Raises:
        DataError: the folder is missing or holds no pictures.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; expected PNG, JPEG, TIFF or DICOM pictures in it")
    by_name: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda path: _SUFFIXES.index(s) if (s := _suffix(path)) else -1):
        if _suffix(path) and not path.stem.endswith(_SIDE_FILES) and path.stem not in _NO_CASES:
            by_name.setdefault(path.stem, path)
    if not by_name:
        raise DataError(f"{folder} holds no PNG, JPEG, TIFF or DICOM picture")
    return [by_name[name] for name in sorted(by_name)]


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    return suffix if suffix in _SUFFIXES else ""


def read_cases(folder: Path, size: int, paths: Sequence[Path] | None = None) -> Cases:
    """Read a folder of pictures from anywhere, fitted to ``size`` × ``size``.

    Beside a picture ``NAME.png`` may stand ``NAME-organs.png`` (the requested organ mask), ``NAME-lesion.png`` (the
    requested lesions, white), ``NAME-healthy.png`` (the twin) and ``NAME.json`` whose ``lesions`` or ``findings`` name
    what was asked for, as `xreal generate` and `xreal evaluate --model` write it.

    Args:
        folder: of the pictures.
        size: pixels a side.
        paths: those pictures of the folder alone, see ``picture_paths``.

    Raises:
        DataError: the folder is missing or holds no pictures.
    """
    paths = picture_paths(folder) if paths is None else paths
    rows = [_read_case(path, size) for path in paths]
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    return Cases(
        image_ids=tuple(path.stem for path in paths),
        findings=tuple(columns.pop("findings")),
        jpeg_steps=((),) * len(rows),
        **{key: np.stack(values) for key, values in columns.items()},
    )


def _read_case(path: Path, size: int) -> dict[str, Any]:
    def beside(ending: str) -> Path:
        return path.with_name(path.stem + ending)

    organs, lesion, healthy, record = (beside(e) for e in ("-organs.png", "-lesion.png", "-healthy.png", ".json"))
    named = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    names = named.get("findings") or [one["finding"] for one in named.get("lesions", [])]
    blank = np.zeros((size, size), np.float32)
    return {
        "images": fit_square(read_image(path), size),
        "findings": tuple(parse_finding(name) for name in names),
        "organ_masks": fit_square_mask(read_organ_mask(organs), size) if organs.exists() else blank.astype(np.uint8),
        "lesion_masks": fit_square(read_image(lesion), size) if lesion.exists() else blank,
        "healthy": fit_square(read_image(healthy), size) if healthy.exists() else np.full_like(blank, np.nan),
    }


def write_case(folder: Path, cases: Cases, index: int, record: dict[str, Any]) -> None:
    """Write one case as ``read_cases`` reads it; the JSON comes last, so that it marks a whole case."""
    name = folder / cases.image_ids[index]
    text = {"xreal:seed": str(record.get("seed", ""))}
    write_image(name.with_suffix(".png"), cases.images[index], text)
    if np.isfinite(cases.healthy[index]).all():
        write_image(name.with_name(name.name + "-healthy.png"), cases.healthy[index], text)
    if cases.organ_masks[index].any():
        write_organ_mask(name.with_name(name.name + "-organs.png"), cases.organ_masks[index])
    if cases.lesion_masks[index].any():
        write_image(name.with_name(name.name + "-lesion.png"), cases.lesion_masks[index], text)
    findings = [finding.value for finding in cases.findings[index]]
    write_json(name.with_suffix(".json"), {**record, "findings": findings})
