"""The decoder's linear path, refitted: a pattern that repeats in every patch goes, what is right stays."""

import torch

from xreal.config import PRESETS
from xreal.models.autoencoder import PatchAutoencoderKL, build_autoencoder


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
