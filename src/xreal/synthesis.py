"""From masks to files: draw, check how well the mask is obeyed, redraw, write with provenance."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import xreal
from xreal.dicom import write_dicom, write_segmentation
from xreal.errors import InputError
from xreal.images import fit_square, write_image, write_json
from xreal.masks.lesions import Lesion
from xreal.masks.organs import dice_per_organ, write_organ_mask
from xreal.masks.segmenter import segment
from xreal.pipeline import XRealPipeline
from xreal.sheets import colour_labels, overlay, signed_difference, write_sheet
from xreal.vocabulary import Organ

__all__ = [
    "Drawn",
    "auto_batch_size",
    "conformance",
    "draw",
    "lesion_changes",
    "unseen",
    "write_contact_sheet",
    "write_drawn",
    "write_drawn_dicom",
]

_SEEN = 0.02  # of white, mean absolute change in a lesion: what changes it less is hardly seen


@dataclass(frozen=True)
class Drawn:
    """One finished image.

    Attributes:
        image: (H, W) float32 in [0, 1].
        healthy: its twin without lesions, or None.
        prior: what the Anatomy Controller drew, or None.
        organ_mask: (H, W) uint8 as used, or None.
        lesion_masks: (K, H, W) float32 as used.
        record: seed, settings, conformance, change in each lesion: what the JSON file holds.
    """

    image: np.ndarray
    healthy: np.ndarray | None
    prior: np.ndarray | None
    organ_mask: np.ndarray | None
    lesion_masks: np.ndarray
    record: dict[str, Any]


def auto_batch_size(pipeline: XRealPipeline) -> int:
    """Return how many images to draw side by side: as many as make the machine faster, within its memory.

    On a processor 2 per thread, at least 4, on a GPU 64: more are no faster (docs/speed.md). The widest layer of the
    decoder decides how much memory an image takes; all of them together take at most half of what is free.
    """
    wanted = max(4, 2 * torch.get_num_threads()) if pipeline.unet.device.type == "cpu" else 64
    settings = pipeline.vae.config
    side = pipeline.image_size // settings.get("patch_size", 1)
    per_image = _LIVE * 4 * settings.block_out_channels[0] * side**2  # float32
    free = _free_memory(pipeline.unet.device)
    return wanted if free is None else max(1, min(wanted, int(free / 2 / per_image)))


_LIVE = 8  # tensors of the decoder's widest layer at one time


def _free_memory(device: torch.device) -> int | None:
    """Return the bytes that are free on a device; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return 1024 * kilobytes[0] if kilobytes else None


def conformance(
    pipeline: XRealPipeline, images: Sequence[np.ndarray] | np.ndarray, organ_masks: np.ndarray
) -> list[dict[str, float]]:
    """Measure per image the Dice of each requested organ that the segmenter knows with the same organ in the image.

    Args:
        pipeline: its segmenter is used.
        images: B pictures (H, W), float32 in [0, 1], of any size: they are fitted to the masks.
        organ_masks: requested, (B, S, S) uint8, or (S, S) of all images.
    """
    segmenter = pipeline.network("segmenter")
    squares = np.stack([fit_square(image, organ_masks.shape[-1]) for image in images])
    found = segment(segmenter, torch.from_numpy(squares)[:, None])
    known = np.broadcast_to(np.where(organ_masks < segmenter.config.organs, organ_masks, Organ.BACKGROUND), found.shape)
    return [
        {organ: round(value, 4) for organ, value in dice_per_organ(wanted, seen).items()}
        for wanted, seen in zip(known, found, strict=True)
    ]


def lesion_changes(
    image: np.ndarray, healthy: np.ndarray, lesion_masks: Sequence[np.ndarray] | np.ndarray
) -> list[float]:
    """Measure in each lesion the mean of |with lesions − without|, of white.

    Args:
        image: (H, W) float32 in [0, 1].
        healthy: its twin.
        lesion_masks: K times (H, W) in [0, 1]; what is above 0 counts.
    """
    return [round(float(np.abs(image - healthy)[mask > 0].mean()), 4) for mask in lesion_masks]


