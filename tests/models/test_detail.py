"""Detail: drawn from the decoded image and noise, taught by a judge, the same on X-ray and healthy twin."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from xreal.config import PRESETS
from xreal.errors import DataError, ModelError, TrainingError
from xreal.evaluation.rows import reconstruct
from xreal.evaluation.spectrum import grid_excess
from xreal.masks.lesions import Lesion
from xreal.models.autoencoder import decode_latents, encode_image
from xreal.models.detail import DetailGenerator, DetailJudge, with_lines
from xreal.models.folder import write_index
from xreal.pipeline import XRealPipeline
from xreal.training.detail import DetailStage
from xreal.training.loop import train
from xreal.training.stages import build_stage

GRID = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5


def noise_beside(images: Tensor, *seeds: int) -> Tensor:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return torch.stack([torch.randn(2, *images.shape[-2:], generator=one) for one in generators])


def busy(seed: int = 0) -> DetailGenerator:
    """Return a network that adds something."""
    torch.manual_seed(seed)
    network = DetailGenerator(width=8, coarse_blocks=1, fine_blocks=1)
    torch.nn.init.normal_(network.draw.weight, std=0.05)
    return network.eval()


@pytest.fixture
def model(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """The tiny model with detail."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    busy().save_pretrained(folder / "detail")
    write_index(folder)
    return folder


def smooth(count: int, side: int = 64) -> Tensor:
    coarse = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("size", [(64, 64), (40, 24), (4, 8)])
def test_an_untrained_network_adds_nothing(size: tuple[int, int]) -> None:
    images = torch.rand(2, 1, *size)
    added = DetailGenerator()(images, noise_beside(images, 0, 1))
    assert added.shape == images.shape
    assert not added.any()


def test_noise_says_which_detail_is_drawn_and_belongs_to_its_image() -> None:
    images, network = smooth(1).expand(2, -1, -1, -1), busy()
    noise = noise_beside(images, 3, 4)
    with torch.no_grad():
        added = network(images, noise)
        alone = network(images[1:], noise_beside(images[1:], 4))
        lines, none = network(images), network(images, torch.zeros_like(noise))
    assert (added[0] - added[1]).std() > 0.1 * added[0].std()
    torch.testing.assert_close(added[1:], alone)
    assert torch.equal(lines, none)
    assert torch.equal(lines[0], lines[1])


def test_detail_far_from_a_change_stays() -> None:
    images = smooth(1, 128)
    other = images.clone()
    other[..., :8, :8] = 1
    noise, network = noise_beside(images, 0), busy()
    with torch.no_grad():
        before, after = network(images, noise), network(other, noise)
    assert torch.equal(before[..., 80:, 80:], after[..., 80:, 80:])
    assert not torch.equal(before, after)


def test_a_network_deals_out_no_grid_of_its_own() -> None:
    """Whatever its weights; one that deals pixels out of channels, each with a bias of its own, does."""
    images = smooth(24, 128)
    with torch.no_grad():
        added = busy()(images, noise_beside(images, *range(24)))
    planted = added + 0.5 * added.std() * GRID.repeat(1, 1, 16, 16)
    excess, found = (grid_excess(some[:, 0].numpy()).mean(0) for some in (added, planted))
    assert excess.max() < 5
    assert found.max() > 10


def test_the_decoders_grid_goes_and_strength_scales_both() -> None:
    images = smooth(1).mul(0.8).add(0.1)
    gridded = images + 0.01 * GRID.repeat(1, 1, 8, 8)
    with torch.no_grad():
        (clean,) = with_lines(DetailGenerator(), [gridded], 8)
        (none,), (half,), (full,) = (with_lines(busy(), [gridded], 8, strength) for strength in (0, 0.5, 1))
    assert (gridded - images).abs().mean() > 3 * (clean - images).abs().mean()
    torch.testing.assert_close(none, gridded)
    torch.testing.assert_close(half, (gridded + full) / 2, atol=1e-3, rtol=0)


def test_a_grid_of_two_and_of_four_pixels_cancels_and_lines_stay() -> None:
    images = smooth(1).mul(0.5).add(0.2)
    down, across = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    grid = 0.05 * torch.cos(math.pi / 2 * (down + across)) + 0.05 * torch.cos(math.pi * down)

    def edges(images: torch.Tensor) -> torch.Tensor:
        return 0.1 * F.conv2d(images, torch.tensor([[[[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]]]]), padding=1)

    (plain,), (gridded,) = (
        with_lines(draw, [images], 8) for draw in (edges, lambda seen: edges(seen) + grid.expand_as(seen))
    )
    inner = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(gridded[inner], plain[inner], atol=1e-6, rtol=0)
    assert (plain - images).abs().max() > 1e-3


def test_a_finding_gets_the_lines_of_its_healthy_twin() -> None:
    healthy = smooth(1).mul(0.5).add(0.2)
    haze = torch.zeros_like(healthy)
    haze[..., 20:40, 20:40] = 0.1
    with torch.no_grad():
        twin, image = with_lines(busy(), [healthy, healthy + haze], 8)
    torch.testing.assert_close(image - twin, haze, atol=1e-6, rtol=0)
    assert (twin - healthy).std() > 1e-3


