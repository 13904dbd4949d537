"""The one shared rule of both controllers: keep a reference, at the solver's noise level, where a mask says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "Keep",
    "StepNoise",
    "keep_reference",
    "leak_generators",
    "per_step_strength",
    "texture_generators",
]


def keep_reference(
    latents: Tensor, reference: Tensor, keep_mask: Tensor, noise: Tensor, scheduler: Any, timestep: Tensor
) -> Tensor:
    """Blend ``z ← s · q(z_ref, t) + (1 − s) · z`` before the U-Net is called at ``timestep``.

    Args:
        latents: z (B, c, h, w), at the noise level of ``timestep``.
        reference: clean latents z_ref (B, c, h, w), × the autoencoder's scaling factor.
        keep_mask: s (B, 1, h, w) in [0, 1]; 0 leaves ``latents`` as they are, 1 takes the reference.
        noise: (B, c, h, w), standard normal.
        scheduler: any diffusers scheduler with ``add_noise``: its own noise level at ``timestep`` is used.
        timestep: the scheduler's, a scalar.
    """
    noised = scheduler.add_noise(reference, noise, timestep.reshape(1).expand(len(reference)))
    return torch.lerp(latents, noised, keep_mask)


def per_step_strength(strength: float | Tensor, steps: int, reference_steps: int = 100) -> float | Tensor:
    """Convert a blend strength per step of ``reference_steps`` to one per step of ``steps``.

    Repeated blending adds up: what 50 blends of 0.2 pull to the reference, 15 blends must pull too. Equal to
    ``strength`` at the paper's 100 steps; 0 and 1 stay what they are.
    """
    return 1 - (1 - strength) ** (reference_steps / steps)


@dataclass(frozen=True)
class Keep:
    """What is kept, where, and at how many of the first steps.

    Attributes:
        reference: clean latents (B, c, h, w).
        mask: (B, 1, h, w) in [0, 1].
        steps: number of steps, from the first, of each latent; (B, 1, h, w).
    """

    reference: Tensor
    mask: Tensor
    steps: Tensor

    def blend(self, latents: Tensor, noise: Tensor, scheduler: Any, timestep: Tensor, index: int) -> Tensor:
        """Apply ``keep_reference`` before step ``index``, counted from 0."""
        mask = self.mask * (self.steps > index)
        return keep_reference(latents, self.reference, mask, noise, scheduler, timestep)

    def finish(self, latents: Tensor, steps: int) -> Tensor:
        """Take the clean reference after the last of ``steps`` steps, where it was kept up to there."""
        return torch.lerp(latents, self.reference, self.mask * (self.steps >= steps))


class StepNoise:
    """The noise of a batch: generators of its own for each image, so that image i does not depend on its batch.

    Trajectory and reference draw from separate streams: what is kept, or whether anything is, leaves the noise of the
    trajectory as it is. A second trajectory of the same images (``trajectory=1``) has two further streams.

    ``fixed`` draws the noise of the reference once, equal to the starting noise: right for deterministic solvers, whose
    trajectory keeps its noise. Mixing a trajectory with freshly drawn noise would take away variance. The authors'
    procedure (DDIM, η = 1) renews noise at every step and so draws it afresh.
    """

    def __init__(
        self, seeds: list[int], shape: tuple[int, ...], device: torch.device, fixed: bool, trajectory: int = 0
    ) -> None:
        self.generators = [_stream(seed, 2 * trajectory) for seed in seeds]
        self.reference_generators = [_stream(seed, 2 * trajectory + 1) for seed in seeds]
        self.shape, self.device, self.fixed = shape, device, fixed
        self.start = self.draw()

    def draw(self) -> Tensor:
        """Draw the trajectory's standard normal noise (B, c, h, w)."""
        return self._draw(self.generators)

    def for_reference(self) -> Tensor:
        """Return the noise for the reference at this step."""
        return self.start if self.fixed else self._draw(self.reference_generators)

    def _draw(self, generators: list[torch.Generator]) -> Tensor:
        return torch.stack([torch.randn(self.shape, generator=g) for g in generators]).to(self.device)


def texture_generators(seeds: list[int]) -> list[torch.Generator]:
    """Return the generators of what is added after decoding: streams of their own, beside those of two trajectories."""
    return [_stream(seed, 4) for seed in seeds]


def leak_generators(seeds: list[int]) -> list[torch.Generator]:
    """Return the generators of the trace of an X-ray that a trajectory begins with."""
    return [_stream(seed, 5) for seed in seeds]


def _stream(seed: int, stream: int) -> torch.Generator:
    """Mix a seed of any size and a stream's number; torch itself looks at the low 32 bits of a CPU seed only."""
    mixed = np.random.SeedSequence(seed, spawn_key=(stream,)).generate_state(1)[0]
    return torch.Generator().manual_seed(int(mixed))
