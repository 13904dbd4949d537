"""Give a trained model more latent channels; what it knows of the old ones stays, to the bit.

python recipes/widen.py MODEL OUT --channels 8 --data PREPARED [--data PREPARED]

The new channels are linear: the principal components of what the old autoencoder loses of patches, and the share of it
that they tell by themselves is added to what it draws. The U-Net reads and predicts them through weights that begin at
zero and small, so it draws at first what it drew before. Train on with `xreal train decoder --start OUT` and
`xreal train backbone --start OUT`; the anatomy's variation is learnt anew, with `xreal train variation`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xreal.data.contract import collate
from xreal.data.prepared import PreparedDataset
from xreal.models.autoencoder import PatchAutoencoderKL
from xreal.models.backbone import PatchUNet2DConditionModel
from xreal.models.folder import load_autoencoder, load_component, read_index, write_index
from xreal.training.autoencoder import psnr_and_ssim

IMAGES = 300  # enough for the components of their patches


@torch.inference_mode()
def lost_components(
    autoencoder: PatchAutoencoderKL, images: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Find the directions of patches (V, count) of which most is lost.

    Returns:
        directions; mean and deviation of real patches along them (count,); and the slope of what is lost along each
        over what is there (count,).
    """
    patches, losses = [], []
    for part in images.split(16):
        lost = part - autoencoder(part).sample
        for kept, pixels in ((patches, part), (losses, lost)):
            kept.append(F.pixel_unshuffle(pixels, autoencoder.downsampling).movedim(1, -1).flatten(0, -2))
    covariance = torch.cov(torch.cat(losses).double().T)
    directions = torch.linalg.eigh(covariance).eigenvectors[:, -count:].flip(1).float()
    directions = directions * torch.ones_like(directions[0]).copysign(directions[0])  # signs: left to the machine
    there, lost = (torch.cat(parts) @ directions for parts in (patches, losses))
    mean, deviation = there.mean(0), there.std(0)
    slope = ((there - mean) * (lost - lost.mean(0))).mean(0) / deviation**2
    return directions, mean, deviation, slope


@torch.no_grad()
def widen_autoencoder(old: PatchAutoencoderKL, images: Tensor, channels: int) -> PatchAutoencoderKL:
    before = int(old.config.latent_channels)
    directions, mean, deviation, slope = lost_components(old, images, channels - before)
    new = PatchAutoencoderKL(**_settings(old) | {"latent_channels": channels})
    _copy(old, new)
    moments = torch.cat([torch.arange(before), channels + torch.arange(before)])  # means and log variances: old places
    for name in ("encoder.conv_out", "quant_conv"):
        ours, theirs = new.get_submodule(name), old.get_submodule(name)
        ours.weight.zero_(), ours.bias.zero_()
        inputs = moments if name == "quant_conv" else torch.arange(theirs.weight.shape[1])
        ours.weight[moments[:, None], inputs] = theirs.weight
        ours.bias[moments] = theirs.bias
    new.quant_conv.bias[channels + before :] = -6.0  # log variance, as in PatchAutoencoderKL.initialise
    new.post_quant_conv.weight.copy_(torch.eye(channels)[..., None, None])
    new.post_quant_conv.bias.zero_()
    new.post_quant_conv.weight[:before, :before] = old.post_quant_conv.weight
    new.post_quant_conv.bias[:before] = old.post_quant_conv.bias
    new.decoder.conv_in.weight.zero_()
    new.decoder.conv_in.weight[:, :before] = old.decoder.conv_in.weight
    new.decoder.conv_in.bias.copy_(old.decoder.conv_in.bias)
    # The linear path: unit variance once scaled, as the old channels have.
    unit = deviation * float(old.config.scaling_factor)
    new.patch_encoder.weight[:before], new.patch_encoder.bias[:before] = (
        old.patch_encoder.weight,
        old.patch_encoder.bias,
    )
    new.patch_encoder.weight[before:] = (directions / unit).T[..., None, None]
    new.patch_encoder.bias[before:] = -mean / unit
    new.patch_decoder.weight.zero_()
    new.patch_decoder.weight[:, :before] = old.patch_decoder.weight
    new.patch_decoder.weight[:, before:] = (directions * unit * slope)[..., None, None]
    new.patch_decoder.bias.copy_(old.patch_decoder.bias)
    return new


@torch.no_grad()
def widen_unet(old: PatchUNet2DConditionModel, channels: int) -> PatchUNet2DConditionModel:
    torch.manual_seed(0)
    new = PatchUNet2DConditionModel(**_settings(old) | {"in_channels": channels, "out_channels": channels})
    fresh = new.conv_out.weight.clone()
    _copy(old, new)
    known = old.conv_in.weight.shape[1]  # channels of a patch: c × patch_size², the old latents first
    new.conv_in.weight.zero_()
    new.conv_in.weight[:, :known] = old.conv_in.weight
    new.conv_in.bias.copy_(old.conv_in.bias)
    new.conv_out.weight.copy_(0.1 * fresh)
    new.conv_out.bias.zero_()
    new.conv_out.weight[:known], new.conv_out.bias[:known] = old.conv_out.weight, old.conv_out.bias
    return new


def _settings(network: Any) -> dict[str, Any]:
    own: dict[str, Any] = json.loads(network.to_json_string())
    return {key: value for key, value in own.items() if not key.startswith("_")}


def _copy(old: torch.nn.Module, new: torch.nn.Module) -> None:
    """Copy every weight that has kept its shape."""
    shapes = {key: value.shape for key, value in new.state_dict().items()}
    same = {key: value for key, value in old.state_dict().items() if value.shape == shapes[key]}
    new.load_state_dict(same, strict=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--channels", type=int, required=True)
    parser.add_argument("--data", type=Path, action="append", required=True)
    options = parser.parse_args()
    data = PreparedDataset(options.data, "train")
    images = collate([data[i] for i in range(0, len(data), max(1, len(data) // IMAGES))]).image
    autoencoder, index = load_autoencoder(options.model), read_index(options.model)
    unet = load_component(options.model, "unet", index["unet"])
    widened = widen_autoencoder(autoencoder, images, options.channels).eval()
    held_out = PreparedDataset(options.data, "val")
    check = collate([held_out[i] for i in range(0, len(held_out), max(1, len(held_out) // 48))]).image
    with torch.inference_mode():
        latents = widened.encode(check).latent_dist.mode()
        old = autoencoder.encode(check).latent_dist.mode()
        print("old channels moved by", (latents[:, : old.shape[1]] - old).abs().max().item())
        for name, network, code in (("old", autoencoder, old), ("new", widened, latents)):
            print(name, psnr_and_ssim(network.decode(code).sample.clamp(0, 1), check))
        print("deviation of the scaled channels:", (latents.std((0, 2, 3)) * widened.config.scaling_factor).tolist())
    options.out.mkdir(parents=True)
    for name in index:
        if name not in ("vae", "unet", "anatomy_variation"):
            shutil.copytree(options.model / name, options.out / name)
    widened.save_pretrained(options.out / "vae")
    widen_unet(unet, options.channels).save_pretrained(options.out / "unet")
    write_index(options.out)


if __name__ == "__main__":
    main()
