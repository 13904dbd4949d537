"""Stage: the last steps of the U-Net, taught by a judge to draw what real X-rays have instead of a mean of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xreal.config import Preset
from xreal.control.solvers import build_solver
from xreal.inputs import check_settings
from xreal.models.autoencoder import decode_latents
from xreal.models.latent_judge import LatentJudge, unet_features
from xreal.models.precision import default_device
from xreal.sheets import colour_labels
from xreal.training.backbone import LatentBatch
from xreal.training.stage import Loss, white_noise
from xreal.training.steering import Known, UNetStage

__all__ = ["AdversarialStage"]

_LEARNT = 2  # steps, the last ones of a trajectory, are taught; the others stay
_UNCHANGED = 300  # timestep from which on the U-Net is to predict what it did
_NOISIEST = 200  # timestep up to which the judge sees latents
_TRAJECTORIES = 3072  # drawn ahead, up to the last steps
_PART = 32
_SHOWN = 96  # validation images that detail is measured on


class Trajectories(NamedTuple):
    """Walks from noise, up to where the last steps begin.

    Attributes:
        batch: real X-rays, whose prompts, organs and lesions the trajectories were drawn with.
        latents: where the last steps begin, (N, c, h, w).
        clean: clean latents that were predicted at the step before.
        before: where the U-Net of before ends.
    """

    batch: LatentBatch
    latents: Tensor
    clean: Tensor
    before: Tensor


class AdversarialStage(UNetStage):
    """Adversarial post-training (arXiv 2403.12015, 2501.08316) of a U-Net, in the last steps of its own trajectories.

    A network that is taught by squared error draws, where noise has hidden what was there, the mean of all that may
    have been: ribs and vessels break off. Here it walks as the pipeline does, from noise on, and a judge says how real
    the latents are that it arrives at. Only fine things may change: what is coarser than two latents is held to what
    the U-Net drew before, and so is all that it predicts at earlier timesteps. Prompts, adapter and decoder stay.
    """

    name = "adversarial"
    betas: ClassVar[tuple[float, float]] = (0.0, 0.99)  # arXiv 2501.05441
    paces: ClassVar[dict[str, float]] = {"judge": 4.0}  # two time scales, arXiv 1706.08500
    coarse_weight = 5.0
    kept_weight = 5.0
    slope_weight = 1.0
    slope_step = 0.1  # by which the judge's slopes are measured (arXiv 2501.08316)

    def __init__(self, preset: Preset, data: Sequence[Path], start: Path, cache: Path) -> None:
        """Open the model, whose frozen copy judges and remembers, and draw trajectories with it.

        Args:
            preset: length of the stage.
            data: prepared folders.
            start: trained model folder.
            cache: folder for the encoded latents.
        """
        super().__init__(preset, data, start, cache)
        self.leak = self.components.get("signal_leak")
        if self.leak is not None:
            self.leak.to(default_device())
        self.solver = build_solver("dpm++", self.scheduler, check_settings([0]).steps, placed=True)
        self.trajectories = self._begun(_TRAJECTORIES)
        self.sampling_weights = torch.ones(len(self.trajectories.latents))
        torch.manual_seed(self.config.seed)
        self.networks["judge"] = self._judge()

    def _begun(self, count: int) -> Trajectories:
        """Draw trajectories for real X-rays' prompts, organs and lesions, rare findings more often than they are."""
        generator = torch.Generator().manual_seed(self.config.seed)
        indices = torch.multinomial(self.sampling_weights, count, replacement=True, generator=generator)
        parts = []
        for some in indices.split(_PART):
            batch = super().batch(some.tolist(), generator)
            parts.append(self._walked(batch, generator))
        batches = [part.batch for part in parts]
        masks = {name: torch.cat([one.masks[name] for one in batches]) for name in batches[0].masks}
        latents, ids, weights = (torch.cat([one[i] for one in batches]) for i in range(3))
        rest = (torch.cat([part[i] for part in parts]) for i in range(1, 4))
        return Trajectories(LatentBatch(latents, ids, weights, masks), *rest)

    @torch.no_grad()
    def _walked(self, batch: LatentBatch, generator: torch.Generator) -> Trajectories:
        """Walk from noise, as the pipeline does, to where the last steps begin; and on, by the U-Net of before."""
        known, solver = self._known(batch), copy.copy(self.solver)
        solver.model_outputs = list(solver.model_outputs)
        first, rest = solver.timesteps[:-_LEARNT], solver.timesteps[-_LEARNT:]
        latents = noise = self._start(white_noise(batch.latents, generator).to(self.device), batch)
        if self.leak is not None:
            leak = self.leak([generator] * len(noise))
            latents = self.scheduler.add_noise(leak, noise, first[:1].to(noise.device).expand(len(noise)))
        latents = self._walk(self.before, latents, solver, first, known)
        clean = solver.model_outputs[-1]
        before = self._walk(self.before, latents, solver, rest, known)
        return Trajectories(batch, latents.half(), clean.half(), before.half())

    def _ended(self, walked: Trajectories, known: Known) -> Tensor:
        """Take the last steps of trajectories, (B, c, h, w)."""
        solver = copy.copy(self.solver)
        solver.model_outputs = [None, walked.clean.float()]
        solver._step_index = len(solver.timesteps) - _LEARNT
        return self._walk(self.components["unet"], walked.latents.float(), solver, solver.timesteps[-_LEARNT:], known)

    def _judge(self) -> LatentJudge:
        batch = self.batch(range(64), torch.Generator()).batch
        generator = torch.Generator().manual_seed(self.config.seed)
        timesteps = torch.full((len(batch.latents),), _NOISIEST // 4, device=self.device)
        noisy = self.scheduler.add_noise(batch.latents, white_noise(batch.latents, generator), timesteps)
        with torch.no_grad():
            return LatentJudge(noisy.shape[1], self._seen(noisy, timesteps, self._known(batch)))

    def batch(self, indices: Sequence[int], generator: torch.Generator) -> Trajectories:  # type: ignore[override]
        """Take trajectories that have been begun."""
        rows, device = list(indices), self.device
        batch = self.trajectories.batch
        masks = {name: mask[rows].to(device) for name, mask in batch.masks.items()}
        own = LatentBatch(batch.latents[rows].to(device), batch.ids[rows].to(device), batch.weights[rows], masks)
        return Trajectories(own, *(one[rows].to(device) for one in self.trajectories[1:]))

    def _seen(self, noisy: Tensor, timesteps: Tensor, known: Known) -> list[Tensor]:
        """Return what the frozen U-Net makes of noisy latents."""
        embeds, told = known
        with self.autocast():
            return unet_features(self.before, noisy, timesteps, embeds, down_intrablock_additional_residuals=list(told))

    def _scored(self, noisy: Tensor, seen: Sequence[Tensor]) -> list[Tensor]:
        judge: LatentJudge = self.networks["judge"]
        with self.autocast():
            return judge(noisy, seen)

    def losses(  # type: ignore[override]
        self, batch: Trajectories, step: int, generator: torch.Generator
    ) -> Iterator[Loss]:
        """Yield the U-Net's loss, then the judge's."""
        known = self._known(batch.batch)
        drawn = self._ended(batch, known)
        levels = (_NOISIEST * torch.rand(len(drawn), generator=generator).square()).long().to(drawn.device)
        real, made = (
            self.scheduler.add_noise(one, white_noise(one, generator), levels) for one in (batch.batch.latents, drawn)
        )
        with torch.no_grad():
            seen_real = self._seen(real, levels, known)
            wanted = self._scored(real, seen_real)
        seen_made = self._seen(made, levels, known)
        fooled = _mean(F.softplus(a - b) for a, b in zip(wanted, self._scored(made, seen_made), strict=True))
        coarse = F.avg_pool2d(drawn - batch.before.float(), 2).square().mean()
        kept = self._kept(batch.batch.latents, known, generator)
        loss = fooled + self.coarse_weight * coarse + self.kept_weight * kept
        yield Loss(self.name, loss, {"fooled": fooled.item(), "coarse": coarse.item(), "kept": kept.item()})

        made, seen_made = made.detach(), [level.detach() for level in seen_made]
        true, false = self._scored(real, seen_real), self._scored(made, seen_made)
        told = _mean(F.softplus(b - a) for a, b in zip(true, false, strict=True))
        slopes = sum(
            self._slopes(noisy, scores, levels, known, generator) for noisy, scores in ((real, true), (made, false))
        )
        right = _mean((a > b).float() for a, b in zip(true, false, strict=True))
        parts = {"told": told.item(), "right": right.item(), "slopes": slopes.item()}
        yield Loss("judge", told + self.slope_weight * slopes, parts)

    def _slopes(
        self, noisy: Tensor, scores: Sequence[Tensor], levels: Tensor, known: Known, generator: torch.Generator
    ) -> Tensor:
        """Return the mean square of the judge's slope, by what a small step aside does, on half of the batch."""
        half = (len(noisy) + 1) // 2
        beside = noisy[:half] + self.slope_step * white_noise(noisy[:half], generator)
        with torch.no_grad():
            seen = self._seen(beside, levels[:half], _first(known, half))
        moved = zip(self._scored(beside, seen), scores, strict=True)
        return _mean((near - at[:half]).square() for near, at in moved) / self.slope_step**2

    def _kept(self, latents: Tensor, known: Known, generator: torch.Generator) -> Tensor:
        """Return by how much the U-Net predicts otherwise than before at early timesteps, on half of the batch."""
        half = (len(latents) + 1) // 2
        latents, known = latents[:half], _first(known, half)
        drawn = torch.rand(half, generator=generator) * (1000 - _UNCHANGED) + _UNCHANGED
        timesteps = drawn.long().to(latents.device)
        noisy = self.scheduler.add_noise(latents, white_noise(latents, generator), timesteps)
        with torch.no_grad():
            wanted = self._predicted(self.before, noisy, timesteps, known)
        return F.mse_loss(self._predicted(self.components["unet"], noisy, timesteps, known), wanted)

    def validate(self) -> dict[str, float]:
        """Return the loss of validation images, and which share of real latents' detail drawn ones have, and had."""
        real, drawn, before = self._held_out_drawn(_SHOWN)
        fine = [
            (one - F.interpolate(F.avg_pool2d(one, 2), scale_factor=2.0)).std((0, 2, 3))
            for one in (drawn, before, real)
        ]
        shares = {"detail": float((fine[0] / fine[2]).mean()), "detail_before": float((fine[1] / fine[2]).mean())}
        return super().validate() | shares

    def sheet(self) -> list[list[np.ndarray]]:
        """Draw validation masks with the U-Net of before, and as it draws now."""
        _, drawn, before = self._held_out_drawn(8)
        masks = self.held_out.take("organ_masks", self.validation_masked[:8]).numpy()
        rows = [decode_latents(self.autoencoder, latents)[:, 0].cpu().numpy() for latents in (before, drawn)]
        grey = [[np.repeat(image[..., None], 3, axis=2) for image in row] for row in rows]
        return [[colour_labels(mask) for mask in masks], *grey]

    @torch.no_grad()
    def _held_out_drawn(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return latents of validation images, latents drawn for their organs, and those that were drawn before."""
        generator = torch.Generator().manual_seed(2)
        parts = []
        for some in torch.tensor(self.validation_masked[:count]).split(_PART):
            latents, ids = self.validation_latents[some], self.unprompted_ids.expand(len(some), -1)
            batch = LatentBatch(latents, ids, torch.ones_like(latents[:, 0]), self._organs(some.tolist()))
            walked = self._walked(batch, generator)
            parts.append((latents.to(self.device), self._ended(walked, self._known(batch)), walked.before.float()))
        real, drawn, before = (torch.cat(some) for some in zip(*parts, strict=True))
        return real, drawn, before


def _first(known: Known, count: int) -> Known:
    embeds, told = known
    return embeds[:count], [one[:count] for one in told]


def _mean(values: Iterator[Tensor]) -> Tensor:
    return torch.stack([one.mean() for one in values]).mean()
