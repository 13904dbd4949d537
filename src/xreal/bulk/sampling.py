"""The anatomy and the lesions of one image of a data set, drawn at random from its own seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from xreal.bulk.owners import draw_owner
from xreal.bulk.plan import Anatomies, Plan, Range
from xreal.data.prepared import PreparedDataset
from xreal.errors import DataError, InputError, MaskError
from xreal.masks.areas import extent
from xreal.masks.fluid import above_fluid
from xreal.masks.lesions import Lesion
from xreal.masks.organs import OrganMask, read_organ_mask, resize_organ_mask
from xreal.masks.shapes import sample_organ_mask
from xreal.vocabulary import Finding, Organ, prompt_from_findings

__all__ = ["BoxSets", "Item", "check_places", "image_seed", "list_masks", "read_boxes", "sample_item"]

BoxSets = Mapping[str, Sequence[Sequence[Sequence[float]]]]
"""Finding to one list of boxes per real image: x0, y0, x1, y1, where both lungs together span 0 to 1 each way."""

_LUNGS = (Organ.LEFT_LUNG, Organ.RIGHT_LUNG)
_OF_THE_HEART = (Finding.CARDIOMEGALY, Finding.ENLARGED_CARDIOMEDIASTINUM)
_NOT_IN_THE_LUNGS = (Finding.FRACTURE, Finding.HERNIA, Finding.SUPPORT_DEVICES)
_TRIES = 50
_LEAST_INSIDE = 0.6  # of an ellipse that must lie in the lung, so that no lesion is a sliver along its border
_ASPECT = (0.6, 1.6)  # of an ellipse, width over height
_ROUND = (0.8, 1.25)  # of a nodule or mass
_MARGIN = 6 / 256  # of the side: over this lesions fade inside their border
_AREA = (0.05, 0.25)  # of an ellipse, share of both lungs' area
# Both lungs of the average chest have 18,000 of 256² pixels of 1.7 mm: nodules of 20 to 30 mm (smaller ones are hardly
# seen), masses of 30 to 75 mm, in diameter (Fleischner Society: a nodule has at most 30 mm).
_AREAS = {Finding.NODULE: (0.006, 0.014), Finding.MASS: (0.014, 0.085)}


@dataclass(frozen=True, eq=False)
class Item:
    """What one image shall be.

    Attributes:
        index: its number in the data set.
        organ_mask: (S, S) uint8 ``Organ``.
        anatomy: where the mask is from: {"masks": file name}, {"redraw": image id} or {"shape_seed": ..., settings of
            the shape model}.
        lesions: masks (S, S) of 0 and 1.
        shown: findings of the whole X-ray, which have no place; None where lesions say what is shown.
    """

    index: int
    organ_mask: OrganMask
    anatomy: dict[str, Any]
    lesions: tuple[Lesion, ...]
    shown: tuple[Finding, ...] | None = None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All that the image shows, with a place or without."""
        return tuple(lesion.finding for lesion in self.lesions) if self.shown is None else self.shown

    def prompt(self, default: str) -> str:
        """Return the prompt of the whole X-ray: what it shows, where that has no place."""
        return default if self.shown is None else prompt_from_findings(self.shown or [Finding.NO_FINDING])


def image_seed(plan: Plan, index: int, attempt: int) -> int:
    """Return the seed of one try at one image, below 2^48 so that JSON readers keep it whole."""
    state = np.random.SeedSequence((plan.seed, index, attempt)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(16))


