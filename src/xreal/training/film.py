"""Learning how real films differ from one another and from place to place: no steps, one set of drawn X-rays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from xreal.control.blending import texture_generators
from xreal.data.contract import collate
from xreal.data.prepared import PreparedDataset
from xreal.errors import DataError, TrainingError
from xreal.models.texture import Texture
from xreal.pipeline import XRealPipeline
from xreal.vocabulary import Finding

__all__ = ["draw_plain", "fit_films", "learn_films"]

_MOST = 300  # X-rays drawn, spread over the data
_FEWEST = 50  # below that a covariance of nine bands says little
_BATCH = 10
_PATCHY = 0.5  # share of what places vary by that is patches; with all of it, fine detail is too strong (docs/log.md)
_UNSEEN = 2.0  # of the variance of patches, half is averaged away where amplitudes are measured
_ROUNDS = 6  # bands overlap, and film and grain act on one another: what is left is corrected again


@torch.inference_mode()
def learn_films(
    data: Sequence[Path],
    folder: Path,
    report: Callable[[int, int], None] = lambda done, total: None,
    most: int = _MOST,
    steps: int | None = None,
) -> tuple[Texture, dict[str, float]]:
    """Draw healthy X-rays with the organ masks of real healthy ones and compare their bands.

    Args:
        data: prepared folders; `train` is looked at.
        folder: complete model folder with ``texture/``.
        report: told how many X-rays of how many are drawn.
        most: how many are drawn at most.
        steps: of the solver that draws them; default the pipeline's.

    Returns:
        the texture, films learnt, and how far its bands are still off, as ``fit_films`` returns it.

    Raises:
        TrainingError: the model has no texture.
        DataError: fewer than 50 X-rays without finding, with organ masks where the model takes them.
    """
    pipeline = XRealPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    texture: Texture | None = pipeline.texture
    if texture is None:
        raise TrainingError(f"{folder} holds no texture/; run `xreal train texture` first")
    train = PreparedDataset(data, "train")
    masked = set(train.with_organ_mask() if pipeline.takes_organs else range(len(train)))
    indices = [i for i, names in enumerate(train.findings) if i in masked and names in ((), (Finding.NO_FINDING,))]
    if len(indices) < _FEWEST:
        raise DataError(f"{len(indices)} training X-rays without finding to learn films from; give at least {_FEWEST}")
    indices = indices[:: -(-len(indices) // most)]
    real, drawn = [], []
    for images, plain, seeds in draw_plain(pipeline, train, indices, steps):
        real.append(images)
        drawn += pipeline.with_detail([plain])
        report(seeds.stop, len(indices))
    return texture, fit_films(texture, torch.cat(drawn), torch.cat(real))


def draw_plain(
    pipeline: XRealPipeline, data: PreparedDataset, indices: Sequence[int], steps: int | None = None
) -> Iterator[tuple[Tensor, Tensor, range]]:
    """Draw X-rays without detail and texture, with the organ masks of real ones, where the model takes masks.

    Args:
        pipeline: complete.
        data: prepared.
        indices: of real X-rays.
        steps: of the solver; default the pipeline's.

    Yields:
        batches of real X-rays and drawn ones with their organs, (B, 1, H, W) in [0, 1], and the seeds of these.
    """
    for start in range(0, len(indices), _BATCH):
        batch = collate([data[i] for i in indices[start : start + _BATCH]])
        seeds = range(start, start + len(batch.image))
        organs = batch.organ_mask.numpy() if pipeline.takes_organs else None
        drawn = pipeline(organs, (), seeds, steps=steps, texture=0.0).images
        yield batch.image, torch.from_numpy(drawn)[:, None], seeds


@torch.no_grad()
def fit_films(texture: Texture, drawn: Tensor, real: Tensor) -> dict[str, float]:
    """Give a texture the mean and the scatter that drawn X-rays lack of real ones, over log amplitudes.

    Scatter from film to film becomes the films' covariance, half of that from place to place the patches'.

    Args:
        texture: trained, its films and patches are set.
        drawn: decoded, without texture, (N, 1, H, W) in [0, 1].
        real: others with the same organs, (M, 1, H, W).

    Returns:
        "mean" and "scatter", by how many dB the mean of drawn log amplitudes, and their deviation, is still off in the
        worst band, with the films that the texture keeps.
    """
    mean, covariance = torch.zeros_like(texture.film_mean), torch.zeros_like(texture.film_root)
    grain, patches = torch.zeros_like(texture.grain_mean), torch.zeros_like(texture.patches)
    wanted, uneven, own = _amplitudes(texture, real)
    for turn in range(_ROUNDS):
        texture.film_mean.copy_(mean)
        texture.film_root.copy_(_root(covariance))
        texture.grain_mean.copy_(grain)
        texture.patches.copy_(patches.clamp_min(0).sqrt())
        textured = []
        for start in range(0, len(drawn), _BATCH):
            part = drawn[start : start + _BATCH]
            film = texture.film(part, texture_generators(list(range(start, start + len(part)))))
            textured.append(texture(part, film))
        reached, variance, grained = _amplitudes(texture, torch.cat(textured))
        gap = wanted.mean(0) - reached.mean(0)
        mean, covariance = mean + gap, covariance + wanted.T.cov() - reached.T.cov()
        grain = grain + own - grained - gap[: len(grain)]  # which the film gives it too
        if turn == 0:  # drawn without patches
            uneven = torch.lerp(variance, uneven, _PATCHY)
        patches = patches + _UNSEEN * (uneven - variance)[: len(patches)]
    scatter = (wanted.std(0) / reached.std(0)).log()
    decibels = 20 / math.log(10)
    return {"mean": decibels * float(gap.abs().max()), "scatter": decibels * float(scatter.abs().max())}


def _amplitudes(texture: Texture, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean log amplitude of each band of each image, (N, bands), its variance within one, and the grain's.

    The last two are means over the images, (bands,) and (grain bands,).
    """
    parts = [
        (texture.sizes(bands), texture.grain_sizes(bands).mean((2, 3)))
        for part in images.split(_BATCH)
        for bands in (texture.bands(part),)
    ]
    sizes, grain = (torch.cat(some) for some in zip(*parts, strict=True))
    return sizes.mean((2, 3)), sizes.var((2, 3)).mean(0), grain.mean(0)


def _root(covariance: Tensor) -> Tensor:
    """Return a root of the nearest covariance: where drawn X-rays scatter more than real ones, nothing is added."""
    variances, directions = torch.linalg.eigh(covariance.double())
    return (directions * variances.clamp_min(0).sqrt()).to(covariance)
