"""Frozen settings: one dataclass per network and per training stage, and the named presets made of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from xreal.errors import InputError

__all__ = [
    "PRESETS",
    "AutoencoderConfig",
    "BackboneConfig",
    "EncoderConfig",
    "JudgeSegmenterConfig",
    "Preset",
    "SegmenterConfig",
    "StageConfig",
    "TextEncoderConfig",
    "get_preset",
]


@dataclass(frozen=True)
class AutoencoderConfig:
    """KL autoencoder, pixels <-> latents. Downsampling f = patch_size × 2^(levels − 1).

    A ``patch_size`` above 1 moves that many pixels a side into channels before the first convolution and adds a
    linear patch-wise path beside the convolutions (residual autoencoding, arXiv 2410.10733). ``refine_channels`` above
    0 adds three convolutions of so many channels to the decoder, over whole pixels, which see across patches.
    """

    block_out_channels: tuple[int, ...] = (64, 128)
    layers_per_block: int = 1
    latent_channels: int = 8
    norm_num_groups: int = 16
    patch_size: int = 4
    refine_channels: int = 0
    image_channels: int = 1
    mid_attention: bool = False

    @property
    def downsampling(self) -> int:
        """Pixels per latent, f."""
        return int(self.patch_size * 2 ** (len(self.block_out_channels) - 1))


@dataclass(frozen=True)
class TextEncoderConfig:
    """BERT-style transformer over WordPiece tokens, trained with the backbone."""

    width: int = 192
    layers: int = 3
    heads: int = 4
    max_length: int = 32
    vocab_size: int = 256


@dataclass(frozen=True)
class BackboneConfig:
    """U-Net with cross-attention on the prompt, and the diffusion that it is trained on (1,000 steps).

    A ``patch_size`` above 1 moves that many latents a side into channels at the U-Net's door.
    """

    block_out_channels: tuple[int, ...] = (128, 192)
    layers_per_block: int = 1
    attention: tuple[bool, ...] = (True, True)
    patch_size: int = 2
    heads: int = 4
    norm_num_groups: int = 16
    prediction_type: str = "v_prediction"
    beta_start: float = 0.0015  # METHOD: the paper's schedule, linear in √β
    beta_end: float = 0.0295
    prompt_dropout: float = 0.3  # share of prompts replaced by "": healthy X-rays are drawn with that one
    detail_dropout: float = 0.5  # share of the other prompts that are one finding alone: findings must work alone
    box_weight: float = 2.0  # what the loss weighs more in the boxes of a prompt's finding; more still in small ones
    box_sampling: float = 1.0  # how much more often images with boxes are drawn
    timestep_power: float = 1.2  # training timesteps are 1000 u^power, u uniform: above 1, more of the clearer ones
    min_snr_gamma: float = 0.0  # loss weight min(SNR, γ), arXiv 2303.09556; 0: none
    channel_weight_power: float = 0.7  # loss weight of a latent channel: its effect on pixels to this power


@dataclass(frozen=True)
class SegmenterConfig:
    """MONAI residual U-Net, X-ray -> organ mask."""

    channels: tuple[int, ...] = (12, 24, 48, 96, 160)
    num_res_units: int = 2


@dataclass(frozen=True)
class JudgeSegmenterConfig:
    """MONAI SegResNet, X-ray -> organ mask: the second segmenter, which judges images and makes no masks."""

    input_size: int = 128  # images are worked on at this size; the logits are brought back to theirs
    filters: int = 12
    norm_num_groups: int = 4
    blocks_down: tuple[int, ...] = (1, 1, 2, 2)


@dataclass(frozen=True)
class EncoderConfig:
    """MONAI ResNet, X-ray -> features, view position, sex, age and findings: judges images."""

    input_size: int = 128
    channels: tuple[int, ...] = (16, 32, 64, 160)  # the last is the number of features
    norm_num_groups: int = 8
    fewest: int = 50  # findings with fewer training images are not learnt


@dataclass(frozen=True)
class StageConfig:
    """How one network is trained."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 100
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    crop: int = 0  # side of random training crops in pixels; 0: whole images
    adversarial_from: int = -1  # first step with the patch discriminator; −1: never
    augmented_copies: int = 0  # of each image whose latents are encoded ahead, beside the unchanged one
    validate_every: int = 500
    checkpoint_every: int = 250
    seed: int = 0


