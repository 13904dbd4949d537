"""Give a trained model more latent channels, to go on training from what it knows.

python recipes/widen.py MODEL OUT --channels 8 --data PREPARED [--data PREPARED]

The channels that are there keep their meaning, and the U-Net its skill in them. The new ones hold the next principal
components of the patches, which the decoder adds; the U-Net knows nothing of them yet. Then:

    xreal train decoder  --out OUT --data PREPARED
    xreal train backbone --out OUT --data PREPARED --start OUT
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from xreal.data.contract import collate
from xreal.data.prepared import PreparedDataset
from xreal.models.autoencoder import PatchAutoencoderKL
from xreal.models.backbone import PatchUNet2DConditionModel
from xreal.models.folder import load_component, read_index, write_index


def spread(old: Tensor, new: Tensor, *dims: int) -> Tensor:
    """Put ``old`` at the beginning of ``new``'s dimensions ``dims``."""
    new = new.clone()
    index = tuple(slice(old.shape[dim]) if dim in dims else slice(None) for dim in range(new.dim()))
    new[index] = old
    return new


def both_moments(old: Tensor, channels: int, dims: tuple[int, ...]) -> Tensor:
    """Widen what holds means and log variances, c each, along ``dims``; new log variances are those of the others."""
    for dim in dims:
        mean, log_variance = old.chunk(2, dim)
        more = channels - mean.shape[dim]
        zeros = torch.zeros_like(mean.narrow(dim, 0, 1)).expand(
            *(more if d == dim else size for d, size in enumerate(mean.shape))
        )
        filler = log_variance.mean(dim, keepdim=True).expand_as(zeros) if mean.dim() == 1 else zeros
        old = torch.cat([mean, zeros, log_variance, filler], dim)
    return old


@torch.no_grad()
def widen_autoencoder(old: PatchAutoencoderKL, images: Tensor, channels: int) -> PatchAutoencoderKL:
    """Add channels that hold the principal components of patches beyond the span of those that are there."""
    kept = old.config.latent_channels
    new = PatchAutoencoderKL.from_config({**old.config, "latent_channels": channels})
    state, weights = old.state_dict(), new.state_dict()
    patches = F.pixel_unshuffle(images, old.downsampling).movedim(1, -1).flatten(0, -2).double()
    basis = torch.linalg.qr(state["patch_encoder.weight"][:, :, 0, 0].double().T).Q  # (values, kept)
    mean = patches.mean(0)
    rest = (patches - mean) - (patches - mean) @ basis @ basis.T
    variances, directions = torch.linalg.eigh(torch.cov(rest.T))
    more = directions[:, kept - channels :].flip(1)
    scale = variances[kept - channels :].flip(0).sqrt() * old.config.scaling_factor  # unit variance when scaled
    rows, columns = (more / scale).T, more * scale
    fresh = {
        "patch_encoder.weight": torch.cat([state["patch_encoder.weight"], rows.float()[..., None, None]]),
        "patch_encoder.bias": torch.cat([state["patch_encoder.bias"], (-rows @ mean).float()]),
        "patch_decoder.weight": torch.cat([state["patch_decoder.weight"], columns.float()[..., None, None]], 1),
        "encoder.conv_out.weight": both_moments(state["encoder.conv_out.weight"], channels, (0,)),
        "encoder.conv_out.bias": both_moments(state["encoder.conv_out.bias"], channels, (0,)),
        "quant_conv.weight": both_moments(state["quant_conv.weight"], channels, (0, 1)),
        "quant_conv.bias": both_moments(state["quant_conv.bias"], channels, (0,)),
        "post_quant_conv.weight": spread(
            state["post_quant_conv.weight"], torch.eye(channels)[..., None, None].float(), 0, 1
        ),
        "post_quant_conv.bias": spread(state["post_quant_conv.bias"], torch.zeros(channels), 0),
        "decoder.conv_in.weight": spread(
            state["decoder.conv_in.weight"], torch.zeros_like(weights["decoder.conv_in.weight"]), 1
        ),
    }
    new.load_state_dict(state | fresh)
    return new


@torch.no_grad()
def widen_unet(old: PatchUNet2DConditionModel, channels: int) -> PatchUNet2DConditionModel:
    """Add channels that are neither seen nor predicted yet: the velocity of their mean, 0, is predicted."""
    new = PatchUNet2DConditionModel.from_config({**old.config, "in_channels": channels, "out_channels": channels})
    state, weights = old.state_dict(), new.state_dict()
    for name, dim in (("conv_in.weight", 1), ("conv_out.weight", 0), ("conv_out.bias", 0)):
        state[name] = spread(state[name], torch.zeros_like(weights[name]), dim)
    new.load_state_dict(state)
    return new


def main(model: Path, out: Path, channels: int, data: list[Path]) -> None:
    components = {name: load_component(model, name, kind) for name, kind in read_index(model).items()}
    train = PreparedDataset(data, "train")
    images = collate([train[i] for i in range(0, len(train), max(1, len(train) // 300))]).image
    components["vae"] = widen_autoencoder(components["vae"].float(), images, channels)
    components["unet"] = widen_unet(components["unet"].float(), channels)
    for name, component in components.items():
        component.save_pretrained(out / name)
    write_index(out)
    if (model / "README.md").exists():
        shutil.copy(model / "README.md", out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--channels", type=int, required=True)
    parser.add_argument("--data", type=Path, action="append", required=True)
    options = parser.parse_args()
    main(options.model, options.out, options.channels, options.data)
