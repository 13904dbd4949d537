"""Placed timesteps: the forecast is what the solver does, and the choice keeps more than equal distances."""

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from xreal.config import PRESETS
from xreal.control.solvers import build_solver
from xreal.control.spacing import kept_deviation, placed_timesteps
from xreal.models.backbone import build_scheduler

TRAINED = build_scheduler(PRESETS["cxr-256"].backbone)
ALPHAS = tuple(TRAINED.alphas_cumprod.double().tolist())


def walked(solver: DPMSolverMultistepScheduler, deviation: float) -> float:
    """Let the solver draw a mode of Gaussian data, and return its deviation ÷ the data's."""
    latent = torch.ones(1, dtype=torch.float64)
    for timestep in solver.timesteps:
        alpha = TRAINED.alphas_cumprod.double()[timestep]
        signal, noise = alpha.sqrt(), (1 - alpha).sqrt()
        clean = signal * deviation**2 * latent / ((signal * deviation) ** 2 + noise**2)
        velocity = signal * (latent - signal * clean) / noise - noise * clean
        latent = solver.step(velocity, timestep, latent).prev_sample
    return float(latent) / deviation


@pytest.mark.parametrize("placed", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 6, 20])
def test_forecast_is_what_the_solver_does(steps: int, placed: bool) -> None:
    for deviation in (0.5, 2.0, 13.0):
        solver = build_solver("dpm++", TRAINED, steps, placed)
        timesteps = solver.timesteps.double().numpy()
        forecast = kept_deviation(np.array(ALPHAS), timesteps, np.array([deviation]))
        assert walked(solver, deviation) == pytest.approx(float(forecast[0]), rel=5e-3)


@pytest.mark.parametrize("steps", [4, 5, 6])
def test_placed_timesteps_keep_more(steps: int) -> None:
    even = build_solver("dpm++", TRAINED, steps).timesteps.double().numpy()
    there, here = (
        np.abs(np.log(kept_deviation(np.array(ALPHAS), np.asarray(timesteps, float))))
        for timesteps in (even, placed_timesteps(ALPHAS, steps))
    )
    coarse = slice(3, None)  # the finest are left to the last step
    assert here[coarse].mean() < 0.7 * there[coarse].mean()
    assert here.max() < there.max()


def test_six_steps_keep_nearly_all_that_is_coarse() -> None:
    kept = kept_deviation(np.array(ALPHAS), np.array(placed_timesteps(ALPHAS, 6), float))
    assert (kept[3:] > 0.94).all()
    assert (kept < 1.03).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 999))
def test_timesteps_fall_and_are_those_of_training(steps: int) -> None:
    timesteps = np.array(placed_timesteps(ALPHAS, steps))
    assert len(timesteps) == steps
    assert (np.diff(timesteps) < 0).all()
    assert timesteps.min() >= 0
    assert timesteps.max() <= 999


def test_a_schedule_may_end_without_signal() -> None:
    timesteps = placed_timesteps((*ALPHAS[:-1], 0.0), 6)
    np.testing.assert_allclose(timesteps, placed_timesteps(ALPHAS, 6), atol=5)
