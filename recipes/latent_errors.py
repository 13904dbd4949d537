"""How wrong drawn latents are: what `latent_errors` of a model's preset should say, for `xreal train decoder`.

python recipes/latent_errors.py MODEL --data PREPARED [--data PREPARED]

A backbone leaves some noise in what it draws. It is seen where X-rays are smooth: the typical difference of a latent
from the mean of its 3 x 3 neighbourhood is compared with that of real X-rays, channel by channel.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from xreal import XRealPipeline
from xreal.data.contract import collate
from xreal.data.prepared import PreparedDataset
from xreal.models.autoencoder import encode_image

NORMAL_MEDIAN = 0.6745  # of the absolute value of unit normal noise
PASSED = (8 / 9) ** 0.5  # deviation of unit noise after the mean of its 3 x 3 neighbourhood is taken off
STEPS = 15  # of the default quality
LEAST = 0.1  # what a decoder should bear in any case


def typical_noise(latents: Tensor) -> Tensor:
    """Return the deviation of noise that would look like the smooth parts of latents (B, c, h, w), (c,)."""
    fine = (latents - F.avg_pool2d(latents, 3, 1, 1))[..., 1:-1, 1:-1]
    return fine.abs().transpose(0, 1).flatten(1).median(1).values / NORMAL_MEDIAN / PASSED


@torch.inference_mode()
def latent_errors(pipeline: XRealPipeline, images: Tensor) -> Tensor:
    """Return the deviation of the noise that the model leaves in each channel, (c,), at least ``LEAST``.

    Args:
        pipeline: draws as many X-rays without organ mask.
        images: real X-rays (N, 1, H, W) in [0, 1].
    """
    drawn: list[Tensor] = []

    def keep(_: XRealPipeline, step: int, __: Tensor, state: dict[str, Tensor]) -> None:
        if step == STEPS - 1:
            drawn.append(state["latents"])

    for seeds in torch.arange(len(images)).split(8):
        pipeline(None, (), seeds.tolist(), steps=STEPS, callback_on_step_end=keep)
    real = torch.cat([encode_image(pipeline.network("vae"), part) for part in images.split(8)])
    excess = typical_noise(torch.cat(drawn)).square() - typical_noise(real).square()
    return excess.clamp_min(0).sqrt().clamp_min(LEAST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--n", type=int, default=48)
    options = parser.parse_args()
    pipeline = XRealPipeline.from_pretrained(options.model)
    pipeline.set_progress_bar_config(disable=True)
    validation = PreparedDataset(options.data, "val")
    picked = range(0, len(validation), max(1, len(validation) // options.n))
    images = collate([validation[i] for i in list(picked)[: options.n]]).image
    print("latent_errors =", tuple(round(float(error), 2) for error in latent_errors(pipeline, images)))


if __name__ == "__main__":
    main()
