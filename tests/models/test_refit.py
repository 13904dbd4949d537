"""The decoder beside its convolutions: the linear path, refitted, and the refinement over whole pixels."""

from dataclasses import replace
from pathlib import Path

import torch

from xreal.config import PRESETS
from xreal.models.autoencoder import PatchAutoencoderKL, build_autoencoder
from xreal.models.folder import load_autoencoder
from xreal.training.decoder import mean_tile
from xreal.training.loop import train
from xreal.training.stages import build_stage


@torch.inference_mode()
def test_refit_takes_a_grid_away_and_leaves_a_right_decoder_alone() -> None:
    torch.manual_seed(0)
    autoencoder = build_autoencoder(PRESETS["tiny"].autoencoder, 64).eval()
    assert isinstance(autoencoder, PatchAutoencoderKL)
    images = torch.rand(8, 1, 64, 64)
    autoencoder.initialise(images)
    latents = autoencoder.encode(images).latent_dist.mode()
    right = autoencoder.decode(latents).sample
    before = {name: tensor.clone() for name, tensor in autoencoder.state_dict().items()}
    autoencoder.refit(latents, right)
    torch.testing.assert_close(autoencoder.decode(latents).sample, right, rtol=0, atol=1e-5)
    # A grid, in part of the strength of the first latent.
    autoencoder.patch_decoder.bias += 0.01 * torch.randn(64)
    autoencoder.patch_decoder.weight[:, 0, 0, 0] += 0.01 * torch.randn(64)
    assert (autoencoder.decode(latents).sample - right).abs().max() > 0.01
    autoencoder.refit(latents, right)
    torch.testing.assert_close(autoencoder.decode(latents).sample, right, rtol=0, atol=1e-5)
    changed = [n for n, tensor in autoencoder.state_dict().items() if not torch.equal(tensor, before[n])]
    assert set(changed) <= {"patch_decoder.weight", "patch_decoder.bias"}


@torch.inference_mode()
def test_refinement_is_silent_at_first_and_lets_patches_see_each_other() -> None:
    torch.manual_seed(0)
    autoencoder = build_autoencoder(PRESETS["tiny"].autoencoder, 64).eval()
    assert isinstance(autoencoder, PatchAutoencoderKL)
    assert autoencoder.refine is None
    latents = torch.randn(1, 4, 8, 8)
    plain = autoencoder.decode(latents).sample
    autoencoder.add_refinement(4)
    assert autoencoder.config.refine_channels == 4
    torch.testing.assert_close(autoencoder.decode(latents).sample, plain, rtol=0, atol=0)
    autoencoder.refine[-1].weight.normal_()
    refined = autoencoder.refine(torch.zeros(1, 1, 64, 64))
    bright = torch.zeros(1, 1, 64, 64)
    bright[..., 31] = 1  # the last column of a patch
    assert (autoencoder.refine(bright) - refined)[..., 32].abs().max() > 0  # is seen in the first of the next


def test_mean_tile_is_what_repeats() -> None:
    torch.manual_seed(0)
    grid = torch.randn(2, 1, 8, 8)
    repeated = grid.tile(1, 1, 4, 6)
    torch.testing.assert_close(mean_tile(repeated, 8), grid)
    ramp = torch.arange(32.0).view(1, 1, 1, 32).expand(1, 1, 32, 32)
    assert mean_tile(ramp - ramp.mean(), 8).abs().max() < 4  # of 16: only what differs inside of a tile


def test_decoder_stage_adds_what_the_autoencoder_lacks(
    phantom_data: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    tiny = PRESETS["tiny"]
    preset = replace(tiny, autoencoder=replace(tiny.autoencoder, refine_channels=4))
    stage = build_stage("decoder", preset, [phantom_data], tmp_path, autoencoder=tiny_model_folder)
    train(stage, tmp_path, mixed_precision="no")
    before, after = load_autoencoder(tiny_model_folder), load_autoencoder(tmp_path)
    assert before.refine is None
    assert after.config.refine_channels == 4
    assert after.refine[-1].weight.abs().max() > 0  # it has learnt
    images = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        ours, theirs = (one.encode(images).latent_dist.mode() for one in (before, after))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
