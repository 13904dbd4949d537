"""Blending: the solver's own noise level, what a mask of 0 and of 1 means, and noise that is each image's own."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xreal.config import PRESETS
from xreal.control.blending import Keep, StepNoise, keep_reference, per_step_strength
from xreal.control.solvers import SOLVERS, build_solver
from xreal.errors import InputError
from xreal.models.backbone import build_scheduler

TRAINED = build_scheduler(PRESETS["tiny"].backbone)
CPU = torch.device("cpu")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("steps", [7, 30])
@pytest.mark.parametrize("name", SOLVERS)
def test_reference_is_noised_to_the_solvers_own_level(name: str, steps: int) -> None:
    solver = build_solver(name, TRAINED, steps)
    reference, noise, latents = (draw(2, 4, 8, 8, seed=seed) for seed in range(3))
    alphas = TRAINED.alphas_cumprod  # of the schedule that the network was trained on
    for timestep in solver.timesteps:
        kept = keep_reference(latents, reference, torch.ones(2, 1, 8, 8), noise, solver, timestep)
        alpha = torch.lerp(alphas[timestep.long()], alphas[timestep.ceil().long()], timestep.float() % 1)
        signal, level = alpha.sqrt(), (1 - alpha).sqrt()
        if name == "euler":  # works on latents over √ᾱ and scales them for the network
            signal, level = torch.tensor(1.0), ((1 - alpha) / alpha).sqrt()
        # Euler's levels are interpolated between the trained ones where its timesteps are; DPM-Solver++'s timesteps are
        # rounded, its levels not.
        torch.testing.assert_close(kept, signal * reference + level * noise, rtol=2e-3, atol=1e-2)
        # What the network then sees is at the level of that timestep, whatever scale the solver works at.
        seen = solver.scale_model_input(kept, timestep)
        torch.testing.assert_close(seen, alpha.sqrt() * reference + (1 - alpha).sqrt() * noise, rtol=2e-3, atol=1e-2)
        solver.step(draw(2, 4, 8, 8), timestep, latents)  # solvers count their steps


@pytest.mark.parametrize("name", SOLVERS)
def test_true_noise_leads_every_solver_to_the_reference(name: str) -> None:
    """With the network's answer known, a trajectory ends where it should."""
    solver = build_solver(name, TRAINED, 20)
    reference, noise = draw(1, 4, 8, 8), draw(1, 4, 8, 8, seed=1)
    latents = noise * solver.init_noise_sigma
    for timestep in solver.timesteps:
        velocity = TRAINED.get_velocity(reference, noise, timestep.long().reshape(1))
        latents = solver.step(velocity, timestep, latents).prev_sample
    torch.testing.assert_close(latents, reference, rtol=0.1, atol=0.12)


@pytest.mark.parametrize("name", SOLVERS)
def test_where_all_is_kept_nothing_is_left_of_where_the_trajectory_was(name: str) -> None:
    def walked(seed: int, keeps: bool) -> torch.Tensor:
        solver, latents = build_solver(name, TRAINED, 20), draw(1, 4, 8, 8, seed=seed)
        for index, timestep in enumerate(solver.timesteps[:6]):
            if keeps and index == 5:
                everywhere, noise = torch.ones(1, 1, 8, 8), draw(1, 4, 8, 8, seed=1)
                latents = keep_reference(latents, draw(1, 4, 8, 8), everywhere, noise, solver, timestep)
            said = draw(1, 4, 8, 8, seed=2) if index == 5 else torch.zeros_like(latents)
            latents = solver.step(said, timestep, latents).prev_sample
        return latents

    apart = [(walked(5, keeps) - walked(6, keeps)).abs().max() for keeps in (True, False)]
    assert apart[0] < 0.01 * apart[1]


@pytest.mark.parametrize("name", SOLVERS)
def test_zero_mask_changes_nothing_and_a_mask_is_local(name: str) -> None:
    solver = build_solver(name, TRAINED, 10)
    latents, reference, noise = (draw(1, 4, 4, 4, seed=seed) for seed in range(3))
    mask = torch.zeros(1, 1, 4, 4)
    assert torch.equal(keep_reference(latents, reference, mask, noise, solver, solver.timesteps[3]), latents)
    mask[..., :2] = 1
    kept = keep_reference(latents, reference, mask, noise, solver, solver.timesteps[3])
    assert torch.equal(kept[..., 2:], latents[..., 2:])
    assert (kept[..., :2] != latents[..., :2]).all()


def test_two_passs_timesteps_are_the_authors() -> None:
    assert build_solver("ddim", TRAINED, 100).timesteps.tolist() == list(range(991, 0, -10))