@dataclass(frozen=True)
class Preset:
    """Sizes of all networks and lengths of all stages."""

    name: str
    image_size: int
    autoencoder: AutoencoderConfig
    text_encoder: TextEncoderConfig
    backbone: BackboneConfig
    segmenter: SegmenterConfig
    stages: dict[str, StageConfig] = field(default_factory=dict)
    judge_segmenter: JudgeSegmenterConfig = JudgeSegmenterConfig()
    encoder: EncoderConfig = EncoderConfig()
    variation_components: int = 16  # directions in which X-rays of one organ mask differ
    latent_errors: tuple[float, ...] = (
        0.2,
    )  # of drawn latents, per channel or of all, at most; what decoders learn on

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    def with_stage(self, stage: str, **changes: Any) -> Preset:
        """Return a copy in which some settings of one stage are changed."""
        return replace(self, stages=self.stages | {stage: replace(self.stages[stage], **changes)})


_CXR_256 = Preset(
    name="cxr-256",
    image_size=256,
    autoencoder=AutoencoderConfig(refine_channels=16),
    text_encoder=TextEncoderConfig(),
    backbone=BackboneConfig(),
    segmenter=SegmenterConfig(),
    latent_errors=(0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.12, 0.16),  # recipes/latent_errors.py, of its U-Net
    stages={
        "segmenter": StageConfig(steps=1500, batch_size=8, learning_rate=2e-3, ema_decay=0.99),
        "autoencoder": StageConfig(steps=640, batch_size=16, learning_rate=1e-3, crop=128, adversarial_from=440),
        "backbone": StageConfig(steps=3000, batch_size=16, learning_rate=5e-4, ema_decay=0.998, augmented_copies=1),
        "concat": StageConfig(steps=3000, batch_size=16, learning_rate=5e-4, ema_decay=0.998, augmented_copies=1),
        "controlnet": StageConfig(steps=3000, batch_size=16, learning_rate=5e-4, ema_decay=0.998, augmented_copies=1),
        "anatomy": StageConfig(steps=400, batch_size=4, learning_rate=5e-4),
        "adapter": StageConfig(steps=2400, batch_size=32, learning_rate=8e-4, ema_decay=0.998, augmented_copies=1),
        "joint": StageConfig(steps=2400, batch_size=32, learning_rate=4e-4, ema_decay=0.998, augmented_copies=7),
        "autoguidance": StageConfig(
            steps=600, batch_size=32, learning_rate=1.2e-4, weight_decay=0.0, ema_decay=0.99, augmented_copies=7
        ),
        "adversarial": StageConfig(
            steps=1000,
            batch_size=16,
            learning_rate=1e-4,
            weight_decay=0.0,
            warmup_steps=20,
            ema_decay=0.99,
            validate_every=150,
            checkpoint_every=150,
        ),
        "decoder": StageConfig(steps=700, batch_size=16, learning_rate=3e-4, crop=128, ema_decay=0.995),
        "detail": StageConfig(steps=12_000, batch_size=32, learning_rate=3e-4, weight_decay=0.0, crop=128),
        "texture": StageConfig(steps=250, batch_size=8, learning_rate=1e-2, warmup_steps=10, ema_decay=0.95),
        "judge-segmenter": StageConfig(steps=650, batch_size=8, learning_rate=2e-3, ema_decay=0.99, seed=1),
        "encoder": StageConfig(steps=1300, batch_size=32, learning_rate=1e-3, weight_decay=0.05, ema_decay=0.99),
    },
)

