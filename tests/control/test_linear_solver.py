"""The solver in few operations takes diffusers' own steps, whatever the network's target, and leaves it the rest."""

from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from xreal.control.linear_solver import LinearDPMSolver

CONFIG = {"beta_start": 1e-3, "beta_end": 0.02}


def walked(solver: Any, steps: int, **noise: Tensor) -> tuple[Tensor, Tensor]:
    """Walk past predictions that depend on the latents, as a network's do; return the ends, and the second step's."""
    solver.set_timesteps(steps)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    seen = []
    for timestep in solver.timesteps:
        latents = solver.step(latents.cos() + timestep / 1000, timestep, latents, **noise).prev_sample
        seen.append(latents)
    return seen[-1], seen[min(1, steps - 1)]


@pytest.mark.parametrize("target", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("steps", [1, 2, 6, 20])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("kind", ["midpoint", "heun"])
def test_takes_diffusers_steps(target: str, steps: int, order: int, kind: str) -> None:
    config = CONFIG | {"prediction_type": target, "solver_order": order, "solver_type": kind}
    expected = walked(DPMSolverMultistepScheduler(**config), steps)
    solver = LinearDPMSolver(**config)
    torch.testing.assert_close(walked(solver, steps), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(walked(solver, steps), expected, rtol=1e-4, atol=1e-4)  # from the first step again


@pytest.mark.parametrize(
    "config",
    [
        {"solver_order": 3},
        {"thresholding": True},
        {"algorithm_type": "sde-dpmsolver++"},
        {"algorithm_type": "dpmsolver"},
    ],
    ids=lambda config: next(iter(config.values())),
)
@pytest.mark.filterwarnings("ignore:algorithm_type")
def test_leaves_the_rest_to_diffusers(config: dict[str, Any]) -> None:
    noise = {"variance_noise": torch.ones(2, 4, 8, 8)} if "algorithm_type" in config else {}
    if config.get("algorithm_type") == "dpmsolver":
        config = config | {"final_sigmas_type": "sigma_min"}
    expected = walked(DPMSolverMultistepScheduler(**CONFIG, **config), 6, **noise)
    for got, wanted in zip(walked(LinearDPMSolver(**CONFIG, **config), 6, **noise), expected, strict=True):
        assert torch.equal(got, wanted)


def test_returns_what_diffusers_returns() -> None:
    solver = LinearDPMSolver(**CONFIG)
    solver.set_timesteps(3)
    latents = torch.ones(1, 4, 2, 2)
    (moved,) = solver.step(latents, solver.timesteps[0], latents, return_dict=False)
    assert moved.shape == latents.shape
    assert solver.step_index == 1
