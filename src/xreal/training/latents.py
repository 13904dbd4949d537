"""Latents of a data set, encoded once, and where in them the findings are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from xreal.data.augment import random_affine
from xreal.data.contract import collate
from xreal.data.prepared import PreparedDataset
from xreal.models.autoencoder import downsampling, encode_image

__all__ = ["CachedLatents"]


def _fingerprint(autoencoder: AutoencoderKL) -> str:
    digest = hashlib.sha256()
    for name, weight in autoencoder.state_dict().items():
        digest.update(name.encode() + weight.cpu().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class CachedLatents:
    """Latents and boxes of N samples; the first copy is the image itself, the others are moved a little.

    Attributes:
        latents: (N, copies, c, h, w), scaled.
        boxes: (N, copies, h, w) in [0, 1], the share of each latent's pixels that lie in a box of the sample.
    """

    latents: Tensor
    boxes: Tensor

    @classmethod
    @torch.no_grad()
    def encode(cls, data: PreparedDataset, autoencoder: AutoencoderKL, path: Path, copies: int) -> CachedLatents:
        """Encode all samples, or read ``path`` where an earlier start of the same run, same autoencoder, wrote them.

        Args:
            data: images.
            autoencoder: trained, its ``scaling_factor`` set.
            path: safetensors file.
            copies: of each image; all but the first are shifted, scaled and turned a little, boxes alike.
        """
        made_by = {"autoencoder": _fingerprint(autoencoder), "samples": str(len(data)), "copies": str(copies)}
        if path.exists():
            with safe_open(path, "pt") as stored:
                if stored.metadata() == made_by:
                    return cls(stored.get_tensor("latents").float(), stored.get_tensor("boxes").float())
        generator = torch.Generator().manual_seed(0)
        device, factor = autoencoder.device, downsampling(autoencoder)
        latents, boxes = [], []
        for start in range(0, len(data), 16):
            samples = [data[i] for i in range(start, min(start + 16, len(data)))]
            original = collate(samples).image, torch.from_numpy(np.stack([sample.box_mask for sample in samples]))
            versions = [original] + [random_affine(original[0], generator, original[1]) for _ in range(copies - 1)]
            latents.append(torch.stack([encode_image(autoencoder, image.to(device)).cpu() for image, _ in versions], 1))
            boxes.append(torch.stack([F.avg_pool2d(mask.float(), factor) for _, mask in versions], 1))
        tensors = {"latents": torch.cat(latents).half(), "boxes": torch.cat(boxes).half()}
        fresh = path.with_suffix(".tmp")
        save_file(tensors, fresh, metadata=made_by)
        fresh.replace(path)  # a killed run leaves the whole file or none
        return cls(tensors["latents"].float(), tensors["boxes"].float())  # as a resumed run reads them