# The paper's sizes (arXiv 2403.09240 and its supplement). The step counts are for MIMIC-CXR on several GPUs.
_PAPER = Preset(
    name="paper",
    image_size=256,
    autoencoder=AutoencoderConfig(
        block_out_channels=(128, 256, 512),
        layers_per_block=2,
        latent_channels=3,
        norm_num_groups=32,
        patch_size=1,
        image_channels=3,
        mid_attention=True,
    ),
    text_encoder=TextEncoderConfig(width=1280, layers=32, heads=8, max_length=150, vocab_size=30522),
    backbone=BackboneConfig(
        block_out_channels=(224, 448, 896, 896),
        layers_per_block=2,
        attention=(False, True, True, True),
        patch_size=1,
        heads=8,
        norm_num_groups=32,
        prediction_type="epsilon",
        prompt_dropout=0.1,
        detail_dropout=0.0,
        box_weight=0.0,
        box_sampling=1.0,
        timestep_power=1.0,
        channel_weight_power=0.0,
    ),
    segmenter=SegmenterConfig(),
    stages={
        "segmenter": StageConfig(steps=4000, batch_size=16, learning_rate=2e-3, ema_decay=0.99),
        "autoencoder": StageConfig(steps=200_000, batch_size=16, learning_rate=7e-5, adversarial_from=5001),
        "backbone": StageConfig(steps=500_000, batch_size=64, learning_rate=1e-4, ema_decay=0.9999, augmented_copies=3),
        "concat": StageConfig(steps=500_000, batch_size=64, learning_rate=1e-4, ema_decay=0.9999, augmented_copies=3),
        "controlnet": StageConfig(
            steps=100_000, batch_size=64, learning_rate=1e-5, ema_decay=0.9999, augmented_copies=3
        ),
        "anatomy": StageConfig(steps=100_000, batch_size=16, learning_rate=7e-5, adversarial_from=5001),
        "adapter": StageConfig(steps=100_000, batch_size=64, learning_rate=1e-5, ema_decay=0.9999, augmented_copies=3),
        "joint": StageConfig(steps=100_000, batch_size=64, learning_rate=1e-5, ema_decay=0.9999, augmented_copies=3),
        "autoguidance": StageConfig(
            steps=20_000, batch_size=64, learning_rate=1e-5, weight_decay=0.0, augmented_copies=3
        ),
        "adversarial": StageConfig(
            steps=10_000, batch_size=64, learning_rate=1e-5, weight_decay=0.0, augmented_copies=3
        ),
        "decoder": StageConfig(steps=50_000, batch_size=16, learning_rate=7e-5, adversarial_from=0),
        "detail": StageConfig(steps=50_000, batch_size=32, learning_rate=3e-4, weight_decay=0.0, crop=128),
        "texture": StageConfig(steps=2000, batch_size=16, learning_rate=2e-3, ema_decay=0.99),
        "judge-segmenter": StageConfig(steps=4000, batch_size=16, learning_rate=2e-3, ema_decay=0.99, seed=1),
        "encoder": StageConfig(steps=20_000, batch_size=64, learning_rate=1e-3, weight_decay=0.05),
    },
)

_TINY_STAGE = StageConfig(
    steps=4, batch_size=2, learning_rate=1e-3, warmup_steps=1, validate_every=4, checkpoint_every=2, ema_decay=0.5
)
_TINY = Preset(
    name="tiny",
    image_size=64,
    autoencoder=AutoencoderConfig(block_out_channels=(8, 16), latent_channels=4, norm_num_groups=4),
    text_encoder=TextEncoderConfig(width=16, layers=1, heads=2, max_length=24, vocab_size=128),
    backbone=BackboneConfig(
        block_out_channels=(8, 16), attention=(False, True), patch_size=1, heads=2, norm_num_groups=4
    ),
    segmenter=SegmenterConfig(channels=(4, 8, 16), num_res_units=1),
    stages={
        "segmenter": _TINY_STAGE,
        "autoencoder": replace(_TINY_STAGE, crop=32, adversarial_from=2),
        "backbone": _TINY_STAGE,
        "concat": _TINY_STAGE,
        "controlnet": _TINY_STAGE,
        "anatomy": replace(_TINY_STAGE, adversarial_from=2),
        "adapter": _TINY_STAGE,
        "joint": _TINY_STAGE,
        "autoguidance": _TINY_STAGE,
        "adversarial": _TINY_STAGE,
        "detail": replace(_TINY_STAGE, crop=32),
        "texture": _TINY_STAGE,
        "decoder": replace(_TINY_STAGE, crop=32, adversarial_from=0),
        "judge-segmenter": replace(_TINY_STAGE, seed=1),
        "encoder": _TINY_STAGE,
    },
    judge_segmenter=JudgeSegmenterConfig(input_size=32, filters=4, norm_num_groups=2, blocks_down=(1, 1)),
    encoder=EncoderConfig(input_size=32, channels=(4, 4, 8, 8), norm_num_groups=2, fewest=1),
    variation_components=2,
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in (_CXR_256, _PAPER, _TINY)}


def get_preset(name: str) -> Preset:
    """Return the preset of that name.

    Raises:
        InputError: no such preset; the message lists them.
    """
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]
