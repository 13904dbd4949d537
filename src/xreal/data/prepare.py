"""Any source -> a prepared data set, shard by shard; what is already written is kept."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from xreal.data.contract import Sample
from xreal.data.prepared import SHARD_ROWS, write_contact_sheet, write_shard
from xreal.data.reading import read_or_reason
from xreal.data.sources import SOURCES, Listing, Record
from xreal.data.sources.chexmask import with_organ_rows
from xreal.errors import DataError, InputError, OutputError, XRealError
from xreal.images import write_json
from xreal.vocabulary import Finding

__all__ = ["UNCERTAIN", "MaskProvider", "prepare"]

UNCERTAIN = ("negative", "positive", "drop")
"""What an uncertain label becomes: not said, said, or the X-ray is left out."""
_SPLITS = ("train", "val", "test")

MaskProvider = Callable[[np.ndarray], np.ndarray | None]
"""(H, W) float32 image in [0, 1] -> (H, W) uint8 organ mask, or None where none can be trusted."""

Shard = tuple[str, list[Record]]
Progress = Callable[[list[Shard]], Iterable[Shard]]
Reader = Callable[[Sequence[Record]], Iterable[Sample | str]]


def prepare(
    source: str,
    raw: Path,
    out: Path,
    image_size: int = 256,
    organ_masks: MaskProvider | None = None,
    progress: Progress = iter,
    *,
    uncertain: str = "negative",
    organ_mask_table: Path | None = None,
    workers: int = 1,
) -> dict[str, object]:
    """Read every X-ray of a source, bring it to ``image_size`` (padded to a square) and write Parquet shards.

    Interrupted work goes on with the first missing shard. Unreadable pictures are left out and listed.

    Args:
        source: name of an adapter in ``SOURCES``.
        raw: the source's folder.
        out: folder of the prepared data set.
        image_size: side of the square images in pixels.
        organ_masks: makes a mask where neither the source nor ``organ_mask_table`` has one; None leaves it out.
        progress: wraps the list of shards, to show how far the work is.
        uncertain: one of ``UNCERTAIN``. "negative" names in a prompt only what the label affirms.
        organ_mask_table: CheXmask's table of this source.
        workers: processes that read pictures; the result does not depend on it.

    Returns:
        Summary, also written to ``summary.json``: counts per finding and split, X-rays left out and why, labels
        without a name here, unreadable files. ``sheet.png`` shows X-rays with their masks and lesions.

    Raises:
        InputError: unknown source or policy, no workers, no size, or ``out`` inside of ``raw``.
        DataError: the source is not in its layout, has a patient in two splits, or ``out`` was begun with other
            settings; or a reading process was killed.
        OutputError: ``out`` holds other files or cannot be written.
    """
    if source not in SOURCES:
        raise InputError(f"unknown source {source!r}; expected one of {', '.join(SOURCES)}")
    if uncertain not in UNCERTAIN:
        raise InputError(f"unknown policy for uncertain labels {uncertain!r}; expected one of {', '.join(UNCERTAIN)}")
    if workers < 1:
        raise InputError(f"{workers} workers cannot read anything; give at least 1")
    if image_size < 1:
        raise InputError(f"image_size is {image_size}; expected at least 1 pixel")
    if out.resolve().is_relative_to(raw.resolve()):
        raise InputError(f"{out} lies in {raw}, whose X-rays are read; give a folder beside it")
    listing = _settle(_list(source, raw), uncertain)
    records = listing.records
    _check(records)
    settings = {
        "source": source,
        "image_size": image_size,
        "organ_masks": organ_masks is not None,
        "listing": _digest(f"{r.split} {r.image_id}" for r in records),
        "labels": _digest(repr((r.patient_id, r.findings, r.view_position, r.sex, r.age, r.boxes)) for r in records),
        "organ_mask_table": None if organ_mask_table is None else organ_mask_table.name,
    }
    if organ_mask_table is not None:
        records = with_organ_rows(records, organ_mask_table)
    _begin(out, settings)
    fresh = not (out / "sheet.png").exists()
    with _reader(workers, image_size) as read:
        for name, shard in progress(_shards(records)):
            report_path, shard_path = out / f"{name}.json", out / f"{name}.parquet"
            if not (report_path.exists() and shard_path.exists()):
                samples, unreadable = _read_shard(shard, read, organ_masks)
                write_shard(shard_path, samples)
                write_json(report_path, {"skipped": unreadable, "summary": _count(samples)})
                fresh = True
    if fresh:
        write_contact_sheet(out)
    return _summarise(out, source, image_size, replace(listing, records=records), uncertain)


def _list(source: str, raw: Path) -> Listing:
    try:
        return SOURCES[source](raw)
    except XRealError:
        raise
    except ValueError as error:
        raise DataError(f"a table in {raw} has no number where {source} has one ({error}); copy it again") from error


def _settle(listing: Listing, policy: str) -> Listing:
    """Apply the policy for uncertain labels: a box of an uncertain finding goes where its finding goes."""
    records, dropped = [], 0
    for record in listing.records:
        if not record.uncertain:
            records.append(record)
        elif policy == "drop":
            dropped += 1
        elif policy == "negative":
            boxes = tuple(box for box in record.boxes if box.finding not in record.uncertain)
            records.append(replace(record, boxes=boxes))
        else:
            affirmed = {*record.findings, *record.uncertain}
            if affirmed - {Finding.SUPPORT_DEVICES, Finding.NO_FINDING}:
                affirmed.discard(Finding.NO_FINDING)
            records.append(replace(record, findings=tuple(f for f in Finding if f in affirmed)))
    left_out = {**listing.left_out, **({"uncertain label": dropped} if dropped else {})}
    if not records:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise DataError(f"no X-ray is left ({reasons or 'the table is empty'}); check the folder and the options")
    return Listing(records, left_out)


def _check(records: list[Record]) -> None:
    seen: set[str] = set()
    splits: dict[str, str] = {}
    for record in records:
        if record.split not in _SPLITS:
            raise DataError(f"{record.image_id} is in the split {record.split!r}; expected one of {', '.join(_SPLITS)}")
        if record.image_id in seen:
            raise DataError(f"two pictures are called {record.image_id}; rename one")
        seen.add(record.image_id)
        split = splits.setdefault(record.patient_id or record.image_id, record.split)
        if split != record.split:
            raise DataError(
                f"patient {record.patient_id} is in both {split} and {record.split} ({record.image_id}); put all "
                "X-rays of a patient into one split, or give none and let patients be divided"
            )


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _begin(out: Path, settings: dict[str, Any]) -> None:
    path = out / "settings.json"
    if path.exists():
        # A folder that an earlier version began lacks some settings; it is compared by those that it has.
        if {**settings, **json.loads(path.read_text(encoding="utf-8"))} != settings:
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


@contextmanager
def _reader(workers: int, image_size: int) -> Iterator[Reader]:
    """Read in this process, or in others: those are forked from a clean server, never from one that has threads."""
    read = partial(read_or_reason, image_size=image_size)
    if workers == 1:
        yield partial(map, read)
        return
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload([read_or_reason.__module__])
    pool = ProcessPoolExecutor(workers, context)
    try:
        yield partial(pool.map, read, chunksize=4)
    except BrokenProcessPool as error:
        raise DataError(
            "a process that reads pictures was killed, perhaps for want of memory; start again with fewer workers: "
            "what is written is kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _read_shard(
    shard: list[Record], read: Reader, organ_masks: MaskProvider | None
) -> tuple[list[Sample], dict[str, str]]:
    samples, unreadable = [], {}
    for record, sample in zip(shard, read(shard), strict=True):
        if isinstance(sample, str):
            unreadable[record.image_id] = sample
        elif sample.organ_mask is None and organ_masks is not None:
            samples.append(replace(sample, organ_mask=organ_masks(sample.image.astype(np.float32) / 255)))
        else:
            samples.append(sample)
    return samples, unreadable


def _count(samples: list[Sample]) -> dict[str, int]:
    counts: Counter[str] = Counter(images=len(samples))
    counts["with organ mask"] = sum(sample.organ_mask is not None for sample in samples)
    for sample in samples:
        counts.update(finding.value for finding in sample.findings)
    return dict(counts)


def _summarise(out: Path, source: str, image_size: int, listing: Listing, uncertain: str) -> dict[str, object]:
    skipped: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for report_path in sorted(out.glob("*-[0-9]*.json")):
        report = json.loads(report_path.read_text(encoding="utf-8"))
        counts.update(report["summary"])
        skipped |= report["skipped"]
    kept = [record for record in listing.records if record.image_id not in skipped]
    splits = {
        split: {"images": len(members), "patients": len({record.patient_id for record in members})}
        for split in _SPLITS
        if (members := [record for record in kept if record.split == split])
    }
    boxes = Counter(box.finding.value for record in kept for box in record.boxes)
    boxes.update(finding.value for record in kept for finding, _ in record.lesion_runs)
    result = {
        "source": source,
        "image_size": image_size,
        "counts": dict(sorted(counts.items())),
        "splits": splits,
        "boxes": dict(sorted(boxes.items())),
        "uncertain": {
            "policy": uncertain,
            "labels": dict(sorted(Counter(f.value for record in kept for f in record.uncertain).items())),
        },
        "other_labels": dict(Counter(label for record in kept for label in record.other_labels).most_common()),
        "left_out": dict(listing.left_out),
        "skipped": skipped,
    }
    write_json(out / "summary.json", result)
    return result
