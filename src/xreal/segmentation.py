"""Organ masks of X-ray files, and of X-rays that are being prepared for training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from xreal.errors import ImageError, ModelError, OutputError
from xreal.images import fit_square, prepare_output_folder, read_image
from xreal.masks.organs import implausible, write_organ_mask
from xreal.masks.segmenter import Segmenter, segment
from xreal.models.folder import load_component, resolve_folder

__all__ = ["load_segmenter", "mask_provider", "segment_files"]

_SUFFIXES = {".dcm", ".png", ".jpg", ".jpeg", ".tif", ".tiff"}


def load_segmenter(model: str) -> Segmenter:
    """Open the segmenter of a bundled model or model folder.

    Raises:
        ModelError: it has none.
    """
    folder = resolve_folder(model)
    if not (folder / "segmenter").is_dir():
        raise ModelError(f"{folder} holds no segmenter/; train one with `xreal train segmenter`")
    segmenter: Segmenter = load_component(folder, "segmenter", "Segmenter")
    return segmenter


def mask_provider(model: str) -> Callable[[np.ndarray], np.ndarray | None]:
    """Return a function image (H, W) -> organ mask, or None where the mask found is implausible."""
    segmenter = load_segmenter(model)

    def provide(image: np.ndarray) -> np.ndarray | None:
        mask: np.ndarray = segment(segmenter, torch.from_numpy(image)[None, None])[0]
        return None if implausible(mask) else mask

    return provide


def segment_files(source: Path, out: Path, model: str) -> Iterator[tuple[Path, list[str]]]:
    """Segment an X-ray or all X-rays of a folder and write the masks, at the model's size.

    Yields:
        Where each mask was written, and what is implausible about it.

    Raises:
        ImageError: nothing to read, or several pictures of one name; or, when all others of a folder are done, some
            could not be read. OutputError: a mask would take the place of an X-ray.
    """
    single = source.is_file()
    paths = [source] if single else sorted(path for path in source.glob("*") if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise ImageError(f"{source} is no picture and no folder of pictures ({', '.join(sorted(_SUFFIXES))})")
    if repeated := [stem for stem, count in Counter(path.stem for path in paths).items() if count > 1]:
        raise ImageError(f"{source} holds several pictures called {repeated[0]}, whose masks would have one name")
    targets = [out if single else out / f"{path.stem}.png" for path in paths]
    if taken := {target.resolve() for target in targets} & {path.resolve() for path in paths}:
        raise OutputError(f"{min(taken)} is an X-ray, which its mask would overwrite; choose another --out")
    first = read_image(source) if single else None  # an unreadable file is reported before weights are loaded
    segmenter = load_segmenter(model)
    if not single:
        prepare_output_folder(out, overwrite=True)
    unreadable = []
    for path, target in zip(paths, targets, strict=True):
        try:
            image = read_image(path) if first is None else first
        except ImageError as error:
            unreadable.append(str(error))
            continue
        square = fit_square(image, segmenter.config.sample_size)
        mask = segment(segmenter, torch.from_numpy(square)[None, None])[0]
        write_organ_mask(target, mask)
        yield target, implausible(mask)
    if unreadable:
        raise ImageError(f"{len(unreadable)} of {len(paths)} pictures have no mask: {'; '.join(unreadable)}")
