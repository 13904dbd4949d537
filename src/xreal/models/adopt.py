"""Take another latent text-to-image pipeline's components, or say why they cannot be steered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from xreal.errors import ModelError

__all__ = ["OTHER_NAMES", "REQUIRED", "adopt", "noise_schedule"]

REQUIRED = frozenset({"vae", "text_encoder", "tokenizer", "unet", "scheduler"})

# Component -> what LDMTextToImagePipeline calls it.
OTHER_NAMES = {"vae": "vqvae", "text_encoder": "bert"}


def adopt(components: Mapping[str, Any]) -> dict[str, Any]:
    """Return the components that ``XRealPipeline`` needs, under its names, checked against each other.

    Args:
        components: of a diffusers pipeline, by name; others than those needed, such as a safety checker, stay behind.

    Raises:
        ModelError: one is missing, of another kind, or they need inputs that a prompt alone does not give.
    """
    parts = {name: components.get(name, components.get(OTHER_NAMES.get(name, name))) for name in sorted(REQUIRED)}
    if missing := [name for name, part in parts.items() if part is None]:
        raise ModelError(
            f"no {', '.join(missing)} among {', '.join(sorted(components))}; expected a latent text-to-image pipeline "
            "such as StableDiffusionPipeline or LDMTextToImagePipeline"
        )
    vae, unet, text = parts["vae"], parts["unet"], parts["text_encoder"].config
    for name, cls in (("vae", AutoencoderKL), ("unet", UNet2DConditionModel)):
        if not isinstance(parts[name], cls):
            raise ModelError(f"{name} is a {type(parts[name]).__name__}; expected {cls.__name__}")
    channels = vae.config.latent_channels
    if (unet.config.in_channels, unet.config.out_channels) != (channels, channels):
        raise ModelError(
            f"the U-Net takes {unet.config.in_channels} latent channels and returns {unet.config.out_channels}, the "
            f"autoencoder has {channels}; expected a text-to-image model, not one for inpainting or images as input"
        )
    if components.get("text_encoder_2") is not None or unet.config.addition_embed_type not in (None, "text"):
        raise ModelError("the model needs a second text encoder; expected one, as in Stable Diffusion 1.x and 2.x")
    if unet.config.class_embed_type is not None or unet.config.num_class_embeds is not None:
        raise ModelError("the U-Net needs class labels; expected one that needs the prompt alone")
    if unet.config.encoder_hid_dim is None and unet.config.cross_attention_dim != text.hidden_size:
        raise ModelError(
            f"the U-Net expects embeddings of width {unet.config.cross_attention_dim}, the text encoder gives "
            f"{text.hidden_size}"
        )
    if getattr(vae.config, "shift_factor", None):
        raise ModelError("the autoencoder shifts its latents; expected one that only scales them")
    if not isinstance(unet.config.sample_size, int):
        raise ModelError(f"the U-Net's sample_size is {unet.config.sample_size}; expected one number (square images)")
    return parts | {"scheduler": noise_schedule(parts["scheduler"])}


def noise_schedule(scheduler: Any) -> DDIMScheduler:
    """Return the noise schedule that solvers are made from: that of ``scheduler``, whatever solver it is itself.

    Latents are not bounded, so nothing is clipped to [−1, 1], which some schedulers' defaults would do. Every setting
    is stated: those that diffusers marks as defaults it would give up for another solver's, but not once they have
    been saved and opened.
    """
    config = dict(scheduler.config)
    defaults = config.pop("_use_default_values", [])
    clips = config.get("clip_sample") or config.get("thresholding")
    if isinstance(scheduler, DDIMScheduler) and not clips and not defaults:
        return scheduler
    kept = {"set_alpha_to_one": False, "steps_offset": 1, "timestep_spacing": "leading"}
    kept = {name: config.get(name, default) for name, default in kept.items()}
    return DDIMScheduler.from_config(config, clip_sample=False, thresholding=False, **kept)
