"""What a stage will need, before anything is loaded or run: parameters, FLOPs, memory, passes over the data."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from xreal.config import Preset
from xreal.errors import DataError, InputError
from xreal.masks.segmenter import build_judge_segmenter, build_segmenter
from xreal.models.autoencoder import build_autoencoder
from xreal.models.backbone import Backbone, build_unet
from xreal.models.detail import DetailGenerator, DetailJudge
from xreal.models.organs import ORGAN_CHANNELS, AdaptedUNet, ControlledUNet, build_adapter, build_controlnet
from xreal.models.text_encoder import build_text_encoder
from xreal.models.texture import Texture
from xreal.training.parallel import checkpoint_activations, count_parts
from xreal.vocabulary import Finding

__all__ = ["Forecast", "forecast"]

_BYTES_PER_TRAINED = 4 * 5  # float32: weight, gradient, AdamW's two moments, average
_BYTES_PER_FROZEN = 4


@dataclass(frozen=True)
class Forecast:
    """What one stage needs.

    Attributes:
        trained: parameters that are trained, without the discriminator's.
        frozen: parameters that are only used.
        flops: of one image, forward and backward; multiplications and additions counted one by one.
        weight_bytes: weights, gradients, optimizer and average on each device.
        activation_bytes: what one part of the batch keeps for the backward pass.
        images: training images of the data that the stage can use.
        batch_size: of all devices together.
        steps: of the stage.
        parts: of each batch.
        processes: that share them.
    """

    trained: int
    frozen: int
    flops: int
    weight_bytes: int
    activation_bytes: int
    images: int
    batch_size: int
    steps: int
    parts: int
    processes: int

    def lines(self) -> list[str]:
        """Return the forecast in words."""
        memory = (self.weight_bytes + self.activation_bytes) / 1e9
        drawn = self.batch_size * self.steps
        return [
            f"parameters        {self.trained:,} trained, {self.frozen:,} frozen",
            f"FLOPs             {self.flops / 1e9:,.1f} G per image, {self.flops * drawn:.2e} in all",
            f"memory per device {memory:,.2f} GB: {self.weight_bytes / 1e9:,.2f} weights, gradients, optimizer and "
            f"average; {self.activation_bytes / 1e9:,.2f} activations of {self.batch_size // self.parts} images",
            f"batch             {self.batch_size} images in {self.parts} parts, {self.parts // self.processes} after "
            f"another on each of {self.processes} processes",
            f"data              {self.images:,} images per epoch; {self.steps:,} steps draw {drawn:,} images, "
            f"{drawn / max(1, self.images):,.1f} epochs",
        ]


def forecast(
    name: str,
    preset: Preset,
    data: Sequence[Path],
    processes: int = 1,
    micro_batch_size: int | None = None,
    recompute: bool = False,
    mixed_precision: str = "auto",
) -> Forecast:
    """Count what a stage needs, on tensors without memory: no weight is made, no image is read.

    Memory is a lower bound: buffers of the libraries, the discriminator and fragmentation come on top.

    Args:
        name: of the stage.
        preset: sizes; for a ControlNet those of the model that it steers.
        data: prepared folders; only the number of their rows is read.
        processes: that share each batch.
        micro_batch_size: as in ``train``.
        recompute: as in ``train``.
        mixed_precision: as in ``train``; "auto" is taken for bf16, whatever this machine has.

    Raises:
        InputError: unknown stage, no processes, sizes that do not divide each other, a network that cannot recompute
            activations.
        DataError: a folder holds no training shard.
    """
    if name not in _STEPS:
        raise InputError(f"unknown stage {name!r}; expected one of {', '.join(_STEPS)}")
    if processes < 1:
        raise InputError(f"{processes} processes cannot train; give at least 1")
    config = preset.stages[name]
    images = _count_images(
        data,
        name in ("segmenter", "judge-segmenter", "anatomy", "concat", *_STEERED),
    )
    parts = count_parts(config.batch_size, micro_batch_size, processes)
    with FakeTensorMode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the counter's, of operations without multiplications
        networks, step = _STEPS[name](preset)
        if recompute and not checkpoint_activations(nn.ModuleList(networks)):
            raise InputError(f"the network of {name} cannot recompute activations; leave --recompute away")
        kept: dict[int, int] = {}
        weights = {id(p) for network in networks for p in network.parameters()}
        alive: list[Tensor] = []  # an id is unique only as long as the tensor lives

        def keep(tensor: Tensor) -> Tensor:
            if id(tensor) not in weights and not isinstance(tensor, nn.Parameter):
                alive.append(tensor)
                kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
            return tensor

        counter = FlopCounterMode(display=False)
        mixed = mixed_precision != "no" and name not in ("detail", "texture")  # which compute in float32
        with counter:
            with (
                torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
                torch.autocast("cpu", torch.bfloat16, enabled=mixed),
            ):
                loss = step(_PROBE)
            loss.float().mean().backward()
        trained = sum(p.numel() for network in networks for p in network.parameters() if p.requires_grad)
        frozen = sum(p.numel() for network in networks for p in network.parameters() if not p.requires_grad)
    return Forecast(
        trained=trained,
        frozen=frozen,
        flops=counter.get_total_flops() // _PROBE,
        weight_bytes=_BYTES_PER_TRAINED * trained + _BYTES_PER_FROZEN * frozen,
        activation_bytes=sum(kept.values()) * (config.batch_size // parts) // _PROBE,
        images=images,
        batch_size=config.batch_size,
        steps=config.steps,
        parts=parts,
        processes=processes,
    )


_PROBE = 2  # images that the counted step has
Step = Callable[[int], Tensor]


def _count_images(data: Sequence[Path], masked: bool) -> int:
    count = 0
    for folder in data:
        shards = sorted(Path(folder).glob("train-*.parquet"))
        if not shards:
            raise DataError(f"{folder} holds no train-*.parquet; run `xreal prepare` on the source first")
        for shard in shards:
            rows = pq.read_metadata(shard).num_rows
            if masked:  # the masks' names say which are there, without their pictures
                rows -= pq.read_table(shard, columns=["organ_mask.path"]).column(0).null_count
            count += rows
    return count


_STEERED: dict[str, tuple[Any, Any]] = {
    "adapter": (AdaptedUNet, build_adapter),
    "joint": (AdaptedUNet, build_adapter),
    "autoguidance": (AdaptedUNet, build_adapter),
    "adversarial": (AdaptedUNet, build_adapter),
    "controlnet": (ControlledUNet, build_controlnet),
}


def _diffusion(preset: Preset, organs: str = "") -> tuple[list[nn.Module], Step]:
    unet = build_unet(preset, ORGAN_CHANNELS if organs == "concat" else 0)
    text_encoder = build_text_encoder(preset.text_encoder)
    network: Any = unet
    if organs in _STEERED:
        alone = organs in ("autoguidance", "adversarial")
        unet.requires_grad_(alone or organs == "joint")
        text_encoder.requires_grad_(organs == "joint")
        steered, build = _STEERED[organs]
        steering = build(unet, preset.autoencoder.downsampling).requires_grad_(not alone)
        network = steered(unet, steering)
    backbone = Backbone(network, text_encoder)
    side, size = preset.image_size // preset.autoencoder.downsampling, preset.image_size

    def step(count: int) -> Tensor:
        latents = torch.randn(count, preset.autoencoder.latent_channels, side, side)
        ids = torch.zeros(count, preset.text_encoder.max_length, dtype=torch.long)
        masks = {"organ_mask": torch.zeros(count, size, size, dtype=torch.uint8)} if organs else {}
        prediction: Tensor = backbone(latents, torch.zeros(count, dtype=torch.long), ids, **masks)
        return prediction

    return [backbone], step


def _adversarial(preset: Preset) -> tuple[list[nn.Module], Step]:
    """Four passes: two of the walk, the judge's look, and one for early timesteps and all that needs no gradient."""
    networks, predict = _diffusion(preset, "adversarial")
    return networks, lambda count: torch.cat([predict(count) for _ in range(4)])