def unseen(drawn: Sequence[Drawn]) -> dict[str, float]:
    """Return the findings that on average change their places too little to be seen, and by how much, of white."""
    changes: dict[str, list[float]] = {}
    for one in drawn:
        for lesion, change in zip(one.record["lesions"], one.record["change"], strict=True):
            changes.setdefault(lesion["finding"], []).append(change)
    means = {finding: sum(values) / len(values) for finding, values in changes.items()}
    return {finding: mean for finding, mean in means.items() if mean < _SEEN}


def draw(
    pipeline: XRealPipeline,
    organ_mask: np.ndarray | None,
    lesions: Sequence[Lesion],
    seeds: Sequence[int],
    min_dice: float = 0.0,
    retries: int = 0,
    retry_stride: int | None = None,
    **settings: Any,
) -> list[Drawn]:
    """Draw one batch, redrawing with other seeds what does not obey its organ mask.

    Args:
        pipeline: the model.
        organ_mask: (H, W) ``Organ`` labels or None.
        lesions: of all images.
        seeds: one per image; the n-th retry of an image takes its seed + n × ``retry_stride``.
        min_dice: every requested organ must reach it.
        retries: how often an image may be redrawn; the best of all tries is kept.
        retry_stride: default the number of seeds; where a larger job is drawn in batches, its number of images, so
            that no retry repeats another image's seed.
        settings: further arguments of the pipeline.

    Raises:
        InputError: a ``min_dice`` that cannot be measured: no organ mask, or a model without segmenter.
    """
    if min_dice > 0 and (organ_mask is None or pipeline.segmenter is None):
        raise InputError("min_dice needs an organ mask and a model with a segmenter/; leave it at 0")
    stride = len(seeds) if retry_stride is None else retry_stride
    best: dict[int, Drawn] = {}
    waiting = list(range(len(seeds)))
    for attempt in range(retries + 1):
        tried = [seeds[i] + attempt * stride for i in waiting]
        for index, drawn in zip(waiting, _draw_once(pipeline, organ_mask, lesions, tried, settings), strict=True):
            drawn.record["attempts"] = attempt + 1
            if index not in best or _worst(drawn) > _worst(best[index]):
                best[index] = drawn
        waiting = [i for i in waiting if _worst(best[i]) < min_dice]
        if not waiting:
            break
    for i, drawn in best.items():
        drawn.record["accepted"] = i not in waiting
    return [best[i] for i in range(len(seeds))]


def _worst(drawn: Drawn) -> float:
    return min(drawn.record["conformance"].values(), default=1.0)


def _draw_once(
    pipeline: XRealPipeline,
    organ_mask: np.ndarray | None,
    lesions: Sequence[Lesion],
    seeds: Sequence[int],
    settings: dict[str, Any],
) -> list[Drawn]:
    output = pipeline(organ_mask, lesions, seeds, **settings)
    dice: list[dict[str, float]] = [{} for _ in seeds]
    if output.organ_masks is not None and pipeline.segmenter is not None:
        dice = conformance(pipeline, output.images, output.organ_masks)
    findings = [{"finding": lesion.finding.value, "strength": lesion.strength} for lesion in lesions]
    changes: list[list[float]] = [[] for _ in seeds]
    if output.healthy is not None:
        both = zip(output.images, output.healthy, output.lesion_masks, strict=True)
        changes = [lesion_changes(*one) for one in both]
    return [
        Drawn(
            image=output.images[i],
            healthy=None if output.healthy is None else output.healthy[i],
            prior=None if output.priors is None else output.priors[i],
            organ_mask=None if output.organ_masks is None else output.organ_masks[i],
            lesion_masks=output.lesion_masks[i],
            record={"seed": seed, "lesions": findings, **output.settings, "conformance": dice[i], "change": changes[i]},
        )
        for i, seed in enumerate(output.seeds)
    ]


