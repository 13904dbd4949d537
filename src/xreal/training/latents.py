"""Latents of a data set, encoded once, and where in them the findings and organs are."""

from __future__ import annotations

import hashlib
import json
import math
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
from xreal.data.prepared import PreparedDataset, fingerprint
from xreal.images import write_json
from xreal.models.autoencoder import downsampling, encode_image
from xreal.models.precision import default_device

__all__ = ["CachedLatents"]

_PART = 16  # samples that are encoded together
_LESION = 16  # more than any organ
_ROOM = 0.4  # of a GPU's free memory; the rest is for training
_KINDS = {torch.float16: "<f2", torch.uint8: "|u1"}
_BEND = 0.01  # of copies, as a share of the side: 2.6 of 256 pixels


def _fingerprint(autoencoder: AutoencoderKL) -> str:
    digest = hashlib.sha256()
    for name, weight in autoencoder.state_dict().items():
        digest.update(name.encode() + weight.cpu().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class CachedLatents:
    """Latents, lesions and organs of N samples; the first copy is the image itself, the others are moved a little.

    On a GPU with room for them the arrays lie in its memory. Else they stay on disk and are mapped into memory, which
    the processes of one machine share: what does not fit is read as it is needed.

    Attributes:
        arrays: "latents" (N, copies, c, h, w) float16, scaled; "lesions" (N, copies, h, w) float16, the share of each
            latent's pixels that lie in a lesion whose place is known; and, where asked for, "organ_masks"
            (N, copies, H, W) uint8 ``Organ``, all 0 for a sample that has none.
    """

    arrays: dict[str, Tensor]

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.arrays["latents"])

    @property
    def copies(self) -> int:
        """How many copies there are of each sample."""
        return int(self.arrays["latents"].shape[1])

    def take(self, name: str, indices: Sequence[int], copies: Tensor | int = 0) -> Tensor:
        """Read one array's rows for these samples and copies, where the array is; float16 comes as float32."""
        array = self.arrays[name]
        places = (torch.as_tensor(some, device=array.device) for some in (list(indices), copies))
        rows = array[tuple(places)]
        return rows.float() if rows.dtype == torch.float16 else rows

    @classmethod
    @torch.no_grad()
    def encode(
        cls,
        data: PreparedDataset,
        autoencoder: AutoencoderKL,
        folder: Path,
        copies: int,
        organs: bool = False,
        on_device: bool = False,
    ) -> CachedLatents:
        """Encode all samples, or open ``folder`` where an earlier start wrote them, of the same data and autoencoder.

        The processes of a distributed run share the work; all must see the same ``folder``.

        Args:
            data: images.
            autoencoder: trained, its ``scaling_factor`` set.
            folder: for one NPY file per array.
            copies: of each image; all but the first are shifted, scaled and turned a little, lesions and organs alike.
            organs: keep organ masks too.
            on_device: keep all in the memory of the autoencoder's GPU, if it has one that they fit in, and write
                nothing; each process of a distributed run then encodes for itself.
        """
        height, width = data[0].image.shape
        grid = (height // downsampling(autoencoder), width // downsampling(autoencoder))
        each: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "latents": ((autoencoder.config.latent_channels, *grid), torch.float16),
            "lesions": (grid, torch.float16),
        }
        if organs:
            each["organ_masks"] = ((height, width), torch.uint8)
        shapes = {name: ((len(data), copies, *shape), kind) for name, (shape, kind) in each.items()}
        device = autoencoder.device
        if on_device and _fits(shapes, device):
            arrays = {name: torch.empty(shape, dtype=kind, device=device) for name, (shape, kind) in shapes.items()}
            _fill(arrays, data, autoencoder, range(0, len(data), _PART))
            return cls(arrays)
        state = PartialState(cpu=default_device().type == "cpu")
        made_by = {
            "autoencoder": _fingerprint(autoencoder),
            "data": fingerprint(data.folders, data.split),
            "copies": copies,
            "organs": organs,
            "version": 7,
        }
        record = folder / "made_by.json"
        fresh = not record.exists() or json.loads(record.read_text(encoding="utf-8")) != made_by
        state.wait_for_everyone()  # all have looked before one begins to change what is there
        if fresh:
            if state.is_main_process:
                folder.mkdir(parents=True, exist_ok=True)
                record.unlink(missing_ok=True)
                for name, (shape, kind) in shapes.items():
                    np.lib.format.open_memmap(folder / f"{name}.npy", "w+", _KINDS[kind], shape)
            state.wait_for_everyone()
            written = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in shapes}
            starts = range(0, len(data), _PART)[state.process_index :: state.num_processes]
            _fill({name: torch.from_numpy(array) for name, array in written.items()}, data, autoencoder, starts)
            for array in written.values():
                array.flush()
            state.wait_for_everyone()
            if state.is_main_process:
                write_json(record, made_by)  # last: a killed run leaves the whole or nothing that counts
        state.wait_for_everyone()
        # Mapped as copies on write, though nothing is written: torch takes no array that it must not change.
        return cls({name: torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c")) for name in shapes})


def _fits(shapes: dict[str, tuple[tuple[int, ...], torch.dtype]], device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    wanted = sum(math.prod(shape) * kind.itemsize for shape, kind in shapes.values())
    return wanted < _ROOM * torch.cuda.mem_get_info(device)[0]


def _fill(arrays: dict[str, Tensor], data: PreparedDataset, autoencoder: AutoencoderKL, starts: Sequence[int]) -> None:
    """Encode the parts that begin at ``starts`` into their rows of the arrays."""
    for start in starts:
        samples = [data[i] for i in range(start, min(start + _PART, len(data)))]
        encoded = _encode(samples, autoencoder, arrays["latents"].shape[1], start)
        for name, array in arrays.items():
            array[start : start + len(samples)] = encoded[name]


def _encode(samples: Sequence[Sample], autoencoder: AutoencoderKL, copies: int, seed: int) -> dict[str, Tensor]:
    """Encode one part; its copies depend on the seed alone, whichever process makes them."""
    images = collate(samples).image.to(autoencoder.device)
    lesions = torch.from_numpy(np.stack([sample.lesion_area for sample in samples]))
    nothing = np.zeros(images.shape[-2:], np.uint8)
    organs = torch.from_numpy(np.stack([nothing if one.organ_mask is None else one.organ_mask for one in samples]))
    both = (organs + _LESION * lesions.to(torch.uint8)).to(images.device)  # one geometry for both
    made: dict[str, list[Tensor]] = {"latents": [], "lesions": [], "organ_masks": []}
    for copy in range(copies):
        moved, places = images, both
        if copy > 0:
            generator = torch.Generator().manual_seed(seed * copies + copy)
            moved, placed = random_affine(images, generator, both, bend=_BEND, edges=STILL_EDGES)
            places = both if placed is None else placed
        made["latents"].append(encode_image(autoencoder, moved).half())
        made["lesions"].append(F.avg_pool2d((places >= _LESION).float(), downsampling(autoencoder)).half())
        made["organ_masks"].append(places % _LESION)
    return {name: torch.stack(parts, 1) for name, parts in made.items()}