def _autoguidance(preset: Preset) -> tuple[list[nn.Module], Step]:
    """One pass that learns, and three that do not, of the U-Net of before and of a weaker one of the same size."""
    networks, predict = _diffusion(preset, "autoguidance")
    before = build_unet(preset)
    weak = AdaptedUNet(build_unet(preset), build_adapter(before, preset.autoencoder.downsampling))
    frozen = nn.ModuleList([before, weak]).requires_grad_(False)
    side, text = preset.image_size // preset.autoencoder.downsampling, preset.text_encoder

    def step(count: int) -> Tensor:
        latents = torch.randn(count, preset.autoencoder.latent_channels, side, side)
        told = (torch.zeros(count, dtype=torch.long), torch.randn(count, text.max_length, text.width))
        with torch.no_grad():
            for unet in (before, before, weak):
                unet(latents, *told)
        return predict(count)

    return [*networks, frozen], step


def _autoencoding(preset: Preset, whole: bool, frozen_encoder: bool = False, crop: int = 0) -> Any:
    network: AutoencoderKL = build_autoencoder(preset.autoencoder, preset.image_size)
    side = preset.image_size if whole or not crop else crop
    if frozen_encoder:
        for name, part in network.named_children():
            part.requires_grad_(name not in ("encoder", "quant_conv", "patch_encoder"))

    def step(count: int) -> Tensor:
        image = torch.randn(count, preset.autoencoder.image_channels, side, side)
        decoded: Tensor = network.decode(network.encode(image).latent_dist.mode()).sample
        return decoded

    return [network], step


