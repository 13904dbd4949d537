"""Organ masks: read, check, write, resize, and measure label maps of lungs, heart and aorta.

Labels are :class:`xreal.vocabulary.Organ`; left and right are the patient's, so the right lung is on the left of the
image. File values are checked against the two known encodings and never guessed from the largest value. What is not
a label map (H, W) of integers 0 to 4 raises ``MaskError`` in every function.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from xreal.errors import ImageError, MaskError, OutputError
from xreal.images import fit_square_mask, open_picture, write_bytes
from xreal.masks.pieces import largest_piece, tail
from xreal.vocabulary import Organ

__all__ = [
    "cardiothoracic_ratio",
    "check_organ_mask",
    "dice_per_organ",
    "implausible",
    "organ_fractions",
    "read_organ_mask",
    "resize_organ_mask",
    "write_organ_mask",
]

OrganMask = npt.NDArray[np.uint8]

# Grey levels of the paper's mask files, by label.
_PAPER_LEVELS = (0, 64, 128, 192, 255)

# Colours of written files, by label. None is a grey level of the paper, so that a palette file has one reading only.
_PALETTE = ((0, 0, 0), (86, 180, 233), (0, 114, 178), (213, 94, 0), (240, 228, 66))

# Ranges for a frontal chest X-ray. Source: JSRT expert masks (SCR), min and max over 200 images at 224 x 224.
# Fractions of the image area: left lung 0.069 to 0.215, right lung 0.099 to 0.250, heart 0.058 to 0.142, all widened
# by the factor 1.75, because other sets crop looser or tighter and disease shrinks lungs and enlarges hearts.
_AREA_FRACTIONS = {
    Organ.LEFT_LUNG: (0.039, 0.376),
    Organ.RIGHT_LUNG: (0.057, 0.438),
    Organ.HEART: (0.033, 0.249),
}
# Left to right lung area 0.54 to 1.00 (the heart covers some of the left lung), widened by the factor 1.75.
_LEFT_TO_RIGHT_LUNG = (0.31, 1.75)
# Heart centroid in the bounding box of both lungs: across 0.50 to 0.65, down 0.59 to 0.85, widened by 0.15.
_HEART_ACROSS = (0.35, 0.80)
_HEART_DOWN = (0.44, 1.00)
# Share of a lung in its tail, see ``pieces.tail``: at most 0.026 (left, beside the heart), widened by the factor 1.75.
_TAIL_RADIUS, _LARGEST_TAIL = 0.02, 0.046
_LARGEST_PIECE = 0.9  # every organ was in one piece; this allows for specks and a corner cut off by a tube


def read_organ_mask(path: str | os.PathLike[str], levels: Literal["auto", "index", "paper"] = "auto") -> OrganMask:
    """Read an organ mask from a grey or indexed picture, or from an ``.npy`` array.

    Args:
        path: PNG or TIFF (grey, or indexed colour), or ``.npy``.
        levels: "index": values are labels 0 to 4. "paper": grey levels 0, 64, 128, 192, 255 mean labels 0 to 4.
            "auto": whichever of the two holds every value of the file. Indexed colour is read by its indices or,
            where all its colours are grey levels of the paper, by those.

    Returns:
        (H, W) uint8 labels, in the file's size.

    Raises:
        MaskError: the file is missing, damaged, has colours or other values, can be read two ways, or is empty.
    """
    path = Path(path)
    if levels not in ("auto", "index", "paper"):
        raise MaskError(f'levels is {levels!r}; expected "auto", "index" or "paper".')
    planes = [_read_array(path)] if path.suffix.lower() == ".npy" else _read_picture(path)
    readings: list[OrganMask] = []
    if levels != "paper" and np.isin(planes[0], tuple(Organ)).all():
        readings.append(planes[0].astype(np.uint8))
    if levels != "index":
        paper = [plane for plane in planes if np.isin(plane, _PAPER_LEVELS).all()]
        readings += [np.searchsorted(_PAPER_LEVELS, plane).astype(np.uint8) for plane in paper]
    if not readings:
        raise MaskError(_unknown_values(path, planes[0], levels))
    if any(not np.array_equal(readings[0], other) for other in readings[1:]):
        raise MaskError(
            f"{path} can be read two ways: by its palette's indices or by its colours, grey levels of the paper. "
            'Say which with levels="index" or levels="paper".'
        )
    return check_organ_mask(readings[0])


def _read_array(path: Path) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MaskError(f"{path} cannot be read as .npy ({error}). Save the labels with numpy.save.") from error
    _check_integers(array, str(path))
    return array


def _read_picture(path: Path) -> list[npt.NDArray[Any]]:
    """Read the stored values and, where indices stand for grey levels, those levels."""
    try:
        picture = open_picture(path)
    except ImageError as error:
        raise MaskError(str(error)) from error
    if picture.mode == "P":
        shown = np.asarray(picture.convert("RGB"))
        return [np.asarray(picture)] + [shown[..., 0]] * bool((shown == shown[..., :1]).all())
    if picture.mode not in ("L", "I") and not picture.mode.startswith("I;16"):
        raise MaskError(
            f"{path} is a picture of mode {picture.mode!r}; expected grey or indexed colour. In RGB and 1-bit files "
            "no label is known: save the mask as grey or indexed PNG with values 0 to 4 (Organ)."
        )
    return [np.asarray(picture)]


def _unknown_values(path: Path, stored: npt.NDArray[Any], levels: str) -> str:
    wanted = {"index": "0 to 4 (Organ)", "paper": "0, 64, 128, 192, 255 (grey levels of the paper)"}
    wanted["auto"] = " or ".join(wanted.values())
    known = {"index": tuple(Organ), "paper": _PAPER_LEVELS, "auto": (*Organ, *_PAPER_LEVELS)}[levels]
    strange = np.setdiff1d(stored, known)
    held = _values(strange if strange.size else np.unique(stored))
    advice = "Give each organ its label, then save it again."
    if strange.size > len(Organ) or path.suffix.lower() in (".jpg", ".jpeg"):
        advice = (
            "So many values come from JPEG or from linear or cubic resizing, which ruin label maps: start from the "
            "original mask, resize it by nearest neighbour and save it as PNG."
        )
    return f"{path} holds {held}; expected {wanted[levels]}. {advice}"


def _values(values: npt.NDArray[Any]) -> str:
    names = ", ".join(str(value) for value in values[:6].tolist())
    return f"value {names}" if values.size == 1 else f"values {names}{', …' if values.size > 6 else ''}"


def write_organ_mask(path: str | os.PathLike[str], mask: npt.NDArray[Any]) -> None:
    """Write an organ mask as indexed PNG, index = label with a colour each, or as ``.npy``.

    Args:
        path: ends in ".png" or ".npy"; the folder exists.
        mask: (H, W) labels.

    Raises:
        MaskError: the mask is empty.
        OutputError: the file cannot be written.
    """
    path, labels, buffer = Path(path), check_organ_mask(mask), io.BytesIO()
    if path.suffix.lower() == ".npy":
        np.save(buffer, labels)
    elif path.suffix.lower() == ".png":
        picture = Image.fromarray(labels).convert("L")
        picture.putpalette([channel for colour in _PALETTE for channel in colour])
        picture.save(buffer, "PNG")
    else:
        raise OutputError(f"{path} ends in neither .png nor .npy; organ masks are written as these. Change the name.")
    write_bytes(path, buffer.getvalue())


def _check_integers(mask: npt.NDArray[Any], name: str) -> None:
    if mask.dtype.kind not in "iu":  # bool neither: it does not say which organ it marks
        advice = "Multiply it by a member of Organ" if mask.dtype == np.bool_ else "Convert it to uint8"
        raise MaskError(f"{name} is {mask.dtype}; expected integers, labels 0 to 4 (Organ). {advice}.")
    if mask.ndim != 2 or mask.size == 0:
        raise MaskError(f"{name} has shape {mask.shape}; expected (H, W), one label a pixel.")


def _check_labels(mask: npt.NDArray[Any], name: str) -> OrganMask:
    mask = np.asarray(mask)
    _check_integers(mask, name)
    if mask.min() < min(Organ) or mask.max() > max(Organ):
        strange = np.setdiff1d(mask, tuple(Organ))
        raise MaskError(
            f"{name} holds {_values(strange)}; expected 0 to 4 (Organ). "
            'For 0–255 grey levels use read_organ_mask(..., levels="paper").'
        )
    return mask.astype(np.uint8)


def check_organ_mask(mask: npt.NDArray[Any], size: int | None = None) -> OrganMask:
    """Check a label map and return a (H, W) uint8 copy.

    Args:
        mask: (H, W) integers 0 to 4; organs may be missing.
        size: the wanted height and width; None takes any.

    Raises:
        MaskError: another dtype (bool too: it names no organ), shape or value, or no organ at all.
    """
    labels = _check_labels(mask, "organ_mask")
    if size is not None and labels.shape != (size, size):
        raise MaskError(
            f"organ_mask is {labels.shape[0]} x {labels.shape[1]} (height x width); expected {size} x {size}. "
            f"Use resize_organ_mask(mask, {size})."
        )
    if not labels.any():
        raise MaskError("organ_mask is all background; expected at least one organ, labels 1 to 4 (Organ).")
    return labels


def resize_organ_mask(mask: npt.NDArray[Any], size: int) -> OrganMask:
    """Resize by nearest neighbour to a square; a mask that is not square is first padded with background, centred.

    The geometry is that of ``xreal.images.fit_square``, so a mask and its image stay aligned.

    Args:
        mask: (H, W) labels 0 to 4, not empty.
        size: pixels a side of the (size, size) uint8 result.

    Raises:
        MaskError: no organ is left at this size.
    """
    return check_organ_mask(fit_square_mask(check_organ_mask(mask), size))


def organ_fractions(mask: npt.NDArray[Any]) -> dict[str, float]:
    """Measure each organ's share of the image area, in [0, 1], by ``Organ.title``; 0.0 for a missing organ."""
    labels = _check_labels(mask, "organ_mask")
    return {organ.title: float((labels == organ).mean()) for organ in Organ if organ}


