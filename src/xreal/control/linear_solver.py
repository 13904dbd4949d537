"""DPM-Solver++ in few operations: each step is a weighted sum, whose weights diffusers works out once."""

from __future__ import annotations

import copy
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

__all__ = ["LinearDPMSolver"]


class LinearDPMSolver(DPMSolverMultistepScheduler):
    """diffusers' solver, which spends ten times as long on the scalars of a step as on the latents.

    A step is linear in latents, prediction and the clean latents of the step before, so its weights are what it makes
    of unit vectors. They are those of a walk from the first timestep on. What is not linear (thresholding, renewed
    noise) or needs more steps before (order 3) is left to diffusers.
    """

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        """Set timesteps as diffusers does, and work out the weights of each."""
        super().set_timesteps(*args, **kwargs)
        config = self.config
        linear = config.algorithm_type == "dpmsolver++" and config.solver_order <= 2 and not config.thresholding
        self._weights = self._ask() if linear else None

    def _ask(self) -> list[tuple[list[float], list[float]]]:
        """Return per step the weights of latents, prediction and earlier clean latents: in those moved, and clean."""
        latents, prediction, before = torch.eye(3)
        asked = copy.copy(self)
        weights = []
        for timestep in self.timesteps:
            asked.model_outputs = [before] * self.config.solver_order
            moved = DPMSolverMultistepScheduler.step(asked, prediction, timestep, latents).prev_sample
            weights.append((moved.tolist(), asked.model_outputs[-1].tolist()))
        return weights

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Any = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Take a step as diffusers does."""
        if self._weights is None:
            return super().step(model_output, timestep, sample, generator, variance_noise, return_dict)
        if self.step_index is None:
            self._init_step_index(timestep)
        (of_sample, of_output, of_before), clean = self._weights[self.step_index]
        moved = (of_sample * sample).add_(model_output, alpha=of_output)
        if of_before:
            moved.add_(self.model_outputs[-1], alpha=of_before)
        if self._step_index + 1 < len(self.timesteps):  # the next step asks for it
            self.model_outputs[-1] = (clean[0] * sample).add_(model_output, alpha=clean[1])
        self._step_index += 1
        return SchedulerOutput(prev_sample=moved) if return_dict else (moved,)