@pytest.mark.parametrize("name", SOLVERS)
def test_solver_keeps_the_trained_schedule_and_target(name: str) -> None:
    solver = build_solver(name, TRAINED, 12)
    assert len(solver.timesteps) == 12
    torch.testing.assert_close(solver.alphas_cumprod, TRAINED.alphas_cumprod)
    assert solver.config.prediction_type == "v_prediction"


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_built_alike_walk_apart(name: str) -> None:
    """One in the middle of its walk leaves no trace in those built before and after it."""

    def walked(solver: Any, seed: int) -> torch.Tensor:
        latents = draw(1, 4, 4, 4, seed=seed)
        for timestep in solver.timesteps:
            latents = solver.step(draw(1, 4, 4, 4, seed=seed + 1), timestep, latents).prev_sample
        return latents

    before, used = build_solver(name, TRAINED, 6), build_solver(name, TRAINED, 6)
    expected = walked(before, 0)
    for timestep in used.timesteps[:4]:
        used.step(draw(1, 4, 4, 4, seed=9), timestep, draw(1, 4, 4, 4, seed=8))
    assert torch.equal(walked(build_solver(name, TRAINED, 6), 0), expected)


@pytest.mark.parametrize(
    ("name", "steps", "said"),
    [
        ("heun", 10, "unknown solver 'heun'; expected one of ddim, dpm"),
        ("ddim", 0, "steps is 0"),
        ("ddim", 1000, "999"),
    ],
)
def test_solver_refuses(name: str, steps: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        build_solver(name, TRAINED, steps)


@given(st.floats(0, 1), st.integers(1, 999))
def test_strength_per_step_composes(strength: float, steps: int) -> None:
    """All blends of a run leave the share of the latents that 100 blends of the given strength leave."""
    assert per_step_strength(strength, 100) == pytest.approx(strength)
    converted = per_step_strength(strength, steps)
    assert 0 <= converted <= 1
    assert (1 - converted) ** steps == pytest.approx((1 - strength) ** 100, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("steps", [1, 15, 100, 250])
def test_strengths_nothing_and_all_stay(steps: int) -> None:
    assert per_step_strength(0.0, steps) == 0
    assert per_step_strength(1.0, steps) == 1


def test_finish_takes_the_clean_reference_only_where_kept_to_the_end() -> None:
    latents, reference = draw(1, 4, 4, 4), draw(1, 4, 4, 4, seed=1)
    mask, steps = torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), 10.0)
    mask[..., :2] = 1
    steps[..., 1] = 9
    finished = Keep(reference, mask, steps).finish(latents, 10)
    assert torch.equal(finished[..., 0], reference[..., 0])
    assert torch.equal(finished[..., 1:], latents[..., 1:])


def test_each_latent_is_let_go_at_its_own_step() -> None:
    latents, reference = draw(1, 4, 4, 4), draw(1, 4, 4, 4, seed=1)
    steps = torch.tensor([0.0, 1.0, 2.0, 3.0]).expand(1, 1, 4, 4)
    keep = Keep(reference, torch.ones(1, 1, 4, 4), steps)
    scheduler = build_solver("ddim", build_scheduler(PRESETS["tiny"].backbone), 4)
    for index in range(4):
        blended = keep.blend(latents, torch.zeros_like(latents), scheduler, scheduler.timesteps[0], index)
        changed = (blended != latents).any(dim=(0, 1, 2))
        assert changed.tolist() == [step > index for step in range(4)]


def test_noise_of_an_image_is_its_own() -> None:
    together = StepNoise([3, 4, 5], (4, 8, 8), CPU, fixed=False)
    alone = StepNoise([5], (4, 8, 8), CPU, fixed=False)
    for noise in (lambda n: n.start, StepNoise.draw, StepNoise.for_reference):
        assert torch.equal(noise(together)[2:], noise(alone))


def test_every_seed_and_stream_has_its_own_noise() -> None:
    """Seeds that differ by 2³² too, which torch's own CPU generator takes for one."""
    noises = [StepNoise([seed], (4, 8, 8), CPU, False, trajectory) for seed in (0, 1, 2**32) for trajectory in (0, 1)]
    drawn = [noise.start for noise in noises] + [noise.for_reference() for noise in noises]
    assert len({tensor.sum().item() for tensor in drawn}) == len(drawn) == 12


def test_noise_of_the_reference_leaves_the_trajectory_as_it_is() -> None:
    plain, blended = (StepNoise([7], (4, 8, 8), CPU, fixed=False) for _ in range(2))
    blended.for_reference()
    torch.randn(5, generator=blended.reference_generators[0])
    assert torch.equal(plain.draw(), blended.draw())


def test_fixed_noise_is_the_starting_noise() -> None:
    noise = StepNoise([7], (4, 8, 8), CPU, fixed=True)
    assert torch.equal(noise.for_reference(), noise.start)
    fresh = StepNoise([7], (4, 8, 8), CPU, fixed=False)
    assert not torch.equal(fresh.for_reference(), fresh.for_reference())
    assert noise.start.std().item() == pytest.approx(1, abs=0.15)
