"""Latents of a data set, encoded once, and where in them the findings and organs are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from diffusers import AutoencoderKL
from torch import Tensor

from xreal.data.augment import STILL_EDGES, random_affine
from xreal.data.contract import Sample, collate
from xreal.data.prepared import PreparedDataset
from xreal.images import write_json
from xreal.models.autoencoder import downsampling, encode_image
from xreal.models.precision import default_device

__all__ = ["CachedLatents"]

_PART = 16  # samples that are encoded together
_BEND = 0.01  # of copies, as a share of the side: 2.6 of 256 pixels


def _fingerprint(autoencoder: AutoencoderKL) -> str:
    digest = hashlib.sha256()
    for name, weight in autoencoder.state_dict().items():
        digest.update(name.encode() + weight.cpu().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class CachedLatents:
    """Latents, lesions and organs of N samples; the first copy is the image itself, the others are moved a little.

    The arrays stay on disk and are mapped into memory, which the processes of one machine share: what does not fit is
    read as it is needed.

    Attributes:
        arrays: "latents" (N, copies, c, h, w) float16, scaled; "lesions" (N, copies, h, w) float16, the share of each
            latent's pixels that lie in a lesion whose place is known; and, where asked for, "organ_masks"
            (N, copies, H, W) uint8 ``Organ``, all 0 for a sample that has none.
    """

    arrays: dict[str, np.ndarray]

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.arrays["latents"])

    @property
    def copies(self) -> int:
        """How many copies there are of each sample."""
        return int(self.arrays["latents"].shape[1])

    def take(self, name: str, indices: Sequence[int], copies: Tensor | int = 0) -> Tensor:
        """Read one array's rows for these samples and copies; float16 comes as float32."""
        rows = torch.from_numpy(self.arrays[name][np.asarray(indices), np.asarray(copies)])
        return rows.float() if rows.dtype == torch.float16 else rows

    @classmethod
    @torch.no_grad()
    def encode(
        cls, data: PreparedDataset, autoencoder: AutoencoderKL, folder: Path, copies: int, organs: bool = False
    ) -> CachedLatents:
        """Encode all samples, or open ``folder`` where an earlier start of the same run, same autoencoder, wrote them.

        The processes of a distributed run share the work; all must see the same ``folder``.

        Args:
            data: images.
            autoencoder: trained, its ``scaling_factor`` set.
            folder: for one NPY file per array.
            copies: of each image; all but the first are shifted, scaled and turned a little, lesions and organs alike.
            organs: keep organ masks too.
        """
        state = PartialState(cpu=default_device().type == "cpu")
        made_by = {
            "autoencoder": _fingerprint(autoencoder),
            "samples": len(data),
            "copies": copies,
            "organs": organs,
            "version": 5,
        }
        record, size = folder / "made_by.json", autoencoder.config.latent_channels
        fresh = not record.exists() or json.loads(record.read_text()) != made_by
        state.wait_for_everyone()  # all have looked before one begins to change what is there
        if fresh:
            height, width = data[0].image.shape
            grid = (height // downsampling(autoencoder), width // downsampling(autoencoder))
            shapes: dict[str, tuple[tuple[int, ...], str]] = {
                "latents": ((size, *grid), "<f2"),
                "lesions": (grid, "<f2"),
            }
            if organs:
                shapes["organ_masks"] = ((height, width), "|u1")
            if state.is_main_process:
                folder.mkdir(parents=True, exist_ok=True)
                record.unlink(missing_ok=True)
                for name, (shape, kind) in shapes.items():
                    np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, (len(data), copies, *shape))
            state.wait_for_everyone()
            written = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in shapes}
            starts = range(0, len(data), _PART)
            for start in starts[state.process_index :: state.num_processes]:
                samples = [data[i] for i in range(start, min(start + _PART, len(data)))]
                for name, part in _encode(samples, autoencoder, copies, start, organs).items():
                    written[name][start : start + len(samples)] = part.numpy()
            for array in written.values():
                array.flush()
            state.wait_for_everyone()
            if state.is_main_process:
                write_json(record, made_by)  # last: a killed run leaves the whole or nothing that counts
        state.wait_for_everyone()
        names = ("latents", "lesions", "organ_masks") if organs else ("latents", "lesions")
        return cls({name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names})


def _encode(
    samples: Sequence[Sample], autoencoder: AutoencoderKL, copies: int, seed: int, organs: bool
) -> dict[str, Tensor]:
    """Encode one part; its copies depend on the seed alone, whichever process makes them."""
    image = collate(samples).image
    lesions = torch.from_numpy(np.stack([sample.lesion_area for sample in samples]))
    shape = image.shape[-2:]
    masks = [np.zeros(shape, np.uint8) if sample.organ_mask is None else sample.organ_mask for sample in samples]
    organ_mask = torch.from_numpy(np.stack(masks))
    made: dict[str, list[Tensor]] = {"latents": [], "lesions": [], "organ_masks": []}
    for copy in range(copies):
        versions = [lesions, organ_mask] if organs else [lesions]
        moved = image
        if copy > 0:
            # The same seed for each: the same geometry.
            sources = [torch.Generator().manual_seed(seed * copies + copy) for _ in versions]
            pairs = [
                random_affine(image, source, mask, bend=_BEND, edges=STILL_EDGES)
                for source, mask in zip(sources, versions, strict=True)
            ]
            moved, versions = pairs[0][0], [mask for _, mask in pairs if mask is not None]
        made["latents"].append(encode_image(autoencoder, moved.to(autoencoder.device)).cpu().half())
        made["lesions"].append(F.avg_pool2d(versions[0].float(), downsampling(autoencoder)).half())
        made["organ_masks"] += versions[1:]
    return {name: torch.stack(parts, 1) for name, parts in made.items() if parts}