def dice_per_organ(requested: npt.NDArray[Any], found: npt.NDArray[Any]) -> dict[str, float]:
    """Compare the organs found in an image with those that it was asked to have.

    Args:
        requested: (H, W) labels; organs absent from it are left out, since nothing was asked of them.
        found: (H, W) labels; may be empty.

    Returns:
        ``Organ.title`` to the Dice coefficient in [0, 1].

    Raises:
        MaskError: the sizes differ.
    """
    requested, found = _check_labels(requested, "requested mask"), _check_labels(found, "found mask")
    if requested.shape != found.shape:
        raise MaskError(f"requested mask is {requested.shape}, found mask {found.shape}; expected the same size.")
    pairs = {organ.title: (requested == organ, found == organ) for organ in Organ if organ and organ in requested}
    return {title: float(2 * (a & b).sum() / (a.sum() + b.sum())) for title, (a, b) in pairs.items()}


def cardiothoracic_ratio(mask: npt.NDArray[Any]) -> float | None:
    """Divide the heart's widest horizontal extent by that of both lungs; None if the heart or a lung is missing.

    Extents run over all rows. The lungs' stands for the inner width of the chest that is measured on radiographs.
    """
    labels = _check_labels(mask, "organ_mask")
    if not np.isin((Organ.LEFT_LUNG, Organ.RIGHT_LUNG, Organ.HEART), labels).all():
        return None
    heart = np.flatnonzero((labels == Organ.HEART).any(axis=0))
    lungs = np.flatnonzero(np.isin(labels, (Organ.LEFT_LUNG, Organ.RIGHT_LUNG)).any(axis=0))
    return float((np.ptp(heart) + 1) / (np.ptp(lungs) + 1))