def sample_item(plan: Plan, index: int, size: int, masks: Sequence[Path], boxes: BoxSets) -> Item:
    """Draw anatomy and lesions of one image; they depend on the plan and the index alone.

    Args:
        plan: the data set's.
        index: of the image, 0 ≤ index < plan.n.
        size: pixels a side.
        masks: of ``list_masks``; empty: the shape model.
        boxes: of ``read_boxes``; used where the plan says so.

    Raises:
        InputError: no plausible chest lies within the plan's ranges.
        MaskError: a mask is not usable, or lacks an organ that a lesion needs.
    """
    generator = np.random.default_rng((plan.seed, index))
    if plan.anatomies.redraw:
        owner = draw_owner(generator, plan.anatomies.redraw, plan.findings_of(index))
        organ_mask = resize_organ_mask(owner.organ_mask, size)
        return Item(index, organ_mask, {"redraw": owner.image_id}, (), owner.findings)
    if masks:
        path = masks[int(generator.integers(len(masks)))]
        organ_mask, anatomy = resize_organ_mask(read_organ_mask(path), size), {"masks": path.name}
    else:
        organ_mask, anatomy = _sample_chest(generator, plan.anatomies, size)
    lesions = []
    for finding in plan.findings_of(index):
        if plan.lesions.boxes:
            mask = _place_boxes(generator, organ_mask, boxes[finding.value])
        elif finding in _OF_THE_HEART:
            mask = _organ(organ_mask, (Organ.HEART,))
        elif finding is Finding.PLEURAL_EFFUSION and plan.lesions.area is None:
            mask = _place_effusion(generator, organ_mask)
        else:
            mask = _place_ellipse(generator, organ_mask, finding, plan.lesions.area or _AREAS.get(finding, _AREA))
        strength = round(float(generator.uniform(*plan.lesions.strength)), 3)
        lesions.append(Lesion(finding, mask, strength))
    return Item(index, organ_mask, anatomy, tuple(lesions))


def _sample_chest(generator: np.random.Generator, within: Anatomies, size: int) -> tuple[OrganMask, dict[str, Any]]:
    ranges = {
        "ctr": within.ctr,
        "heart_scale": within.heart_scale,
        "lung_scale": within.lung_scale,
        "tilt": within.tilt,
    }
    for attempt in range(_TRIES):
        settings: dict[str, Any] = {
            name: round(float(generator.uniform(*r)), 4) for name, r in ranges.items() if r is not None
        }
        seed = int(generator.integers(2**32))
        try:
            return sample_organ_mask(seed, size, **settings), {"shape_seed": seed, **settings}
        except InputError as error:  # these measures do not go together: draw others
            if attempt == _TRIES - 1 or not settings:
                raise InputError(
                    f"anatomies: no plausible chest in {_TRIES} draws from the plan's ranges ({error})"
                ) from error
    raise AssertionError("unreachable")


def _organ(organ_mask: OrganMask, organs: Sequence[Organ]) -> np.ndarray:
    mask = np.isin(organ_mask, organs)
    if not mask.any():
        raise MaskError(
            f"an organ mask has no {' or '.join(organ.title for organ in organs)}, where a lesion was to go"
        )
    return mask


def _place_effusion(generator: np.random.Generator, organ_mask: OrganMask) -> np.ndarray:
    """Return the base of one lung, below a meniscus, and a margin beyond the lung, for it hides diaphragm and wall.

    Lesions fade inside their border: without the margin a dark rim of lung would stay between fluid and diaphragm.
    """
    there = np.intersect1d(_LUNGS, organ_mask[_organ(organ_mask, _LUNGS)])
    side = there[int(generator.integers(len(there)))]
    lung = organ_mask == side
    fluid = lung & (above_fluid(lung, bool(side == Organ.RIGHT_LUNG), generator) < 0)
    margin = max(1, round(_MARGIN * organ_mask.shape[0]))
    around: np.ndarray = ndimage.binary_dilation(fluid, iterations=margin) & (organ_mask == Organ.BACKGROUND)
    return fluid | around


def _place_ellipse(
    generator: np.random.Generator, organ_mask: OrganMask, finding: Finding, within: Range
) -> np.ndarray:
    """Return an ellipse of random size, shape and place, cut at the border of the lung that its centre is in."""
    lungs = _organ(organ_mask, _LUNGS)
    rows, columns = np.nonzero(lungs)
    y, x = np.mgrid[: lungs.shape[0], : lungs.shape[1]]
    best, most = lungs, -1.0
    for _ in range(_TRIES):
        area = len(rows) * np.exp(generator.uniform(*np.log(within)))
        aspect = np.exp(generator.uniform(*np.log(_ROUND if finding in _AREAS else _ASPECT)))
        ry = np.sqrt(area / np.pi / aspect)
        centre = int(generator.integers(len(rows)))
        cy, cx = rows[centre], columns[centre]
        ellipse = ((x - cx) / (ry * aspect)) ** 2 + ((y - cy) / ry) ** 2 <= 1
        inside = ellipse & (organ_mask == organ_mask[cy, cx])
        share = inside.sum() / ellipse.sum()
        if share > most:
            best, most = inside, share
        if share >= _LEAST_INSIDE:
            break
    return best


