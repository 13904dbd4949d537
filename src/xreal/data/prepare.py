"""Any source -> a prepared data set, shard by shard; what is already written is kept."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from xreal.data.contract import Sample
from xreal.data.prepared import write_shard
from xreal.data.sources import SOURCES, Record
from xreal.errors import DataError, ImageError, InputError, OutputError
from xreal.images import fit_square, fit_square_mask, read_image, write_json

__all__ = ["MaskProvider", "prepare"]

SHARD_ROWS = 256

MaskProvider = Callable[[np.ndarray], np.ndarray | None]
"""(H, W) float32 image in [0, 1] -> (H, W) uint8 organ mask, or None where none can be trusted."""

Shard = tuple[str, list[Record]]
Progress = Callable[[list[Shard]], Iterable[Shard]]


def prepare(
    source: str,
    raw: Path,
    out: Path,
    image_size: int = 256,
    organ_masks: MaskProvider | None = None,
    progress: Progress = iter,
) -> dict[str, object]:
    """Read every X-ray of a source, bring it to ``image_size`` (padded to a square) and write Parquet shards.

    Interrupted work goes on with the first missing shard. Unreadable pictures are left out and listed.

    Args:
        source: name of an adapter in ``SOURCES``.
        raw: the source's folder.
        out: folder of the prepared data set.
        image_size: side of the square images in pixels.
        organ_masks: makes a mask where the source has none; None leaves it out.
        progress: wraps the list of shards, to show how far the work is.

    Returns:
        Summary, also written to ``summary.json``: counts per split and finding, images without a trusted mask,
        unreadable files.

    Raises:
        InputError: unknown source.
        DataError: the source is not in its layout, or ``out`` was begun with other settings.
    """
    if source not in SOURCES:
        raise InputError(f"unknown source {source!r}; expected one of {', '.join(SOURCES)}")
    records = SOURCES[source](raw)
    _begin(out, source, records, image_size, organ_masks is not None)
    skipped: dict[str, str] = {}
    for name, shard in progress(_shards(records)):
        report_path, shard_path = out / f"{name}.json", out / f"{name}.parquet"
        if not (report_path.exists() and shard_path.exists()):
            samples, unreadable = _read_shard(shard, image_size, organ_masks)
            write_shard(shard_path, samples)
            write_json(report_path, {"skipped": unreadable, "summary": _count(samples)})
    summary: Counter[str] = Counter()
    for report_path in sorted(out.glob("*-[0-9]*.json")):
        report = json.loads(report_path.read_text())
        summary.update(report["summary"])
        skipped |= report["skipped"]
    result = {"source": source, "image_size": image_size, "counts": dict(sorted(summary.items())), "skipped": skipped}
    write_json(out / "summary.json", result)
    return result


def _begin(out: Path, source: str, records: list[Record], image_size: int, with_masks: bool) -> None:
    listing = hashlib.sha256("\n".join(f"{r.split} {r.image_id}" for r in records).encode()).hexdigest()
    settings = {"source": source, "image_size": image_size, "organ_masks": with_masks, "listing": listing}
    path = out / "settings.json"
    if path.exists():
        if json.loads(path.read_text()) != settings:
            raise DataError(f"{out} was begun with other settings or another source; give a new folder or delete it")
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out} cannot be made a folder: {error}") from error
    if any(out.iterdir()):
        raise OutputError(f"{out} is not empty and was not written by `xreal prepare`; give a new folder")
    write_json(path, settings)


def _shards(records: list[Record]) -> list[Shard]:
    shards = []
    for split in sorted({record.split for record in records}):
        members = [record for record in records if record.split == split]
        for number, start in enumerate(range(0, len(members), SHARD_ROWS)):
            shards.append((f"{split}-{number:05d}", members[start : start + SHARD_ROWS]))
    return shards


def _read_shard(
    shard: list[Record], image_size: int, organ_masks: MaskProvider | None
) -> tuple[list[Sample], dict[str, str]]:
    samples, unreadable = [], {}
    for record in shard:
        try:
            samples.append(_read(record, image_size, organ_masks))
        except (ImageError, OSError) as error:
            unreadable[record.image_id] = str(error)
    return samples, unreadable


def _read(record: Record, image_size: int, organ_masks: MaskProvider | None) -> Sample:
    original = read_image(record.image_path)
    image = fit_square(original, image_size)
    if record.organ_mask_path is not None:
        levels = np.asarray(Image.open(record.organ_mask_path))
        labels = np.zeros(levels.shape, np.uint8)
        for level, organ in record.organ_levels:
            labels[levels == level] = organ
        organ_mask: np.ndarray | None = fit_square_mask(labels, image_size)
    else:
        organ_mask = organ_masks(image) if organ_masks is not None else None
    side = max(original.shape)
    scale = image_size / side
    pad_y, pad_x = ((side - extent) // 2 for extent in original.shape)
    boxes = tuple(
        replace(
            box,
            x=(box.x + pad_x) * scale,
            y=(box.y + pad_y) * scale,
            width=box.width * scale,
            height=box.height * scale,
        )
        for box in record.boxes
    )
    return Sample(
        image=(image * 255).round().astype(np.uint8),
        organ_mask=organ_mask,
        boxes=boxes,
        image_id=record.image_id,
        patient_id=record.patient_id,
        source=record.source,
        findings=record.findings,
        view_position=record.view_position,
        sex=record.sex,
        age=record.age,
    )


def _count(samples: list[Sample]) -> dict[str, int]:
    counts: Counter[str] = Counter(images=len(samples))
    counts["with organ mask"] = sum(sample.organ_mask is not None for sample in samples)
    for sample in samples:
        counts.update(finding.value for finding in sample.findings)
    return dict(counts)
