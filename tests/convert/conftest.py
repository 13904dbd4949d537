"""Small random checkpoints in the authors' layout, and the text encoder written out as an independent reference.

U-Net and autoencoder start as random diffusers networks whose keys are renamed to the original's, by rules written
here and not by the converter's: what comes back must be the network that it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

State = dict[str, Tensor]
WIDTH, LENGTH, VOCABULARY = 48, 12, 40
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "edema", "pneu", "##monia", "##s"]


def autoencoder(seed: int, levels: tuple[int, ...] = (32, 64, 64), layers: int = 1) -> AutoencoderKL:
    torch.manual_seed(seed)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(levels),
        up_block_types=("UpDecoderBlock2D",) * len(levels),
        block_out_channels=levels,
        layers_per_block=layers,
        latent_channels=3,
    ).eval()


def unet(seed: int, levels: tuple[int, ...] = (32, 64, 64), layers: int = 1) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    attends = ("CrossAttnDownBlock2D",) * (len(levels) - 1)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        down_block_types=("DownBlock2D", *attends),
        up_block_types=(*(name.replace("Down", "Up") for name in attends), "UpBlock2D"),
        block_out_channels=levels,
        layers_per_block=layers,
        cross_attention_dim=WIDTH,
        attention_head_dim=8,
    ).eval()


def original_autoencoder(network: AutoencoderKL) -> State:
    """Rename to the original autoencoder's keys; its attention was made of 1×1 convolutions."""
    levels = len(network.config.block_out_channels)
    rules = [
        (r"encoder\.down_blocks\.(\d+)\.resnets\.", r"encoder.down.\1.block."),
        (r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample."),
        (r"decoder\.up_blocks\.(\d+)\.resnets\.", lambda m: f"decoder.up.{levels - 1 - int(m[1])}.block."),
        (r"up_blocks\.(\d+)\.upsamplers\.0\.", lambda m: f"up.{levels - 1 - int(m[1])}.upsample."),
        (r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}"),
        (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
        (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
        (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
        ("conv_shortcut", "nin_shortcut"),
        ("conv_norm_out", "norm_out"),
    ]
    state = _renamed(network.state_dict(), rules)
    return {
        key: value[..., None, None] if value.ndim == 2 and ".attn_1." in key else value for key, value in state.items()
    }


def original_unet(network: UNet2DConditionModel) -> State:
    """Rename to the original U-Net's keys: blocks of all levels counted through, samplers among them."""
    levels, layers = len(network.config.block_out_channels), network.config.layers_per_block

    def upsampler(match: re.Match[str]) -> str:
        level = int(match[1])
        attends = network.config.up_block_types[level].startswith("CrossAttn")
        return f"output_blocks.{level * (layers + 1) + layers}.{2 if attends else 1}.conv."

    def inner(name: str) -> Any:
        offset, step = (1, layers + 1) if name == "input_blocks" else (0, layers + 1)
        return lambda m: f"{name}.{offset + int(m[1]) * step + int(m[3])}.{0 if m[2] == 'resnets' else 1}."

    rules = [
        (r"^down_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.", inner("input_blocks")),
        (r"^up_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.", inner("output_blocks")),
        (
            r"^down_blocks\.(\d+)\.downsamplers\.0\.conv\.",
            lambda m: f"input_blocks.{(int(m[1]) + 1) * (layers + 1)}.0.op.",
        ),
        (r"^up_blocks\.(\d+)\.upsamplers\.0\.conv\.", upsampler),
        (r"^mid_block\.resnets\.(\d)\.", lambda m: f"middle_block.{2 * int(m[1])}."),
        (r"^mid_block\.attentions\.0\.", "middle_block.1."),
        (r"^time_embedding\.linear_(\d)", lambda m: f"time_embed.{2 * (int(m[1]) - 1)}"),
        (r"^conv_in", "input_blocks.0.0"),
        (r"^conv_norm_out", "out.0"),
        (r"^conv_out", "out.2"),
        (r"(put_blocks\.\d+\.0|middle_block\.[02])\.norm1", r"\1.in_layers.0"),
        (r"(put_blocks\.\d+\.0|middle_block\.[02])\.conv1", r"\1.in_layers.2"),
        (r"(put_blocks\.\d+\.0|middle_block\.[02])\.norm2", r"\1.out_layers.0"),
        (r"(put_blocks\.\d+\.0|middle_block\.[02])\.conv2", r"\1.out_layers.3"),
        (r"time_emb_proj", "emb_layers.1"),
        (r"conv_shortcut", "skip_connection"),
    ]
    assert levels >= 2
    return _renamed(network.state_dict(), rules)


def _renamed(state: State, rules: list[tuple[str, Any]]) -> State:
    renamed = {}
    for key, value in state.items():
        for pattern, new in rules:
            key = re.sub(pattern, new, key)
        renamed[key] = value.clone()
    assert len(renamed) == len(state)
    return renamed


def text_encoder(seed: int, layers: int = 2) -> State:
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "token_emb.weight": (VOCABULARY, WIDTH),
        "pos_emb.emb.weight": (LENGTH, WIDTH),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
        "to_logits.weight": (VOCABULARY, WIDTH),
        "to_logits.bias": (VOCABULARY,),
    }
    for layer in range(layers):
        attention, feed_forward = f"attn_layers.layers.{2 * layer}", f"attn_layers.layers.{2 * layer + 1}"
        shapes |= {f"{attention}.1.to_{name}.weight": (512, WIDTH) for name in "qkv"}
        shapes |= {f"{attention}.1.to_out.weight": (WIDTH, 512), f"{attention}.1.to_out.bias": (WIDTH,)}
        shapes |= {f"{feed_forward}.1.net.0.0.weight": (96, WIDTH), f"{feed_forward}.1.net.0.0.bias": (96,)}
        shapes |= {f"{feed_forward}.1.net.2.weight": (WIDTH, 96), f"{feed_forward}.1.net.2.bias": (WIDTH,)}
        for block in (attention, feed_forward):
            shapes |= {f"{block}.0.weight": (WIDTH,), f"{block}.0.bias": (WIDTH,)}
    return {key: torch.randn(shape, generator=generator) * 0.3 for key, shape in shapes.items()}


def encode_text(state: State, input_ids: Tensor) -> Tensor:
    """Pre-norm transformer: learnt positions, 8 heads of 64, no mask at all, exact GELU."""

    def norm(name: str, hidden: Tensor) -> Tensor:
        return F.layer_norm(hidden, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"])

    def heads(name: str, hidden: Tensor) -> Tensor:
        return F.linear(hidden, state[f"{name}.weight"]).unflatten(-1, (8, 64)).transpose(1, 2)

    hidden = state["token_emb.weight"][input_ids] + state["pos_emb.emb.weight"]
    for layer in range(len({key.split(".")[2] for key in state if key.startswith("attn_layers")}) // 2):
        name = f"attn_layers.layers.{2 * layer}"
        seen = norm(f"{name}.0", hidden)
        query, key, value = (heads(f"{name}.1.to_{part}", seen) for part in "qkv")
        attended = ((query @ key.transpose(-1, -2) / 8).softmax(-1) @ value).transpose(1, 2).flatten(2)
        hidden = hidden + F.linear(attended, state[f"{name}.1.to_out.weight"], state[f"{name}.1.to_out.bias"])
        name = f"attn_layers.layers.{2 * layer + 1}"
        seen = F.linear(norm(f"{name}.0", hidden), state[f"{name}.1.net.0.0.weight"], state[f"{name}.1.net.0.0.bias"])
        hidden = hidden + F.linear(F.gelu(seen), state[f"{name}.1.net.2.weight"], state[f"{name}.1.net.2.bias"])
    return norm("norm", hidden)


def schedule_buffers() -> State:
    betas = torch.linspace(0.0015**0.5, 0.0295**0.5, 1000, dtype=torch.float64) ** 2
    alphas = (1 - betas).cumprod(0)
    buffers = {"betas": betas, "alphas_cumprod": alphas, "sqrt_alphas_cumprod": alphas.sqrt(), "logvar": betas * 0}
    buffers |= {"posterior_mean_coef1": betas * 0, "alphas_cumprod_prev": alphas.roll(1)}
    return {name: buffer.float() for name, buffer in buffers.items()}


def write_release(folder: Path, seed: int = 0, levels: tuple[int, ...] = (32, 64, 64), layers: int = 1) -> Release:
    """Write the three checkpoints and ``vocab.txt``; with EMA, loss, buffers and Lightning's own entries."""
    folder.mkdir(parents=True, exist_ok=True)
    release = Release(folder, autoencoder(seed, levels, layers), autoencoder(seed + 1, levels, layers))
    release.unet = unet(seed + 2, levels, layers)
    release.text = text_encoder(seed + 3)
    ldm, controller = original_autoencoder(release.vae), original_autoencoder(release.controller)
    backbone = {f"model.diffusion_model.{key}": value for key, value in original_unet(release.unet).items()}
    backbone |= {f"cond_stage_model.transformer.{key}": value for key, value in release.text.items()}
    backbone |= {f"first_stage_model.{key}": value * 0 for key, value in ldm.items()} | schedule_buffers()
    backbone |= {"model_ema.decay": torch.tensor(0.99), "model_ema.diffusion_modelout2weight": torch.zeros(3)}
    ldm["loss.discriminator.main.0.weight"] = torch.zeros(2, 2)
    torch.save({"state_dict": backbone, "epoch": 3, "lr_schedulers": [], "callbacks": {}}, release.backbone)
    torch.save({"state_dict": ldm, "global_step": 7}, release.autoencoder)
    torch.save({"state_dict": controller}, release.anatomy_controller)
    release.vocab.write_text("\n".join(TOKENS) + "\n", encoding="utf-8")
    return release


class Release:
    """The files, and the networks that they were made of."""

    width, length, vocabulary, tokens = WIDTH, LENGTH, VOCABULARY, TOKENS
    unet: UNet2DConditionModel
    text: State

    def __init__(self, folder: Path, vae: AutoencoderKL, controller: AutoencoderKL) -> None:
        self.vae, self.controller = vae, controller
        self.backbone, self.autoencoder = folder / "backbone.pth", folder / "ldm_ae.pth"
        self.anatomy_controller, self.vocab = folder / "anatomy_controller.pth", folder / "vocab.txt"

    @property
    def files(self) -> tuple[Path, Path, Path, Path]:
        return self.backbone, self.autoencoder, self.anatomy_controller, self.vocab

    def copy(self, folder: Path) -> Release:
        copy = Release(folder, self.vae, self.controller)
        copy.unet, copy.text = self.unet, self.text
        for path in self.files:
            (folder / path.name).write_bytes(path.read_bytes())
        return copy

    def encode_text(self, input_ids: Tensor) -> Tensor:
        return encode_text(self.text, input_ids)


@pytest.fixture(scope="session")
def make_release() -> Callable[..., Release]:
    """Return a function folder, seed, levels, layers -> the checkpoints written there."""
    return write_release
