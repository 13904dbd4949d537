"""Solvers by name, all made from the noise schedule that the model was trained on."""

from __future__ import annotations

import copy
import json
from functools import lru_cache
from typing import Any

from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from xreal.control.linear_solver import LinearDPMSolver
from xreal.control.spacing import placed_timesteps
from xreal.errors import InputError

__all__ = ["SOLVERS", "build_solver"]

SOLVERS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "dpm++": LinearDPMSolver,
    "unipc": UniPCMultistepScheduler,
    "euler": EulerDiscreteScheduler,
}


def build_solver(name: str, trained: Any, steps: int, placed: bool = False) -> Any:
    """Make a solver for ``steps`` steps.

    Args:
        name: key of ``SOLVERS``.
        trained: the model folder's scheduler; betas, target and offset are taken from it.
        steps: number of network evaluations per trajectory.
        placed: put the timesteps of "dpm++" where they keep most (``placed_timesteps``), not equally far apart.

    Raises:
        InputError: unknown name, or a number of steps that the schedule cannot give.
    """
    if name not in SOLVERS:
        raise InputError(f"unknown solver {name!r}; expected one of {', '.join(SOLVERS)}")
    trained_steps = int(trained.config.num_train_timesteps)
    if not 1 <= steps < trained_steps:
        raise InputError(f"steps is {steps}; expected 1 to {trained_steps - 1}")
    solver = copy.copy(_fresh(name, trained.to_json_string(), steps, placed and name == "dpm++"))
    vars(solver).update({key: list(value) for key, value in vars(solver).items() if isinstance(value, list)})
    return solver


@lru_cache(maxsize=8)
def _fresh(name: str, config: str, steps: int, placed: bool) -> Any:
    """Make a solver that is never used itself: making one takes longer than its six steps do.

    A walk replaces a solver's tensors and numbers; what it writes into are its lists of earlier predictions.
    """
    # UniPC's corrector would go back to where the step before ended, past all that was blended since.
    own = {"disable_corrector": list(range(steps))} if name == "unipc" else {}
    solver = SOLVERS[name].from_config(json.loads(config), **own)
    if placed:
        solver.set_timesteps(timesteps=list(placed_timesteps(tuple(solver.alphas_cumprod.tolist()), steps)))
    else:
        solver.set_timesteps(steps)
    return solver
