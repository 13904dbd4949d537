"""Learning what X-rays of one organ mask differ in: no steps, one pass over the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xreal.control.anatomy import draw_prior
from xreal.data.contract import collate
from xreal.data.prepared import PreparedDataset
from xreal.errors import TrainingError
from xreal.models.autoencoder import encode_image
from xreal.models.folder import load_autoencoder, load_component, read_class
from xreal.models.precision import default_device
from xreal.models.variation import AnatomyVariation, fit_variation

__all__ = ["learn_variation"]

_MOST = 2000  # X-rays looked at, spread over the data: enough for a few components
_BATCH = 16


@torch.inference_mode()
def learn_variation(
    data: Sequence[Path], folder: Path, components: int, report: Callable[[int, int], None] = lambda done, total: None
) -> AnatomyVariation:
    """Compare the latents of training X-rays with those of the priors that their organ masks give.

    Args:
        data: prepared folders.
        folder: model folder with ``vae/`` and ``anatomy_controller/``.
        components: how many directions are kept.
        report: told how many X-rays of how many are done.

    Raises:
        TrainingError: a component is missing.
        DataError: fewer X-rays with organ masks than components.
    """
    autoencoder: Any = load_autoencoder(folder)
    if autoencoder is None or not (folder / "anatomy_controller").is_dir():
        raise TrainingError(f"{folder} holds no vae/ or no anatomy_controller/; run `xreal train anatomy` first")
    controller = load_component(folder, "anatomy_controller", read_class(folder, "anatomy_controller"))
    device = default_device()
    autoencoder.to(device), controller.to(device)
    train = PreparedDataset(data, "train")
    indices = train.with_organ_mask()
    indices = indices[:: max(1, -(-len(indices) // _MOST))]
    differences: list[Tensor] = []
    for start in range(0, len(indices), _BATCH):
        batch = collate([train[i] for i in indices[start : start + _BATCH]])
        prior = encode_image(autoencoder, draw_prior(controller, batch.organ_mask))
        differences.append((encode_image(autoencoder, batch.image.to(device)) - prior).half().cpu())
        report(min(start + _BATCH, len(indices)), len(indices))
    stacked = torch.cat(differences) if differences else torch.empty(0, 1, 1, 1)
    return fit_variation(stacked.float(), components)