def _place_boxes(generator: np.random.Generator, organ_mask: OrganMask, sets: Sequence[Any]) -> np.ndarray:
    """Return the boxes of one real image, moved and scaled as the lungs differ."""
    x0, y0, x1, y1 = extent(_organ(organ_mask, _LUNGS))
    mask = np.zeros(organ_mask.shape, bool)
    for _ in range(_TRIES):
        for box in sets[int(generator.integers(len(sets)))]:
            left, right = (round(x0 + share * (x1 - x0)) for share in (box[0], box[2]))
            top, bottom = (round(y0 + share * (y1 - y0)) for share in (box[1], box[3]))
            mask[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
        if mask.any():
            return mask
    raise DataError("boxes of real lesions lie outside this chest; leave them out of the plan")


def list_masks(anatomies: Anatomies) -> list[Path]:
    """List the organ masks of the plan's folder, sorted, each read once to see that it is usable; none without folder.

    Raises:
        DataError: the folder is missing or holds no mask. MaskError: one is not usable.
    """
    if anatomies.masks is None:
        return []
    folder = Path(anatomies.masks)
    # Contact sheets of `masks sample` lie beside its masks.
    paths = [] if not folder.is_dir() else [p for p in sorted(folder.iterdir()) if p.suffix in (".png", ".npy")]
    paths = [path for path in paths if path.name != "sheet.png"]
    if not paths:
        raise DataError(
            f"{folder} holds no organ masks (.png, .npy); make some with `xreal masks sample --out {folder}`"
        )
    for path in paths:
        read_organ_mask(path)
    return paths


def check_places(plan: Plan, boxes: BoxSets) -> None:
    """Refuse findings that have no place.

    Raises:
        DataError: no real box of a finding. InputError: a finding that lies in neither lungs nor heart, without boxes.
    """
    for finding in dict.fromkeys(finding for group in plan.images for finding in group.findings):
        if plan.lesions.boxes and not boxes.get(finding.value):
            have = ", ".join(f"{name} ({len(sets)} images)" for name, sets in sorted(boxes.items())) or "none"
            raise DataError(
                f"{', '.join(plan.lesions.boxes)}: no `train` image with an organ mask has a box of {finding.value}; "
                f"there are {have}"
            )
        if not plan.lesions.boxes and finding in _NOT_IN_THE_LUNGS:
            raise InputError(
                f"{finding.value} lies in neither lungs nor heart; say where by real boxes (lesions: boxes)"
            )


def read_boxes(folders: Iterable[str]) -> dict[str, list[list[list[float]]]]:
    """Collect the boxes of every `train` image that has an organ mask with both lungs, as ``BoxSets``.

    Raises:
        DataError: a folder is no prepared data set.
    """
    found: dict[str, list[list[list[float]]]] = {}
    folders = list(folders)
    if not folders:
        return found
    dataset = PreparedDataset(folders, "train")
    having = set(dataset.with_organ_mask())
    for index, names in enumerate(dataset.box_findings):
        if not names or index not in having:
            continue
        sample = dataset[index]
        if sample.organ_mask is None or not all((sample.organ_mask == lung).any() for lung in _LUNGS):
            continue
        x0, y0, x1, y1 = extent(np.isin(sample.organ_mask, _LUNGS))
        own: dict[str, list[list[float]]] = {}
        for box in sample.boxes:
            across = ((edge - x0) / (x1 - x0) for edge in (box.x, box.x + box.width))
            down = ((edge - y0) / (y1 - y0) for edge in (box.y, box.y + box.height))
            (left, right), (top, bottom) = across, down
            own.setdefault(box.finding.value, []).append([round(v, 4) for v in (left, top, right, bottom)])
        for name, boxes in own.items():
            found.setdefault(name, []).append(boxes)
    return found
