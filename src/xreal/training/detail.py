"""Stage: the detail that a decoder leaves out, learnt from a judge; every other network stays as it is."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from diffusers import AutoencoderKL
from torch import Tensor

from xreal.config import Preset
from xreal.data.contract import collate
from xreal.data.prepared import PreparedDataset, fingerprint
from xreal.errors import DataError
from xreal.images import write_json
from xreal.models.autoencoder import decode_latents, downsampling, encode_image
from xreal.models.bands import split
from xreal.models.detail import DetailGenerator, DetailJudge
from xreal.models.folder import weights_hash
from xreal.models.grid import find_grid
from xreal.models.precision import default_device
from xreal.pipeline import XRealPipeline
from xreal.training.decoder import disturbance
from xreal.training.film import draw_plain
from xreal.training.stage import Loss, Stage, white_noise

__all__ = ["DetailStage"]

_MOST = 6000  # X-rays kept in memory, 0.2 MB each
_DRAWN = 600  # X-rays that the model draws
_PART = 32
_LEVELS = 255  # steps of grey of an 8-bit picture
_BANDS = 6  # half octaves, finest first
_PHASE = 8  # pixels, by which the judge sees crops moved, so that its own strides tell nothing of theirs


class DetailBatch(NamedTuple):
    """Crops: the first half is decoded from real X-rays' latents, the second from drawn ones.

    Attributes:
        decoded: (B, 1, h, w).
        real: what was encoded; for drawn ones others, (B, 1, h, w).
        kept: of which the coarse is to stay, (B, 1, h, w): the real one, or the drawn one itself.
    """

    decoded: Tensor
    real: Tensor
    kept: Tensor


class DetailStage(Stage):
    """A generator and its judge, each against the other, on crops.

    The judge says which of two is more real (relativistic, arXiv 1807.00734) and is kept from steep slopes on both
    sides, without which such a pair need not settle (R1 and R2, arXiv 2501.05441). What is coarser than four pixels is
    held to what was decoded, how strong each band is to real X-rays, in each half of a batch.
    """

    name = "detail"
    betas: ClassVar[tuple[float, float]] = (0.0, 0.99)  # arXiv 2501.05441
    slope_weight = 0.3
    coarse_weight = 50.0
    band_weight = 0.5
    validation_images = 48

    def __init__(
        self, preset: Preset, data: Sequence[Path], autoencoder: AutoencoderKL, model: Path, cache: Path
    ) -> None:
        """Decode real X-rays, and draw others.

        Args:
            preset: crop and length.
            data: prepared folders.
            autoencoder: the model's, trained.
            model: complete model folder.
            cache: folder for what it draws: an interrupted run does not draw again.

        Raises:
            DataError: no organ masks for a model that draws from them.
            ModelError: the model is not complete.
        """
        super().__init__(preset)
        self.autoencoder = autoencoder.eval().requires_grad_(False).to(default_device())
        train, validation = PreparedDataset(data, "train"), PreparedDataset(data, "val")
        generator = torch.Generator().manual_seed(self.config.seed)
        self.real, self.decoded = self._reconstructed(train, _MOST, generator)
        self.validation_real, self.validation_decoded = self._reconstructed(
            validation, self.validation_images, generator
        )
        drawn = _drawn(model, train, cache / "drawn.npy").to(self.real.device)
        self.drawn = torch.cat([self._clean(part.float()).half() for part in drawn.split(_PART)])
        torch.manual_seed(self.config.seed)
        self.networks = {self.name: DetailGenerator(), "judge": DetailJudge()}
        self.sampling_weights = torch.ones(len(self.real))

    def _reconstructed(self, data: PreparedDataset, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return X-rays spread over the data, 8 bits, and what is decoded of their latents, disturbed; (N, 1, H, W)."""
        indices = range(0, len(data), max(1, math.ceil(len(data) / most)))
        device = self.autoencoder.device
        real, decoded = [], []
        for start in range(0, len(indices), _PART):
            images = collate([data[i] for i in indices[start : start + _PART]]).image.to(device)
            with torch.no_grad():
                latents = encode_image(self.autoencoder, images)
                latents = latents + disturbance(latents, self.preset.latent_errors, generator)
                decoded.append(self._clean(decode_latents(self.autoencoder, latents)).half())
            real.append((_LEVELS * images).round().to(torch.uint8))
        return torch.cat(real), torch.cat(decoded)

    def _clean(self, decoded: Tensor) -> Tensor:
        return decoded - find_grid(decoded, downsampling(self.autoencoder))

    def batch(self, indices: Sequence[int], generator: torch.Generator) -> DetailBatch:
        """Cut crops; real ones lose their steps of grey in a dither, which drawn ones do not have."""
        side, device = self.config.crop or self.real.shape[-1], self.real.device
        own = len(indices) - len(indices) // 2
        others = torch.randint(0, len(self.drawn), (len(indices) - own,), generator=generator)
        corners = torch.randint(0, (self.real.shape[-1] - side) // 8 + 1, (len(indices), 2), generator=generator) * 8
        places = [(slice(None), slice(y, y + side), slice(x, x + side)) for y, x in corners.tolist()]
        sources = [self.decoded[i] for i in indices[:own]] + [self.drawn[i] for i in others.tolist()]
        decoded = torch.stack([one[place] for one, place in zip(sources, places, strict=True)]).float()
        real = torch.stack([self.real[i][place] for i, place in zip(indices, places, strict=True)]).float()
        dither = torch.rand(real.shape, generator=_beside(generator, device), device=device) - 0.5
        real = (real + dither) / _LEVELS
        gain = 1 + 0.2 * (torch.rand(len(indices), 1, 1, 1, generator=generator).to(device) - 0.5)
        decoded, real = gain * decoded, gain * real
        return DetailBatch(decoded, real, torch.cat([real[:own], decoded[own:]]))

    def losses(self, batch: DetailBatch, step: int, generator: torch.Generator) -> Iterator[Loss]:
        """Yield the generator's loss, then the judge's."""
        network: DetailGenerator = self.networks[self.name]
        judge: DetailJudge = self.networks["judge"]
        noise = white_noise(batch.decoded.expand(-1, 2, -1, -1), generator)
        made = batch.decoded + network.added(batch.decoded, noise)
        down, across = torch.randint(0, _PHASE, (2,), generator=generator).tolist()
        height, width = (side - _PHASE for side in made.shape[-2:])
        seen = (..., slice(down, down + height), slice(across, across + width))
        with torch.no_grad():
            wanted = judge.scores(batch.real[seen])
        fooled = F.softplus(wanted - judge.scores(made[seen])).mean()
        coarse = (F.avg_pool2d(made, 4) - F.avg_pool2d(batch.kept, 4)).abs().mean()
        bands = (_strengths(made) - _strengths(batch.real)).mean((2, 3))
        bands = torch.stack([half.mean(0).abs().mean() for half in bands.tensor_split(2) if len(half)]).mean()
        loss = fooled + self.coarse_weight * coarse + self.band_weight * bands
        yield Loss(self.name, loss, {"fooled": fooled.item(), "coarse": coarse.item(), "bands": bands.item()})

        real, made = (one[seen].detach().requires_grad_() for one in (batch.real, made))
        scores, false = judge.scores(real), judge.scores(made)
        told = F.softplus(false - scores).mean()
        slopes = _slope(scores, real) + _slope(false, made)
        right = (scores > false).float().mean()
        judged = told + self.slope_weight / 2 * slopes
        yield Loss("judge", judged, {"told": told.item(), "right": right.item(), "slopes": slopes.item()})

    def _detailed(self, decoded: Tensor, grain: bool = True) -> Tensor:
        network: DetailGenerator = self.network
        noise = white_noise(decoded.expand(-1, 2, -1, -1), torch.Generator().manual_seed(0)) * grain
        parts = zip(decoded.split(8), noise.split(8), strict=True)
        return torch.cat([(one + network.added(one, own)).clamp(0, 1) for one, own in parts])

    def validate(self) -> dict[str, float]:
        """Return by how many dB each band is too strong in reconstructed X-rays, and what moves of the coarse."""
        decoded, real = self.validation_decoded.float(), self.validation_real.float() / _LEVELS
        detailed = self._detailed(decoded)
        decibels = 20 / math.log(10) * (_strengths(detailed) - _strengths(real)).mean((0, 2, 3))
        moved = (F.avg_pool2d(detailed, 4) - F.avg_pool2d(decoded, 4)).abs().mean()
        return {f"band_{band}_dB": float(value) for band, value in enumerate(decibels)} | {"moved": float(moved)}

    def sheet(self) -> list[list[np.ndarray]]:
        """Draw real X-rays, what is decoded of them, and its lines without and with grain; then drawn ones the same."""
        stride = max(1, len(self.validation_real) // 4)
        real, decoded = self.validation_real[::stride][:4].float() / _LEVELS, self.validation_decoded[::stride][:4]
        rows = [real]
        for plain in (decoded.float(), self.drawn[:4].float()):
            rows += [plain, self._detailed(plain, grain=False), self._detailed(plain)]
        return [[image[0].cpu().numpy() for image in images] for images in rows]

    def export(self, folder: Path) -> None:
        """Write ``detail/``."""
        self.network.save_pretrained(folder / "detail")


def _drawn(model: Path, train: PreparedDataset, kept: Path) -> Tensor:
    """Draw X-rays with the whole model, (N, 1, H, W) float16, once for a run: processes after the first read them."""
    # Detail and texture have no part in them, and change from one checkpoint of the run to the next.
    made_by = {"weights": weights_hash(model, ("detail", "texture")), "data": fingerprint(train.folders, train.split)}
    record = kept.with_suffix(".json")
    with PartialState(cpu=default_device().type == "cpu").main_process_first():
        if not (kept.exists() and record.exists() and json.loads(record.read_text(encoding="utf-8")) == made_by):
            record.unlink(missing_ok=True)
            pipeline = XRealPipeline.from_pretrained(model, device="auto")
            pipeline.set_progress_bar_config(disable=True)
            indices = train.with_organ_mask() if pipeline.takes_organs else list(range(len(train)))
            if not indices:
                raise DataError("no organ masks in the prepared data; run `xreal prepare` with --segmenter")
            indices = indices[:: -(-len(indices) // _DRAWN)]
            images = torch.cat([drawn for _, drawn, _ in draw_plain(pipeline, train, indices)])
            kept.parent.mkdir(parents=True, exist_ok=True)
            with kept.with_suffix(".new").open("wb") as file:
                np.save(file, images.half().numpy())
            kept.with_suffix(".new").replace(kept)
            write_json(record, made_by)
    return torch.from_numpy(np.load(kept))


def _slope(scores: Tensor, images: Tensor) -> Tensor:
    """Return the mean square of the slope of each image's mean score, so that it can be kept small itself."""
    slopes = torch.autograd.grad(scores.mean((1, 2, 3)).sum(), images, create_graph=True)[0]
    return slopes.square().sum((1, 2, 3)).mean()


def _beside(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """Return a generator for that device, seeded by the one on the CPU."""
    if device.type == "cpu":
        return generator
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, (1,), generator=generator)))


def _strengths(images: Tensor) -> Tensor:
    """Return the log amplitude of each band around every fourth pixel, (B, 6, H / 4, W / 4)."""
    power = F.avg_pool2d(split(images, _BANDS)[:, :-1].square(), 8, 4)
    return (power + 1e-8).log() / 2