def _texture(preset: Preset) -> tuple[list[nn.Module], Step]:
    networks, decode = _autoencoding(preset, whole=False, crop=preset.stages["texture"].crop)
    networks[0].requires_grad_(False)
    texture = Texture()

    def step(count: int) -> Tensor:
        decoded = decode(count).mean(1, keepdim=True)
        # What is filtered has no weights, and its constants no place among tensors that hold nothing.
        seen = F.avg_pool2d(decoded, 4).expand(-1, texture.deviation[0].in_channels, -1, -1)
        deviations: Tensor = texture.deviation(seen)
        return deviations

    return [*networks, texture], step


def _detail(preset: Preset) -> tuple[list[nn.Module], Step]:
    side = preset.stages["detail"].crop or preset.image_size
    network, judge = DetailGenerator(), DetailJudge()

    def step(count: int) -> Tensor:
        image = torch.randn(count, 1, side, side)
        scores: Tensor = judge.scores(image + network(image, image.expand(-1, 2, -1, -1)))
        return scores

    return [network], step


def _on_images(network: nn.Module, side: int, output: Callable[[Any], Tensor]) -> tuple[list[nn.Module], Step]:
    return [network], lambda count: output(network(torch.randn(count, 1, side, side)))


def _encoder(preset: Preset) -> tuple[list[nn.Module], Step]:
    from xreal.models.encoder import build_encoder

    network = build_encoder(preset.encoder, tuple(Finding))
    return _on_images(
        network,
        preset.encoder.input_size,
        lambda reading: torch.cat([reading.findings, reading.age[:, None]], 1),
    )


_STEPS: dict[str, Callable[[Preset], tuple[list[nn.Module], Step]]] = {
    "segmenter": lambda p: _on_images(build_segmenter(p.segmenter, p.image_size), p.image_size, lambda logits: logits),
    "autoencoder": lambda p: _autoencoding(p, whole=False, crop=p.stages["autoencoder"].crop),
    "backbone": _diffusion,
    "anatomy": lambda p: _autoencoding(p, whole=True),
    "decoder": lambda p: _autoencoding(p, whole=False, frozen_encoder=True, crop=p.stages["decoder"].crop),
    "detail": _detail,
    "texture": _texture,
    "adapter": lambda p: _diffusion(p, "adapter"),
    "joint": lambda p: _diffusion(p, "joint"),
    "autoguidance": _autoguidance,
    "adversarial": _adversarial,
    "concat": lambda p: _diffusion(p, "concat"),
    "controlnet": lambda p: _diffusion(p, "controlnet"),
    "judge-segmenter": lambda p: _on_images(
        build_judge_segmenter(p.judge_segmenter), p.image_size, lambda logits: logits
    ),
    "encoder": _encoder,
}
