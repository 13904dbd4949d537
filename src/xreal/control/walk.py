"""The solver's walk from noise to latents: what is kept, and where findings are guided, at each of its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xreal.control.blending import Keep, StepNoise
from xreal.control.denoiser import Denoiser
from xreal.control.pathology import LatentLesions

__all__ = ["Walk"]


@dataclass(frozen=True)
class Walk:
    """All steps of a solver, for a batch of B images.

    Attributes:
        solver: diffusers scheduler with its timesteps set.
        denoise: U-Net, prompt and organ masks.
        noise: of these images.
        eta: DDIM's η; above 0, each image's own noise is added, the same to both of its tracks.
        progress: shows progress over an iterable.
        end_step: told number of the step, timestep and latents after each step; returns the latents to go on with.
        leak: latents (B, c, h, w) whose trace is there from the first step on; None begins with noise alone.
        noise_scale: what the noise is multiplied by that a trajectory begins with, (B, 1, h, w); None is 1.
    """

    solver: Any
    denoise: Denoiser
    noise: StepNoise
    eta: float
    progress: Callable[[Iterable[Tensor]], Iterable[Tensor]]
    end_step: Callable[[int, Tensor, Tensor], Tensor]
    leak: Tensor | None = None
    noise_scale: Tensor | None = None

    def side_by_side(
        self, keep: Keep | None, lesions: LatentLesions | None, start: int, until: int
    ) -> tuple[Tensor, Tensor]:
        """Draw healthy X-rays and, beside them, the same with lesions (regional mode).

        Up to step ``start`` both are the same and cost one network call per image; from then on the lesions are guided,
        up to step ``until``, after which each track goes its own way. The anatomy blend moves the lesions' track by
        what it moves its healthy twin: blended itself, it would lose them.

        Returns:
            Latents of the healthy X-rays and of those with lesions, (B, c, h, w) each; the same without lesions.
        """
        batch = len(self.noise.start)
        tracks = 1 if lesions is None else 2
        latents = self._start(tracks)  # (tracks · B, c, h, w)
        where = None if lesions is None else lesions.union(batch)
        alone = self.denoise.bind(batch)
        guided = None if lesions is None or start >= until else self.denoise.bind(2 * batch, lesions, first=batch)
        left = self.denoise.bind(2 * batch) if guided is not None and until < len(self.solver.timesteps) else guided
        for index, timestep in enumerate(self.progress(self.solver.timesteps)):
            healthy = latents[:batch]
            if keep is not None:
                blended = keep.blend(healthy, self.noise.for_reference(), self.solver, timestep, index)
                latents = latents + (blended - healthy).repeat(tracks, 1, 1, 1)
            apart = None if index < start else guided if index < until else left  # once the tracks differ
            if apart is None:
                scaled = self.solver.scale_model_input(latents[:batch], timestep)
                prediction = alone(scaled, timestep).repeat(tracks, 1, 1, 1)
            else:
                scaled = self.solver.scale_model_input(latents, timestep)
                prediction = apart(scaled, timestep)
            latents = self._step(prediction, timestep, latents)
            if apart is not None:  # beyond the lesions: the healthy twin
                healthy, changed = latents.chunk(2)
                changed.copy_(torch.lerp(healthy, changed, where))
            latents = self.end_step(index, timestep, latents)
        if keep is not None:
            healthy = latents[:batch]
            finished = keep.finish(healthy, len(self.solver.timesteps))
            latents = latents + (finished - healthy).repeat(tracks, 1, 1, 1)
        return latents[:batch], latents[-batch:]

    def inpaint(self, reference: Tensor, lesions: LatentLesions) -> Tensor:
        """Draw lesions into given latents (B, c, h, w) (METHOD, step 2); everything else is kept at every step."""
        keep_mask = 1 - lesions.union(len(reference))
        steps = len(self.solver.timesteps)
        keep = Keep(reference, keep_mask, torch.full_like(keep_mask, steps))
        latents, denoise = self._start(1), self.denoise.bind(len(reference), lesions)
        for index, timestep in enumerate(self.progress(self.solver.timesteps)):
            latents = keep.blend(latents, self.noise.for_reference(), self.solver, timestep, index)
            prediction = denoise(self.solver.scale_model_input(latents, timestep), timestep)
            latents = self.end_step(index, timestep, self._step(prediction, timestep, latents))
        return keep.finish(latents, steps)

    def _start(self, tracks: int) -> Tensor:
        noise = self.noise.start if self.noise_scale is None else self.noise_scale * self.noise.start
        started = noise * self.solver.init_noise_sigma
        if self.leak is not None:
            started = self.solver.add_noise(self.leak, noise, self.solver.timesteps[:1].expand(len(noise)))
        return started.repeat(tracks, 1, 1, 1)

    def _step(self, prediction: Tensor, timestep: Tensor, latents: Tensor) -> Tensor:
        moved: Tensor
        if self.eta == 0:
            moved = self.solver.step(prediction, timestep, latents).prev_sample
            return moved
        drawn = self.noise.draw()
        drawn = drawn.repeat(len(latents) // len(drawn), 1, 1, 1)
        moved = self.solver.step(prediction, timestep, latents, eta=self.eta, variance_noise=drawn).prev_sample
        return moved
