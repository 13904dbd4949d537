"""What is painted on the page, and how it travels: label maps as runs, checked when they come back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from xreal.errors import InputError
from xreal.masks.lesions import Lesion
from xreal.masks.organs import OrganMask
from xreal.vocabulary import Finding, Organ, parse_finding

__all__ = ["MAX_LAYERS", "SIDE", "Canvas", "Layer", "decode_runs", "encode_runs", "read_canvas", "show_canvas"]

SIDE = 256
"""Pixels a side of everything that is painted. Masks of another size are brought to it, models bring it to theirs."""

MAX_LAYERS = 8


@dataclass(frozen=True, eq=False)
class Layer:
    """One finding's layer.

    Attributes:
        finding: one finding has one layer.
        mask: (SIDE, SIDE) uint8, 1 = lesion; may be empty.
        strength: factor on the finding's guidance.
    """

    finding: Finding
    mask: npt.NDArray[np.uint8]
    strength: float


@dataclass(frozen=True, eq=False)
class Canvas:
    """All that is painted.

    Attributes:
        organs: (SIDE, SIDE) labels as shown.
        layers: one per finding.
        paint: (SIDE, SIDE) uint8, 1 + label where an organ (or background) was painted by hand, else 0.
    """

    organs: OrganMask
    layers: tuple[Layer, ...] = ()
    paint: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros((SIDE, SIDE), np.uint8))

    def over(self, organs: OrganMask) -> Canvas:
        """Return the same paint and findings over other organs."""
        shown = np.where(self.paint > 0, self.paint - 1, organs).astype(np.uint8)
        return replace(self, organs=shown)

    def lesions(self) -> list[Lesion]:
        """Return the findings whose layers hold something.

        Raises:
            MaskError: a strength is out of range.
        """
        return [
            Lesion(one.finding, one.mask.astype(np.float32), one.strength)
            for one in self.layers
            if one.mask.any() and one.finding is not Finding.NO_FINDING
        ]

    def removal(self) -> npt.NDArray[np.uint8] | None:
        """Return where findings of an X-ray are to go: the layer of "No Finding"; None where it holds nothing."""
        return next((one.mask for one in self.layers if one.finding is Finding.NO_FINDING and one.mask.any()), None)


def encode_runs(labels: npt.NDArray[Any]) -> list[int]:
    """Write a label map row by row as label, length, label, length, …"""
    flat = np.asarray(labels).ravel()
    starts = np.flatnonzero(np.r_[True, flat[1:] != flat[:-1]])
    lengths = np.diff(np.r_[starts, flat.size])
    return [int(value) for value in np.stack([flat[starts], lengths], axis=1).ravel()]


def decode_runs(runs: Any, highest: int) -> npt.NDArray[np.uint8]:
    """Read what ``encode_runs`` wrote, or what a page claims to be that.

    Args:
        runs: anything.
        highest: the largest label.

    Raises:
        InputError: not runs of labels that fill (SIDE, SIDE).
    """
    good = isinstance(runs, list) and all(type(value) is int for value in runs) and len(runs) % 2 == 0
    if good:
        labels, lengths = runs[::2], runs[1::2]
        good = all(0 <= label <= highest for label in labels) and all(0 < length <= SIDE**2 for length in lengths)
        good = good and sum(lengths) == SIDE**2
    if not good:
        raise InputError(
            f"the drawing is damaged; expected {SIDE} × {SIDE} labels from 0 to {highest}. Load the page anew."
        )
    return np.repeat(np.array(labels, np.uint8), lengths).reshape(SIDE, SIDE)


def read_canvas(payload: Any) -> Canvas:
    """Read what the page sends: nothing of it is trusted.

    Raises:
        InputError: damaged; FindingError: a finding is unknown.
    """
    if not isinstance(payload, Mapping) or not isinstance(payload.get("layers"), list):
        raise InputError("the page sent no drawing; load it anew")
    if len(payload["layers"]) > MAX_LAYERS:
        raise InputError(f"{len(payload['layers'])} findings; expected at most {MAX_LAYERS}. Remove some.")
    layers = []
    for layer in payload["layers"]:
        strength = layer.get("strength") if isinstance(layer, Mapping) else None
        if not isinstance(strength, int | float) or isinstance(strength, bool):
            raise InputError("a layer has no strength; load the page anew")
        finding = parse_finding(str(layer.get("finding")))
        layers.append(Layer(finding, decode_runs(layer.get("runs"), 1), float(strength)))
    if len({layer.finding for layer in layers}) < len(layers):
        raise InputError("a finding has two layers; expected one each. Remove one.")
    organs, paint = decode_runs(payload.get("organs"), max(Organ)), decode_runs(payload.get("paint"), max(Organ) + 1)
    return Canvas(organs, tuple(layers), paint)


def show_canvas(canvas: Canvas) -> dict[str, Any]:
    """Write a drawing for the page."""
    layers = [
        {"finding": one.finding.value, "strength": one.strength, "runs": encode_runs(one.mask)} for one in canvas.layers
    ]
    return {"organs": encode_runs(canvas.organs), "paint": encode_runs(canvas.paint), "layers": layers}
