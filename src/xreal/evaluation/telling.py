"""Can a network that sees pixels tell generated X-rays from real ones, and how small must they be until it cannot?

``detection`` looks at features that somebody thought of; a convolutional network finds its own. What it tells at a
quarter of the size is anatomy and exposure; what it tells at the whole size alone is the finest detail.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from torch import Tensor, nn

from xreal.errors import InputError
from xreal.evaluation.utility_tasks import BATCH, build_classifier, standardised

__all__ = ["FEWEST_TO_LEARN", "network_tells"]

FEWEST_TO_LEARN = 100
"""Images of each kind below which the network learns too little for its failure to mean anything."""

_STEPS = 600  # after 400 some seeds have not yet begun to tell at the whole size (docs/log.md)
_LEARNING_RATE = 2e-3
_LAST = 50  # batches
_BEGUN = 0.6  # of these told right: the network has begun to learn
_ATTEMPTS = 3  # with other seeds, where it has not
_CROP = 7 / 8  # of the side: the network never sees a picture twice at the same place


def network_tells(
    real: np.ndarray,
    generated: np.ndarray,
    test_real: np.ndarray,
    test_generated: np.ndarray,
    size: int,
    seed: int = 0,
    steps: int = _STEPS,
) -> dict[str, float]:
    """Train a small DenseNet to tell two sets apart and count how often it is right about images of other patients.

    Args:
        real: (N, H, W) float in [0, 1], what it learns from.
        generated: (M, H, W), likewise; rounded to 8 bits, as real ones are stored.
        test_real: (K, H, W), of patients who are not in ``real``.
        test_generated: (L, H, W), drawn for other masks and seeds than ``generated``.
        size: pixels a side that images are brought to.
        seed: of the network and of its batches. One that tells fewer than 60% of its last batches may not have begun to
            learn: up to two more are tried, with the next seeds, and the one that learnt most is tested.
        steps: of 16 images, half of each kind.

    More images teach it more: what it says is a lower bound of what can be told.

    Returns:
        "accuracy", the mean of the shares of both kinds that are told right, 0.5 where nothing can be told; "accuracy
        low" and "accuracy high" of its 95% interval (Wilson); and "accuracy in training", of its last 50 batches: where
        that too is near 0.5, the network has not begun to learn, and what it says means little.

    Raises:
        InputError: fewer than 100 images of one kind to learn from, or none to test on.
    """
    if min(len(real), len(generated)) < FEWEST_TO_LEARN or not len(test_real) or not len(test_generated):
        raise InputError(
            f"{len(real)} real and {len(generated)} generated images to learn from, {len(test_real)} and "
            f"{len(test_generated)} to test on; expected at least {FEWEST_TO_LEARN} of each, and some to test on"
        )
    pools = [_pixels(images, size) for images in (real, generated)]
    network, learnt = _taught(pools, seed, steps)
    for other in range(seed + 1, seed + _ATTEMPTS):
        if learnt < _BEGUN:
            network, learnt = max((network, learnt), _taught(pools, other, steps), key=lambda one: one[1])
    with torch.inference_mode():
        scores = [
            torch.cat([network(part)[:, 0] for part in _pixels(images, size).split(BATCH)])
            for images in (test_real, test_generated)
        ]
    shares = [float((scores[0] < 0).float().mean()), float((scores[1] >= 0).float().mean())]
    accuracy, count = sum(shares) / 2, len(test_real) + len(test_generated)
    interval = binomtest(round(accuracy * count), count).proportion_ci(method="wilson")
    return {
        "accuracy": accuracy,
        "accuracy low": interval.low,
        "accuracy high": interval.high,
        "accuracy in training": learnt,
    }


def _taught(pools: Sequence[Tensor], seed: int, steps: int) -> tuple[nn.Module, float]:
    """Return a network that tells the second of two pools from the first, and its accuracy in the last batches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_classifier()
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(2.0).repeat_interleave(BATCH // 2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=steps + 1, pct_start=0.15)
    hits = []
    for _ in range(steps):
        batch = torch.cat([_crops(pool, BATCH // 2, generator) for pool in pools])
        logits = network(batch)[:, 0]
        loss = F.binary_cross_entropy_with_logits(logits, targets)
        hits.append(float(((logits >= 0) == (targets > 0)).float().mean()))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval(), float(np.mean(hits[-_LAST:]))


def _pixels(images: np.ndarray, size: int) -> Tensor:
    return standardised(np.rint(np.clip(images, 0, 1) * 255).astype(np.float32) / 255, size)


def _crops(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Cut squares out of random images, (count, 1, S, S), without interpolation."""
    side = round(_CROP * images.shape[-1])
    chosen = torch.randint(len(images), (count,), generator=generator)
    corners = torch.randint(images.shape[-1] - side + 1, (count, 2), generator=generator).tolist()
    cuts = [
        images[index, :, top : top + side, left : left + side]
        for index, (top, left) in zip(chosen.tolist(), corners, strict=True)
    ]
    return torch.stack(cuts)
