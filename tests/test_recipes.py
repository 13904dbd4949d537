"""Recipes that change weights: what a model knew, it still knows."""

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch
from diffusers import UNet2DConditionModel

from xreal.models.autoencoder import PatchAutoencoderKL
from xreal.models.backbone import PatchUNet2DConditionModel
from xreal.pipeline import XRealPipeline

RECIPES = Path(__file__).parents[1] / "recipes"


def recipe(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def widen() -> ModuleType:
    return recipe("widen")


@torch.inference_mode()
def test_widened_autoencoder_keeps_its_channels_and_draws_better(widen: ModuleType) -> None:
    torch.manual_seed(0)
    old = PatchAutoencoderKL(block_out_channels=(8, 16), norm_num_groups=4, latent_channels=2, scaling_factor=1.5)
    basis = torch.rand(6, 1, 64, 64)  # images of six degrees of freedom per patch, more than two channels hold
    images = torch.einsum("nk,kchw->nchw", torch.rand(64, 6), basis) / 3
    old.initialise(images)
    new = widen.widen_autoencoder(old, images, 4)
    latents = new.encode(images).latent_dist
    before = old.encode(images).latent_dist
    assert torch.equal(latents.mean[:, :2], before.mean)
    assert torch.equal(latents.logvar[:, :2], before.logvar)
    torch.testing.assert_close(1.5 * latents.mean[:, 2:].std((0, 2, 3)), torch.ones(2), rtol=0.02, atol=0)
    silent = latents.mean.clone()
    silent[:, 2:] = 0
    torch.testing.assert_close(new.decode(silent).sample, old.decode(before.mean).sample)
    errors = [(n.decode(n.encode(images).latent_dist.mean).sample - images).square().mean() for n in (old, new)]
    assert errors[1] < 0.95 * errors[0]


@torch.inference_mode()
def test_widened_unet_predicts_the_old_channels_as_before(widen: ModuleType) -> None:
    torch.manual_seed(0)
    old = PatchUNet2DConditionModel(
        sample_size=8, in_channels=2, out_channels=2, block_out_channels=(8, 16), norm_num_groups=4,
        attention_head_dim=2, cross_attention_dim=16, addition_embed_type_num_heads=2,
    ).eval()  # fmt: skip
    new = widen.widen_unet(old, 4).eval()
    assert new.config.in_channels == 4
    noisy, embeds = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 16)
    prediction = new(noisy, torch.tensor([5, 900]), embeds).sample
    assert prediction.shape == noisy.shape
    torch.testing.assert_close(prediction[:, :2], old(noisy[:, :2], torch.tensor([5, 900]), embeds).sample)
    assert prediction[:, 2:].abs().max() > 0


def test_noise_left_in_drawn_latents_is_measured(tiny_pipeline: XRealPipeline) -> None:
    errors = recipe("latent_errors")
    torch.manual_seed(0)
    smooth = torch.linspace(-1, 1, 32).view(1, 1, 1, 32).expand(4, 2, 32, 32)
    noisy = smooth + torch.tensor([0.2, 0.5]).view(-1, 1, 1) * torch.randn(4, 2, 32, 32)
    torch.testing.assert_close(errors.typical_noise(noisy), torch.tensor([0.2, 0.5]), rtol=0.1, atol=0)
    found = errors.latent_errors(tiny_pipeline, torch.rand(3, 1, 64, 64))
    assert found.shape == (tiny_pipeline.vae.config.latent_channels,)
    assert (found >= errors.LEAST).all()


def test_average_of_models_is_each_weights_own(tiny_model_folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_model_folder, tmp_path / "other"))
    unet = UNet2DConditionModel.from_pretrained(other / "unet")
    before = [weights.detach().clone() for weights in unet.parameters()]
    with torch.no_grad():
        for weights in unet.parameters():
            weights.add_(1)
    unet.save_pretrained(other / "unet")
    recipe("average").main(tmp_path / "mean", {tiny_model_folder: 0.75, other: 0.25})
    mean = UNet2DConditionModel.from_pretrained(tmp_path / "mean" / "unet")
    for ours, first in zip(mean.parameters(), before, strict=True):
        torch.testing.assert_close(ours.float(), first + 0.25, rtol=1e-3, atol=1e-3)
    with pytest.raises(SystemExit, match=r"shares add up to 1\.25"):
        recipe("average").main(tmp_path / "none", {tiny_model_folder: 0.75, other: 0.5})