def write_drawn(out: Path, first: int, drawn: Sequence[Drawn], provenance: dict[str, Any]) -> None:
    """Write ``0000.png`` and ``0000.json``, counting from ``first``, and beside them what ``evaluate`` reads with them.

    With lesions ``0000-healthy.png`` and ``0000-lesion.png``, all of them in one mask; with organs ``0000-organs.png``.

    Args:
        out: folder that exists.
        first: number of the first image.
        drawn: images.
        provenance: what all images share, such as the weights' hash and the inputs' names.
    """
    for number, one in enumerate(drawn, first):
        record = {"xreal": xreal.__version__, **provenance, **one.record}
        text = {"xreal:seed": str(record["seed"]), "xreal:weights": str(record.get("weights", ""))}
        write_image(out / f"{number:04d}.png", one.image, text)
        if one.healthy is not None:
            write_image(out / f"{number:04d}-healthy.png", one.healthy, text)
        if len(one.lesion_masks):
            write_image(out / f"{number:04d}-lesion.png", one.lesion_masks.max(axis=0))
        if one.organ_mask is not None:
            write_organ_mask(out / f"{number:04d}-organs.png", one.organ_mask)
        write_json(out / f"{number:04d}.json", record)


def write_drawn_dicom(out: Path, first: int, drawn: Sequence[Drawn], weights: str) -> None:
    """Write ``0000.dcm``, ``0000-healthy.dcm`` (with lesions) and ``0000-seg.dcm`` (the masks, where there are any).

    Identifiers are made from seed, settings, weights and masks, not from where files lie: drawn again, they are the
    same. The three are one study.

    Args:
        out: folder that exists.
        first: number of the first image.
        drawn: images.
        weights: hash of the model's weights.

    Raises:
        InputError: the extra ``dicom`` is not installed.
        OutputError: a file cannot be written.
    """
    results = ("conformance", "change", "attempts", "accepted")  # measured, not needed to draw the image again
    for number, one in enumerate(drawn, first):
        provenance = {key: value for key, value in one.record.items() if key not in results}
        masks = [one.lesion_masks] if one.organ_mask is None else [one.organ_mask, one.lesion_masks]
        provenance |= {"weights": weights, "masks": hashlib.sha256(b"".join(m.tobytes() for m in masks)).hexdigest()}
        path = out / f"{number:04d}.dcm"
        write_dicom(path, one.image, provenance)
        if one.healthy is not None:
            write_dicom(
                out / f"{number:04d}-healthy.dcm",
                one.healthy,
                provenance,
                series_description="Synthetic chest X-ray without the lesions",
                series_number=2,
            )
        findings = [lesion["finding"] for lesion in one.record["lesions"]]
        if findings or one.organ_mask is not None:
            lesions = zip(findings, one.lesion_masks, strict=True)
            write_segmentation(out / f"{number:04d}-seg.dcm", path, one.organ_mask, lesions)


def _sheet_row(one: Drawn) -> list[np.ndarray]:
    """Return the pictures of one row: organ mask, lesion mask, prior, generated, healthy twin, difference."""
    row = []
    if one.organ_mask is not None:
        row.append(colour_labels(one.organ_mask))
    if one.prior is not None:
        row.append(one.prior)
    if one.healthy is not None:
        union = one.lesion_masks.max(axis=0)
        row += [overlay(one.healthy, union), one.image, one.healthy, signed_difference(one.image, one.healthy)]
    else:
        row.append(one.image)
    return row


def _sheet_titles(one: Drawn) -> list[str]:
    """Return the titles over ``_sheet_row``."""
    titles = ["organ mask"] if one.organ_mask is not None else []
    titles += ["prior"] if one.prior is not None else []
    return titles + (["lesion", "generated", "healthy", "difference x2"] if one.healthy is not None else ["generated"])


def write_contact_sheet(path: Path, drawn: Sequence[Drawn]) -> None:
    """Write one row per image."""
    write_sheet(path, [_sheet_row(one) for one in drawn], _sheet_titles(drawn[0]))