def test_the_judge_sees_grain_beside_the_image() -> None:
    torch.manual_seed(0)
    judge = DetailJudge(width=8)
    images = smooth(1)
    with torch.no_grad():
        scores = judge.scores(images)
        moved = judge.scores(images + 0.01 * torch.randn(images.shape)) - scores
        shifted = judge.scores(images + 0.01) - scores
    assert scores.shape == (1, 1, 8, 8)
    assert moved.abs().mean() > 2 * shifted.abs().mean()


def test_pipeline_adds_the_same_detail_to_image_and_twin(model: Path, tiny_model_folder: Path) -> None:
    mask = np.zeros((64, 64), np.float32)
    mask[8:20, 8:20] = 1
    asked = {"lesions": [Lesion("Pneumonia", mask)], "seeds": [5, 6], "steps": 2}
    detailed = XRealPipeline.from_pretrained(model, "torch")(None, **asked)
    plain = XRealPipeline.from_pretrained(tiny_model_folder, "torch")(None, **asked)
    assert detailed.settings["texture"] == 1
    assert np.abs(detailed.images - plain.images).max() > 1e-3
    np.testing.assert_array_equal(detailed.images[:, 60:, 60:], detailed.healthy[:, 60:, 60:])
    without = XRealPipeline.from_pretrained(model, "torch")(None, texture=0.0, **asked)
    np.testing.assert_array_equal(without.images, plain.images)
    alone = XRealPipeline.from_pretrained(model, "torch")(None, **asked | {"seeds": [6]})
    np.testing.assert_allclose(alone.images[0], detailed.images[1], atol=1e-5)


def test_reconstructions_have_detail(model: Path) -> None:
    pipeline = XRealPipeline.from_pretrained(model, "torch")
    images = smooth(3)
    with torch.no_grad():
        decoded = decode_latents(pipeline.vae, encode_image(pipeline.vae, images))
    expected = pipeline.with_detail([decoded])[0][:, 0].numpy()
    np.testing.assert_allclose(reconstruct(pipeline, images[:, 0].numpy()), expected, atol=1e-6)
    assert np.abs(expected - decoded[:, 0].numpy()).max() > 1e-3


def stage(data: Path, model: Path, out: Path, **changes: object) -> DetailStage:
    preset = PRESETS["tiny"].with_stage("detail", **changes)
    built = build_stage("detail", preset, [data], out, model)
    assert isinstance(built, DetailStage)
    return built


def test_crops_show_the_same_place_of_what_was_encoded(
    phantom_data: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    made = stage(phantom_data, tiny_model_folder, tmp_path, crop=64)
    batch = made.batch([0, 1, 2, 3], torch.Generator().manual_seed(0))
    gain = batch.decoded[0].sum() / made.decoded[0].float().sum()
    torch.testing.assert_close(batch.decoded[0], gain * made.decoded[0].float())
    torch.testing.assert_close(batch.real[0], gain * made.real[0] / 255, atol=0.6 / 255, rtol=0)
    torch.testing.assert_close(batch.kept[:2], batch.real[:2])
    torch.testing.assert_close(batch.kept[2:], batch.decoded[2:])  # drawn ones are held to themselves
    assert made.batch([0, 1], torch.Generator().manual_seed(0)).decoded.shape == (2, 1, 64, 64)


def test_x_rays_are_drawn_once_for_a_run(
    phantom_data: Path, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = stage(phantom_data, tiny_model_folder, tmp_path).drawn
    monkeypatch.setattr("xreal.training.detail.draw_plain", None)
    assert torch.equal(stage(phantom_data, tiny_model_folder, tmp_path).drawn, first)
    assert first.shape == (9, 1, 64, 64)


def test_a_model_that_draws_from_masks_needs_some(
    phantom_data: Path, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xreal.data.prepared.PreparedDataset.with_organ_mask", lambda _: [])
    with pytest.raises(DataError, match="no organ masks"):
        stage(phantom_data, tiny_model_folder, tmp_path)


def test_only_a_complete_model_can_learn_detail(phantom_data: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds no vae/"):
        build_stage("detail", PRESETS["tiny"], [phantom_data], tmp_path)
    shutil.copytree(tiny_model_folder / "vae", tmp_path / "vae")
    with pytest.raises(ModelError, match="no model folder"):
        build_stage("detail", PRESETS["tiny"], [phantom_data], tmp_path)


@pytest.mark.slow
def test_training_brings_the_bands_nearer_to_those_of_x_rays(
    phantom_data: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    made = stage(
        phantom_data, tiny_model_folder, tmp_path, steps=40, batch_size=4, learning_rate=2e-3, ema_decay=0.5, crop=64
    )
    with torch.no_grad():
        before = made.validate()
    after = train(made, tmp_path, mixed_precision="no")
    assert (tmp_path / "detail/config.json").exists()
    finest = [f"band_{band}_dB" for band in range(3)]
    assert sum(abs(after[name]) for name in finest) < 0.9 * sum(abs(before[name]) for name in finest)
