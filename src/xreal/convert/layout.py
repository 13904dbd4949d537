"""The authors' layout: sizes read off the tensors, networks of those sizes, and which tensor goes where.

The layout is that of the original latent-diffusion code (CompVis) with a BERT-style text encoder. diffusers' own
converters know the keys of the U-Net and the autoencoder. What no tensor shows is fixed in that code: 8 heads in the
U-Net, heads of width 64 in the text encoder, group norms of 32 groups.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel

from xreal.config import BackboneConfig
from xreal.convert.checkpoint import Weights
from xreal.convert.plan import Component, key_map
from xreal.errors import ModelError
from xreal.models.autoencoder import UNIT_RANGE
from xreal.models.backbone import build_scheduler

__all__ = ["SCALING_FACTOR", "read_autoencoder", "read_schedule", "read_text_encoder", "read_unet"]

SCALING_FACTOR = 0.18215  # METHOD: what the authors multiply latents by
UNET_HEADS = 8
TEXT_HEAD_WIDTH = 64


def read_autoencoder(name: str, weights: Weights, image_size: int, scaling_factor: float) -> Component:
    """Plan a KL autoencoder (or the anatomy controller), whose pixels lie in [0, 1].

    Args:
        name: folder in the model folder.
        weights: keys ``encoder.*``, ``decoder.*``, ``quant_conv.*``, ``post_quant_conv.*``.
        image_size: side of the images in pixels, for the configuration.
        scaling_factor: what latents are multiplied by.

    Raises:
        ModelError: tensors are missing, have no place, or another shape.
    """
    levels = weights.count("encoder.down.")
    widths = [weights.shape(f"encoder.down.{level}.block.0.conv1.weight")[0] for level in range(max(levels, 1))]
    config: dict[str, Any] = {
        "in_channels": weights.shape("encoder.conv_in.weight")[1],
        "out_channels": weights.shape("decoder.conv_out.weight")[0],
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": tuple(widths),
        "layers_per_block": weights.count("encoder.down.0.block."),
        "latent_channels": weights.shape("post_quant_conv.weight")[1],
        "norm_num_groups": 32,
        "mid_block_add_attention": any(key.startswith("encoder.mid.attn_1.") for key in weights.tensors),
        "sample_size": image_size,
        "scaling_factor": scaling_factor,
    }
    with _errors_named(weights, name), torch.device("meta"):
        network = AutoencoderKL(**config)
    network.register_to_config(_pixel_range=UNIT_RANGE)
    keys = key_map(list(weights.tensors), lambda markers: convert_ldm_vae_checkpoint(markers, config))
    return Component(name, network, weights, keys)


def read_unet(weights: Weights, image_size: int, downsampling: int) -> Component:
    """Plan the U-Net.

    Args:
        weights: keys ``input_blocks.*``, ``middle_block.*``, ``output_blocks.*``, ``time_embed.*``, ``out.*``.
        image_size: side of the images in pixels, for the configuration.
        downsampling: pixels per latent.

    Raises:
        ModelError: tensors are missing, have no place, or another shape.
    """
    levels: list[list[int]] = [[]]
    for block in range(1, weights.count("input_blocks.")):
        if f"input_blocks.{block}.0.op.weight" in weights.tensors:
            levels.append([])
        else:
            levels[-1].append(block)
    layers = len(levels[0])
    if layers == 0 or any(len(level) != layers for level in levels):
        raise ModelError(
            f"{weights.path}: the U-Net's levels have {', '.join(str(len(level)) for level in levels)} residual "
            "blocks; expected the same number, at least 1, in each"
        )
    attends = [f"input_blocks.{level[0]}.1.proj_in.weight" in weights.tensors for level in levels]
    contexts = [key for key in weights.tensors if key.endswith("attn2.to_k.weight")]
    if not contexts:
        raise ModelError(f"{weights.path}: the U-Net has no cross-attention ({weights.prefix}…attn2.to_k.weight)")
    transformer = re.sub(r"transformer_blocks\..*", "", contexts[0])
    with _errors_named(weights, "unet"), torch.device("meta"):
        network = UNet2DConditionModel(
            sample_size=image_size // downsampling,
            in_channels=weights.shape("input_blocks.0.0.weight")[1],
            out_channels=weights.shape("out.2.weight")[0],
            down_block_types=tuple("CrossAttnDownBlock2D" if own else "DownBlock2D" for own in attends),
            up_block_types=tuple("CrossAttnUpBlock2D" if own else "UpBlock2D" for own in reversed(attends)),
            block_out_channels=tuple(
                weights.shape(f"input_blocks.{level[0]}.0.out_layers.3.weight")[0] for level in levels
            ),
            layers_per_block=layers,
            attention_head_dim=UNET_HEADS,  # diffusers' name; the number of heads
            cross_attention_dim=weights.shape(contexts[0])[1],
            transformer_layers_per_block=weights.count(f"{transformer}transformer_blocks."),
            use_linear_projection=len(weights.shape(f"{transformer}proj_in.weight")) == 2,
            norm_num_groups=32,
        )
    prefix = "model.diffusion_model."  # what the converter looks for
    keys = key_map(
        [prefix + key for key in weights.tensors],
        lambda markers: convert_ldm_unet_checkpoint(markers, {"layers_per_block": layers}),
    )
    return Component("unet", network, weights, {new: old.removeprefix(prefix) for new, old in keys.items()})


def read_text_encoder(weights: Weights) -> Component:
    """Plan the text encoder.

    Args:
        weights: keys ``token_emb.*``, ``pos_emb.emb.*``, ``attn_layers.layers.*``, ``norm.*``, ``to_logits.*``.

    Raises:
        ModelError: tensors are missing, have no place, or another shape.
    """
    vocabulary, width = weights.shape("token_emb.weight")
    layers = weights.count("attn_layers.layers.") // 2
    heads, rest = divmod(weights.shape("attn_layers.layers.0.1.to_q.weight")[0], TEXT_HEAD_WIDTH)
    if rest or not heads:
        raise ModelError(f"{weights.path}: the text encoder's attention is no multiple of {TEXT_HEAD_WIDTH} wide")
    config = LDMBertConfig(
        vocab_size=vocabulary,
        max_position_embeddings=weights.shape("pos_emb.emb.weight")[0],
        encoder_layers=layers,
        encoder_ffn_dim=weights.shape("attn_layers.layers.1.1.net.0.0.weight")[0],
        encoder_attention_heads=heads,
        head_dim=TEXT_HEAD_WIDTH,
        d_model=width,
    )
    with torch.device("meta"):
        network = LDMBertModel(config)
    modules = {
        "model.embed_tokens": "token_emb",
        "model.embed_positions": "pos_emb.emb",
        "model.layer_norm": "norm",
        "to_logits": "to_logits",
    }
    for layer in range(layers):
        new, attention, feed_forward = (
            f"model.layers.{layer}",
            f"attn_layers.layers.{2 * layer}",
            f"attn_layers.layers.{2 * layer + 1}",
        )
        modules |= {
            f"{new}.self_attn_layer_norm": f"{attention}.0",
            f"{new}.self_attn.q_proj": f"{attention}.1.to_q",
            f"{new}.self_attn.k_proj": f"{attention}.1.to_k",
            f"{new}.self_attn.v_proj": f"{attention}.1.to_v",
            f"{new}.self_attn.out_proj": f"{attention}.1.to_out",
            f"{new}.final_layer_norm": f"{feed_forward}.0",
            f"{new}.fc1": f"{feed_forward}.1.net.0.0",
            f"{new}.fc2": f"{feed_forward}.1.net.2",
        }
    keys = {}
    for target in network.state_dict():
        module, _, kind = target.rpartition(".")
        if f"{modules[module]}.{kind}" in weights.tensors:
            keys[target] = f"{modules[module]}.{kind}"
    return Component("text_encoder", network, weights, keys)


def read_schedule(buffers: Weights) -> DDIMScheduler:
    """Make the noise schedule that the stored ``betas`` follow; without them, the paper's.

    Raises:
        ModelError: β is not linear in √β.
    """
    if "betas" not in buffers.tensors:
        return build_scheduler(_schedule(BackboneConfig.beta_start, BackboneConfig.beta_end))
    stored = buffers.tensors["betas"]
    betas = stored.double()
    tolerance = 1e-5 if stored.dtype in (torch.float32, torch.float64) else 1e-2
    ends = (BackboneConfig.beta_start, BackboneConfig.beta_end), (float(betas[0]), float(betas[-1]))
    for start, end in ends:
        wanted = torch.linspace(start**0.5, end**0.5, len(betas), dtype=torch.float64) ** 2
        if torch.allclose(betas, wanted, rtol=tolerance, atol=0):
            scheduler = build_scheduler(_schedule(start, end))
            return DDIMScheduler.from_config(scheduler.config, num_train_timesteps=len(betas))
    raise ModelError(f"{buffers.path}: betas, {ends[1][0]:.6g} to {ends[1][1]:.6g}, are not linear in √β")


def _schedule(start: float, end: float) -> BackboneConfig:
    return BackboneConfig(prediction_type="epsilon", beta_start=float(f"{start:.7g}"), beta_end=float(f"{end:.7g}"))


@contextmanager
def _errors_named(weights: Weights, name: str) -> Iterator[None]:
    """Say of which file and network diffusers speaks when it refuses a configuration."""
    try:
        yield
    except ValueError as error:
        raise ModelError(f"{weights.path} does not fit {name}: {error}") from error
