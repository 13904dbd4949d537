"""Tables of a whole data set: Parquet manifest, COCO, YOLO's data set file, summary and contact sheet."""

from __future__ import annotations

import json
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xreal.bulk.plan import Plan
from xreal.bulk.writing import CLASSES
from xreal.files import temporary_path, write_bytes
from xreal.images import read_image, write_json
from xreal.masks.organs import read_organ_mask
from xreal.sheets import colour_labels, overlay, signed_difference, write_sheet
from xreal.vocabulary import Organ

__all__ = ["SCHEMA", "redraw_command", "write_tables"]

_BOX = pa.list_(pa.int32())
_LESION = pa.struct(
    [
        ("finding", pa.string()),
        ("strength", pa.float64()),
        ("mask", pa.string()),
        ("change", pa.float64()),
        ("boxes", pa.list_(_BOX)),
    ]
)
SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("image", pa.string()),
        ("healthy", pa.string()),
        ("organs", pa.string()),
        ("findings", pa.list_(pa.string())),
        ("lesions", pa.list_(_LESION)),
        ("anatomy", pa.string()),
        ("cardiothoracic_ratio", pa.float64()),
        ("seed", pa.int64()),
        ("tries", pa.int32()),
        ("dice", pa.struct([(organ.title, pa.float64()) for organ in Organ if organ])),
        ("nearest_training_similarity", pa.float64()),
        ("draw", pa.string()),
        ("command", pa.string()),
        ("weights", pa.string()),
        ("xreal", pa.string()),
    ]
)
"""One row an image. Paths are relative to the data set; "anatomy" and "draw" hold JSON; boxes are x, y, width, height,
one for each connected piece of a lesion mask."""

_ROWS = 1024  # in a row group
_SHOWN = 12


def write_tables(out: Path, parts: Iterable[Path], plan: Plan) -> dict[str, Any]:
    """Write manifest.parquet, summary.json and sheet.png, and coco.json and yolo.yaml where findings have places.

    Returns:
        The summary: images planned, drawn and dropped with the reasons, images per combination of findings, mean and
        lowest Dice per organ, mean change inside the lesions per finding.
    """
    records = _Records(parts)
    _write_manifest(out / "manifest.parquet", records)
    if plan.has_places:
        write_bytes(out / "coco.json", json.dumps(_coco(records)).encode())
        classes = "".join(f"  {number}: {json.dumps(finding.value)}\n" for number, finding in enumerate(CLASSES))
        write_bytes(out / "yolo.yaml", f"path: .\ntrain: images\nval: images\nnames:\n{classes}".encode())
    summary = _summary(records, plan)
    write_json(out / "summary.json", summary)
    _write_sheet(out, records)
    return summary


class _Records:
    """The records in order, read from disk each time they are walked through: a large set need not fit in memory."""

    def __init__(self, parts: Iterable[Path]) -> None:
        self._parts = list(parts)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for part in self._parts:
            yield from json.loads(part.read_text(encoding="utf-8"))

    def kept(self) -> Iterator[dict[str, Any]]:
        """Walk through those that were not dropped."""
        return (record for record in self if "dropped" not in record)


def redraw_command(record: dict[str, Any]) -> str:
    """Write the command that, run in the data set's folder, draws an image again."""
    draw = record["draw"]
    options = ["xreal", "generate", "--model", record["model"]]
    options += ["--organs", record["organs"], "--seed", str(record["seed"])]
    for lesion in record["lesions"]:
        options += ["--lesion", f"{lesion['finding']}={lesion['mask']}@{lesion['strength']:g}"]
    for name, value in draw.items():
        if value is True:
            options.append(f"--{name.replace('_', '-')}")
        elif value is not False and value not in (None, ""):
            options += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join([*options, "--out", f"again/{record['id']:06d}"])


def _write_manifest(path: Path, records: _Records) -> None:
    temporary = temporary_path(path)
    try:
        with pq.ParquetWriter(temporary, SCHEMA) as writer:
            rows: list[dict[str, Any]] = []
            for record in records.kept():
                rows.append(_row(record))
                if len(rows) == _ROWS:
                    writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
                    rows = []
            writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _row(record: dict[str, Any]) -> dict[str, Any]:
    lesions = [{**lesion, "boxes": [region["bbox"] for region in lesion["regions"]]} for lesion in record["lesions"]]
    texts = {name: json.dumps(record[name]) for name in ("anatomy", "draw")}
    return {**record, **texts, "lesions": lesions, "command": redraw_command(record)}


def _coco(records: _Records) -> dict[str, Any]:
    numbers = {finding.value: number for number, finding in enumerate(CLASSES, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for record in records.kept():
        size = {"width": record["side"], "height": record["side"]}
        images.append({"id": record["id"], "file_name": record["image"], **size})
        for lesion in record["lesions"]:
            for region in lesion["regions"]:
                place = {"image_id": record["id"], "category_id": numbers[lesion["finding"]], "iscrowd": 0}
                annotations.append({"id": len(annotations) + 1, **place, **region})
    return {
        "info": {"description": "Synthetic chest X-rays drawn by xreal; not for diagnosis"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name, "supercategory": "finding"} for name, number in numbers.items()],
    }


def _summary(records: _Records, plan: Plan) -> dict[str, Any]:
    groups: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    tries: Counter[str] = Counter()
    dice: dict[str, list[float]] = {}
    change: dict[str, list[float]] = {}
    dropped = []
    for record in records:
        if "dropped" in record:
            dropped.append(record["id"])
            reasons.update(record["dropped"])
            continue
        groups[" + ".join(record["findings"]) or "No Finding"] += 1
        tries[str(record["tries"])] += 1
        for organ, value in record["dice"].items():
            dice.setdefault(organ, []).append(value)
        for lesion in record["lesions"]:
            change.setdefault(lesion["finding"], []).append(lesion["change"])
    return {
        "planned": plan.n,
        "drawn": sum(groups.values()),
        "images": dict(groups),
        "dropped": {"images": dropped, "reasons": dict(sorted(reasons.items()))},
        "tries": dict(sorted(tries.items())),
        "dice": {
            organ: {"mean": round(float(np.mean(values)), 4), "lowest": min(values)} for organ, values in dice.items()
        },
        "change_inside_lesions": {name: round(float(np.mean(values)), 4) for name, values in sorted(change.items())},
    }


def _write_sheet(out: Path, records: _Records) -> None:
    """Show images from all over the data set: organs, image, lesions, difference from the healthy twin."""
    count = sum(1 for _ in records.kept())
    if not count:
        return
    shown = set(np.linspace(0, count - 1, _SHOWN).round().astype(int).tolist())
    rows = []
    for record in (record for number, record in enumerate(records.kept()) if number in shown):
        image = read_image(out / record["image"])
        lesions = [read_image(out / lesion["mask"]) for lesion in record["lesions"]]
        union = np.max([np.zeros_like(image), *lesions], axis=0)
        twin = read_image(out / record["healthy"]) if lesions else image
        organs = colour_labels(read_organ_mask(out / record["organs"]))
        rows.append([organs, image, overlay(image, union), signed_difference(image, twin)])
    write_sheet(out / "sheet.png", rows, ["organs", "image", "lesions", "difference x2"])
