"""What X-rays of one mask differ in: learnt from differences, drawn per seed, kept by a model folder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from xreal.config import PRESETS
from xreal.control.anatomy import AnatomyBlend
from xreal.errors import DataError, InputError, TrainingError
from xreal.inputs import default_blend
from xreal.models.folder import write_index
from xreal.models.variation import AnatomyVariation, fit_variation
from xreal.pipeline import XRealPipeline
from xreal.training.variation import learn_variation


def differences(count: int = 600) -> Tensor:
    """Two directions of deviation 3 and 2 about a mean of 0.5, and a little noise."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.zeros(2, 4, 8, 8)
    first[0], second[1] = 1 / 8, 1 / 8  # unit length
    scores = torch.randn(count, 2, generator=generator) * torch.tensor([3.0, 2.0])
    noise = 0.01 * torch.randn(count, 4, 8, 8, generator=generator)
    return 0.5 + torch.einsum("nk,kchw->nchw", scores, torch.stack([first, second])) + noise


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_drawn_differences_have_the_mean_and_the_variance_of_those_learnt_from() -> None:
    learnt = differences()
    variation = fit_variation(learnt, 2)
    drawn = variation(generators(*range(2000)))
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.02)
    for channel in range(4):
        ours, theirs = (some[:, channel].mean((1, 2)).std().item() for some in (drawn, learnt))
        assert ours == pytest.approx(theirs, rel=0.1, abs=0.002)
    assert torch.equal(variation(generators(3, 7))[1], variation(generators(7))[0])


def test_the_same_data_give_the_same_components() -> None:
    first, second = (fit_variation(differences(), 2).state_dict() for _ in range(2))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_too_few_differences() -> None:
    with pytest.raises(DataError, match="5 training images with organ masks for 5 components"):
        fit_variation(differences(5), 5)


@pytest.fixture(scope="module")
def varied_folder(tiny_model_folder: Path, phantom_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import shutil

    folder = tmp_path_factory.mktemp("varied") / "model"
    shutil.copytree(tiny_model_folder, folder)
    told: list[tuple[int, int]] = []
    variation = learn_variation(
        [phantom_data], folder, PRESETS["tiny"].variation_components, lambda done, total: told.append((done, total))
    )
    assert told[-1][0] == told[-1][1] > 2
    variation.half().save_pretrained(folder / "anatomy_variation")
    assert write_index(folder)
    return folder


def test_a_model_that_knows_the_variety_uses_it_in_regional_mode(varied_folder: Path, organ_mask: np.ndarray) -> None:
    pipeline = XRealPipeline.from_pretrained(varied_folder)
    pipeline.set_progress_bar_config(disable=True)
    assert isinstance(pipeline.anatomy_variation, AnatomyVariation)
    usual, mean = default_blend("regional"), AnatomyBlend(contour_until=0.9)
    varied = pipeline(organ_mask, seeds=[1, 2], steps=3)
    same = pipeline(organ_mask, seeds=[1, 2], steps=3, anatomy=usual)
    plain = pipeline(organ_mask, seeds=[1, 2], steps=3, anatomy=mean)
    assert varied.settings["anatomy"]["variety"] == 1.0
    assert np.array_equal(varied.images, same.images)
    assert not np.allclose(varied.images, plain.images)
    alone = pipeline(organ_mask, seeds=[2], steps=3)
    np.testing.assert_allclose(alone.images[0], varied.images[1], atol=1e-5)
    assert pipeline(organ_mask, seeds=[1], steps=2, mode="two-pass").settings["anatomy"]["variety"] == 0.0
    pipeline.register_modules(anatomy_variation=None)
    without = pipeline(organ_mask, seeds=[1, 2], steps=3)
    assert without.settings["anatomy"]["variety"] == 0.0
    assert np.array_equal(without.images, plain.images)


@pytest.mark.parametrize("variety", [-0.1, 2.1, float("nan")])
def test_variety_out_of_range(variety: float) -> None:
    with pytest.raises(InputError, match="variety"):
        AnatomyBlend(variety=variety)


def test_variety_needs_a_controller(tmp_path: Path, phantom_data: Path) -> None:
    with pytest.raises(TrainingError, match="xreal train anatomy"):
        learn_variation([phantom_data], tmp_path, 2)
