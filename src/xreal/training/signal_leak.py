"""Learning what trace of an X-ray the walk from noise begins with: no steps, one pass over the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xreal.data.contract import collate
from xreal.data.prepared import PreparedDataset
from xreal.errors import TrainingError
from xreal.models.autoencoder import encode_image
from xreal.models.folder import load_autoencoder
from xreal.models.precision import default_device
from xreal.models.signal_leak import SignalLeak, fit_signal_leak

__all__ = ["learn_signal_leak"]

_MOST = 2000  # X-rays looked at, spread over the data: enough for a few directions
_BATCH = 16


@torch.inference_mode()
def learn_signal_leak(
    data: Sequence[Path], folder: Path, report: Callable[[int, int], None] = lambda done, total: None
) -> SignalLeak:
    """Encode training X-rays and keep their mean and what they differ in as a whole.

    Args:
        data: prepared folders.
        folder: model folder with ``vae/``.
        report: told how many X-rays of how many are done.

    Raises:
        TrainingError: the autoencoder is missing.
        DataError: fewer than two X-rays.
    """
    autoencoder: Any = load_autoencoder(folder)
    if autoencoder is None:
        raise TrainingError(f"{folder} holds no vae/; run `xreal train autoencoder` first")
    device = default_device()
    autoencoder.to(device)
    train = PreparedDataset(data, "train")
    indices = range(0, len(train), -(-len(train) // _MOST))
    latents: list[Tensor] = []
    for start in range(0, len(indices), _BATCH):
        images = collate([train[i] for i in indices[start : start + _BATCH]]).image
        latents.append(encode_image(autoencoder, images.to(device)).half().cpu())
        report(min(start + _BATCH, len(indices)), len(indices))
    return fit_signal_leak(torch.cat(latents).float())
