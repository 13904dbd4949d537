"""The two sides of a study, brought to one size so that nothing but the X-ray itself tells them apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from xreal.data.prepared import PreparedDataset
from xreal.errors import InputError
from xreal.evaluation.cases import Cases, picture_paths, read_cases
from xreal.images import fit_square_mask, read_image
from xreal.masks.segmenter import segment
from xreal.segmentation import load_segmenter

__all__ = ["Group", "find_organs", "read_folder", "read_prepared", "same_frame", "take_some"]

_LEAST_FRAME = 0.6


@dataclass(frozen=True)
class Group:
    """Pictures of one kind.

    Attributes:
        name: of the group, such as "real".
        generated: the truth about all of them.
        cases: the pictures, padded to squares, and what was asked of them.
        frame: share of the square's height and width that every picture fills; (1, 1) for square ones.
    """

    name: str
    generated: bool
    cases: Cases
    frame: tuple[float, float] = (1.0, 1.0)


def take_some(count: int, n: int | None, seed: int) -> list[int]:
    """Choose n of ``count`` at random, all where n is None or larger."""
    chosen = np.random.default_rng(seed).permutation(count)[:n]
    return [int(i) for i in sorted(chosen)]


def read_folder(folder: Path, name: str, generated: bool, n: int | None, seed: int, size: int | None) -> Group:
    """Read n pictures of a folder.

    Args:
        folder: see ``read_cases`` for what may stand beside a picture.
        name: of the group.
        generated: what the pictures are.
        n: how many, None for all.
        seed: of the choice.
        size: pixels a side; None: the longer side of the smallest picture.

    Raises:
        DataError, ImageError: nothing there, or a picture cannot be read.
    """
    paths = picture_paths(folder)
    paths = [paths[i] for i in take_some(len(paths), n, seed)]
    shapes = [read_image(path).shape for path in paths]
    size = min(max(shape) for shape in shapes) if size is None else size
    height, width = (min(shape[axis] / max(shape) for shape in shapes) for axis in (0, 1))
    return Group(name, generated, read_cases(folder, size, paths), (height, width))


def read_prepared(folder: Path, name: str, split: str, n: int | None, seed: int) -> Group:
    """Read n real X-rays of a prepared data set."""
    data = PreparedDataset([folder], split)
    return Group(name, False, Cases.from_samples(data[i] for i in take_some(len(data), n, seed)))


def find_organs(cases: Cases, model: str) -> Cases:
    """Add the organ masks that a model's segmenter finds to X-rays that have none.

    Raises:
        ModelError: the model has no segmenter.
    """
    missing = [i for i, mask in enumerate(cases.organ_masks) if not mask.any()]
    if not missing:
        return cases
    segmenter = load_segmenter(model)
    size, side = segmenter.config.sample_size, cases.images.shape[-1]
    images = torch.from_numpy(cases.images[missing])[:, None]
    small = torch.nn.functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
    masks = cases.organ_masks.copy()
    with torch.inference_mode():
        masks[missing] = [fit_square_mask(mask, side) for mask in segment(segmenter, small)]
    return replace(cases, organ_masks=masks)


def same_frame(groups: Sequence[Group]) -> list[Group]:
    """Cut all pictures to the middle part that every picture of every group fills.

    A black border beside pictures of one kind only would give them away.

    Raises:
        InputError: sizes differ, or little is left.
    """
    sizes = {group.cases.images.shape[1:] for group in groups}
    if len(sizes) > 1:
        raise InputError(f"pictures are {' and '.join(map(str, sorted(sizes)))} pixels; expected one size for all")
    side = sizes.pop()[0]
    height, width = (min(group.frame[axis] for group in groups) for axis in (0, 1))
    if min(height, width) < _LEAST_FRAME:
        raise InputError(
            f"some pictures fill only {width:.0%} of a square's width or {height:.0%} of its height, so that cutting "
            "all alike would lose too much; crop those to nearly square first"
        )
    rows, columns = (_middle(side, share) for share in (height, width))

    def cut(stack: np.ndarray) -> np.ndarray:
        return stack[:, rows, columns]

    return [
        replace(
            group,
            cases=replace(
                group.cases,
                images=cut(group.cases.images),
                organ_masks=cut(group.cases.organ_masks),
                lesion_masks=cut(group.cases.lesion_masks),
                healthy=cut(group.cases.healthy),
            ),
            frame=(1.0, 1.0),
        )
        for group in groups
    ]


def _middle(side: int, share: float) -> slice:
    # One pixel more where something is cut: resizing mixes the border's black into the outermost line.
    border = 0 if share == 1 else int(np.ceil(side * (1 - share) / 2)) + 1
    return slice(border, side - border)