def implausible(mask: npt.NDArray[Any]) -> list[str]:
    """List, a sentence each, why lungs and heart could not be those of an upright frontal chest X-ray.

    The list is empty for a plausible mask. The constants of this module hold the ranges. The aorta is not judged.
    """
    labels = _check_labels(mask, "organ_mask")
    fractions = organ_fractions(labels)
    missing = [organ for organ in _AREA_FRACTIONS if not fractions[organ.title]]
    reasons = [f"The {organ.title} is missing." for organ in missing]
    for organ in (organ for organ in _AREA_FRACTIONS if organ not in missing):
        low, high = _AREA_FRACTIONS[organ]
        if not low <= fractions[organ.title] <= high:
            share = f"{fractions[organ.title]:.1%}, usual are {low:.1%} to {high:.1%}"
            reasons.append(f"The {organ.title}'s share of the image is {share}.")
        if (piece := largest_piece(labels == organ).sum() / (labels == organ).sum()) < _LARGEST_PIECE:
            reasons.append(f"The {organ.title} is in pieces; the largest holds {piece:.0%} of it.")
        if organ is not Organ.HEART and (thin := tail(labels == organ, _TAIL_RADIUS)) > _LARGEST_TAIL:
            reasons.append(f"The {organ.title} has a thin tail, {thin:.1%} of it; usual is up to {_LARGEST_TAIL:.1%}.")
    if not missing:
        reasons += _implausible_layout(labels)
    return reasons


def _implausible_layout(labels: OrganMask) -> list[str]:
    reasons = []
    places = [np.nonzero(labels == organ) for organ in (Organ.LEFT_LUNG, Organ.RIGHT_LUNG, Organ.HEART)]
    left, right = places[0][1], places[1][1]
    if right.mean() >= left.mean():
        reasons.append("The right lung is not on the left of the image: sides are the patient's; mirrored or swapped?")
    ratio = left.size / right.size
    if not _LEFT_TO_RIGHT_LUNG[0] <= ratio <= _LEFT_TO_RIGHT_LUNG[1]:
        reasons.append(f"The left lung has {ratio:.2f} of the right lung's area; usual are {_LEFT_TO_RIGHT_LUNG}.")
    for axis, word, (low, high) in ((1, "across", _HEART_ACROSS), (0, "down", _HEART_DOWN)):
        span = np.concatenate([places[0][axis], places[1][axis]])
        place = (places[2][axis].mean() - span.min()) / (np.ptp(span) + 1)
        if not low <= place <= high:
            reasons.append(f"The heart's centre is {place:.2f} {word} the lungs' extent; usual are {low} to {high}.")
    return reasons
