"""The trace of an X-ray that a walk begins with: learnt from latents, drawn per seed, used in regional mode."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor
from typer.testing import CliRunner

from xreal.cli import app
from xreal.control.blending import StepNoise
from xreal.control.solvers import build_solver
from xreal.control.walk import Walk
from xreal.errors import DataError, TrainingError
from xreal.models.folder import write_index
from xreal.models.signal_leak import SignalLeak, fit_signal_leak
from xreal.pipeline import XRealPipeline
from xreal.training.signal_leak import learn_signal_leak


def latents(count: int = 800) -> Tensor:
    """A chest, more or less of it, brighter or darker in the first channel, and detail of unit variance."""
    generator = torch.Generator().manual_seed(0)
    chest = torch.randn(2, 8, 8, generator=generator)
    contrast = 1 + 0.3 * torch.randn(count, 1, 1, 1, generator=generator)
    exposure = torch.zeros(count, 2, 1, 1)
    exposure[:, 0] = 0.5 * torch.randn(count, 1, 1, generator=generator)
    return contrast * chest + exposure + torch.randn(count, 2, 8, 8, generator=generator)


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def test_it_has_their_mean_and_three_times_what_they_differ_in_as_a_whole() -> None:
    learnt = latents()
    mean = learnt.mean(0)
    drawn = fit_signal_leak(learnt)(generators(4000))
    assert drawn.mean(0).numpy() == pytest.approx(mean.numpy(), abs=0.15)
    along = [(some * mean).sum((1, 2, 3)).std().item() for some in (drawn, learnt)]
    assert along[0] == pytest.approx(3 * along[1], rel=0.1)  # contrast
    bright = [some[:, 0].mean((1, 2)).std().item() for some in (drawn, learnt)]
    assert bright[0] == pytest.approx(3 * bright[1], rel=0.1)  # exposure


def test_it_leaves_detail_to_the_noise() -> None:
    drawn = fit_signal_leak(latents())(generators(200))
    rest = drawn - drawn.mean(0)
    kept = torch.linalg.svdvals(rest.flatten(1)).square()
    assert kept[9:].sum() < 1e-6 * kept.sum()  # four waves in each of two channels, and contrast


def test_flat_latents_have_no_contrast() -> None:
    leak = fit_signal_leak(torch.zeros(20, 2, 8, 8))
    assert torch.equal(leak(generators(2)), torch.zeros(2, 2, 8, 8))


def test_too_few_images() -> None:
    with pytest.raises(DataError, match="1 training images do not tell"):
        fit_signal_leak(latents(1))


@pytest.mark.parametrize("name", ["dpm++", "ddim", "unipc", "euler"])
def test_the_first_step_sees_it_at_its_own_noise_level(name: str) -> None:
    seen: list[Tensor] = []

    def denoise(latents: Tensor, timestep: Tensor, *_: Any, **__: Any) -> Tensor:
        seen.append(latents)
        return torch.zeros_like(latents)

    def walk(leak: Tensor | None) -> Tensor:
        seen.clear()
        solver = build_solver(name, DDIMScheduler(), 4, placed=True)
        noise = StepNoise([5], (2, 4, 4), torch.device("cpu"), fixed=True)
        bound: Any = Walk
        bindable = SimpleNamespace(bind=lambda *_: denoise)
        bound = bound(solver, bindable, noise, 0.0, lambda steps: steps, lambda index, timestep, moved: moved, leak)
        bound.side_by_side(None, None, 0, 4)
        return seen[0]

    without = walk(None)
    beside = walk(torch.full((1, 2, 4, 4), 100.0))
    first = int(build_solver(name, DDIMScheduler(), 4, placed=True).timesteps[0])
    signal = float(DDIMScheduler().alphas_cumprod[first]) ** 0.5
    assert (beside - without).mean().item() == pytest.approx(100 * signal, rel=0.05)


@pytest.fixture(scope="module")
def leaking_folder(tiny_model_folder: Path, phantom_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("leaking") / "model"
    shutil.copytree(tiny_model_folder, folder)
    told: list[tuple[int, int]] = []
    leak = learn_signal_leak([phantom_data], folder, lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] > 2
    leak.half().save_pretrained(folder / "signal_leak")
    assert write_index(folder)
    return folder


def test_the_command_adds_it_to_a_model_folder(tiny_model_folder: Path, phantom_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    result = CliRunner().invoke(app, ["train", "signal-leak", "--data", str(phantom_data), "--out", str(folder)])
    assert result.exit_code == 0, result.output
    assert "17 directions" in result.output
    assert isinstance(XRealPipeline.from_pretrained(folder).signal_leak, SignalLeak)


def test_a_model_that_knows_it_begins_with_it_in_regional_mode(leaking_folder: Path, organ_mask: np.ndarray) -> None:
    pipeline = XRealPipeline.from_pretrained(leaking_folder)
    pipeline.set_progress_bar_config(disable=True)
    assert isinstance(pipeline.signal_leak, SignalLeak)
    drawn = pipeline(organ_mask, seeds=[1, 2], steps=3).images
    alone = pipeline(organ_mask, seeds=[2], steps=3).images
    np.testing.assert_allclose(alone[0], drawn[1], atol=1e-5)
    paper = pipeline(organ_mask, seeds=[1], steps=2, mode="two-pass").images
    pipeline.register_modules(signal_leak=None)
    assert not np.allclose(pipeline(organ_mask, seeds=[1, 2], steps=3).images, drawn)
    assert np.array_equal(pipeline(organ_mask, seeds=[1], steps=2, mode="two-pass").images, paper)


def test_it_needs_an_autoencoder(tmp_path: Path, phantom_data: Path) -> None:
    with pytest.raises(TrainingError, match="xreal train autoencoder"):
        learn_signal_leak([phantom_data], tmp_path)
