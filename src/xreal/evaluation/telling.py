"""Can one who has seen hundreds of each tell generated X-rays from real ones, and how small must they be until not?

``detection`` learns from the few images of a row, and looks at features that somebody thought of. Here there is more to
learn from, and convolutional networks find features of their own. What they tell at a quarter of the size is anatomy
and exposure; what they tell at the whole size alone is the finest detail.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xreal.errors import InputError
from xreal.evaluation.detection import discriminant
from xreal.evaluation.intervals import share_interval
from xreal.evaluation.utility_tasks import BATCH, build_classifier, standardised

__all__ = ["FEWEST_TO_LEARN", "NETWORKS", "linear_tells", "networks_tell"]

FEWEST_TO_LEARN = 100
"""Images of each kind below which a network learns too little for its failure to mean anything."""

NETWORKS = 3
"""That learn at each size: what one happens to learn moves its accuracy by a tenth (docs/log.md)."""

_STEPS = 600  # after 400 some seeds have not yet begun to tell at the whole size (docs/log.md)
_LEARNING_RATE = 2e-3
_LAST = 50  # batches
_CROP = 7 / 8  # of the side: the network never sees a picture twice at the same place


def networks_tell(
    real: np.ndarray,
    generated: np.ndarray,
    test_real: np.ndarray,
    test_generated: np.ndarray,
    size: int,
    seed: int = 0,
    steps: int = _STEPS,
) -> dict[str, float]:
    """Train three small DenseNets to tell two sets apart and count how often they are right about other patients.

    Args:
        real: (N, H, W) float in [0, 1], what they learn from.
        generated: (M, H, W), likewise; rounded to 8 bits, as real ones are stored.
        test_real: (K, H, W), of patients who are not in ``real``.
        test_generated: (L, H, W), drawn for other masks and seeds than ``generated``.
        size: pixels a side that images are brought to.
        seed: of the first network and of its batches; the others take the next.
        steps: of 16 images, half of each kind.

    More images teach them more: what they say is a lower bound of what can be told.

    Returns:
        "accuracy" of the mean of their probabilities, as the mean of the shares of both kinds that are told right, 0.5
        where nothing can be told, with " low" and " high" of its 95% interval (Wilson); "accuracy alone", the mean of
        each network by itself, with the lowest and the highest; and "accuracy in training", the mean of their last 50
        batches: where that too is near 0.5, they have not begun to learn, and what they say means little.

    Raises:
        InputError: fewer than 100 images of one kind to learn from, or none to test on.
    """
    _check(real, generated, test_real, test_generated)
    pools = [_pixels(images, size) for images in (real, generated)]
    tests = [_pixels(images, size) for images in (test_real, test_generated)]
    said, learnt = [], []
    for own in range(seed, seed + NETWORKS):
        network, right = _taught(pools, own, steps)
        said.append([_probabilities(network, images) - 0.5 for images in tests])
        learnt.append(right)
    together = [np.mean(answers, axis=0) for answers in zip(*said, strict=True)]
    alone = [_right(*answers) for answers in said]
    return _accuracy(*together) | {
        "accuracy alone": float(np.mean(alone)),
        "accuracy alone low": min(alone),
        "accuracy alone high": max(alone),
        "accuracy in training": float(np.mean(learnt)),
    }


def linear_tells(
    real: np.ndarray, generated: np.ndarray, test_real: np.ndarray, test_generated: np.ndarray
) -> dict[str, float]:
    """Let Fisher's discriminant learn from features of as many images of both kinds, and ask it about other patients.

    Args:
        real: (N, d) features, at least 100 rows; of sets of unequal size, the larger one's first rows are taken.
        generated: (M, d).
        test_real: (K, d).
        test_generated: (L, d).

    Returns:
        "accuracy", " low", " high": see ``networks_tell``.

    Raises:
        InputError: as there.
    """
    _check(real, generated, test_real, test_generated)
    count = min(len(real), len(generated))
    both, truth = np.concatenate([real[:count], generated[:count]]), np.repeat([-1.0, 1.0], count)
    said = discriminant(both, truth, np.concatenate([test_real, test_generated]))
    return _accuracy(said[: len(test_real)], said[len(test_real) :])


def _check(*sets: np.ndarray) -> None:
    counts = [len(images) for images in sets]
    if min(counts[:2]) < FEWEST_TO_LEARN or not min(counts[2:]):
        raise InputError(
            f"{counts[0]} real and {counts[1]} generated images to learn from, {counts[2]} and {counts[3]} to test on; "
            f"expected at least {FEWEST_TO_LEARN} of each, and some to test on"
        )


def _right(real: np.ndarray, generated: np.ndarray) -> float:
    """Return the mean of the shares of both kinds that are told right, by answers above 0 for what is generated."""
    return float(((real < 0).mean() + (generated >= 0).mean()) / 2)


def _accuracy(real: np.ndarray, generated: np.ndarray) -> dict[str, float]:
    accuracy = _right(real, generated)
    low, high = share_interval(accuracy, len(real) + len(generated))
    return {"accuracy": accuracy, "accuracy low": low, "accuracy high": high}


@torch.inference_mode()
def _probabilities(network: nn.Module, images: Tensor) -> np.ndarray:
    said: np.ndarray = torch.cat([network(part)[:, 0].sigmoid() for part in images.split(BATCH)]).numpy()
    return said


def _taught(pools: Sequence[Tensor], seed: int, steps: int) -> tuple[nn.Module, float]:
    """Return a network that tells the second of two pools from the first, and its accuracy in the last batches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_classifier().to(memory_format=torch.channels_last)  # a third faster
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
