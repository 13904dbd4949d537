"""X-ray -> features, view position, sex, age and findings: the network that judges images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from xreal.config import EncoderConfig
from xreal.errors import ModelError
from xreal.vocabulary import Finding

__all__ = ["Encoder", "Reading", "build_encoder"]


class Reading(NamedTuple):
    """What the encoder reads from B images.

    Attributes:
        features: before the heads, (B, d).
        view_position: logit of AP against PA, (B,).
        sex: logit of F against M, (B,).
        age: (years − 50) ÷ 20, (B,).
        findings: logits, (B, K), in the order of ``Encoder.findings``.
        maps: of each finding, (B, K, h, w): its logit is their mean over h and w plus a constant.
    """

    features: Tensor
    view_position: Tensor
    sex: Tensor
    age: Tensor
    findings: Tensor
    maps: Tensor


class Encoder(ModelMixin, ConfigMixin):
    """MONAI ResNet of four blocks, pooled over the image, with one linear layer per question.

    Each image is brought to ``input_size`` and to mean 0 and deviation 1, so that neither size nor exposure tells.

    Args:
        finding_names: values of ``Finding`` that it judges, each by itself (an image may have several).
        input_size: side that images are worked on.
        channels: of the four blocks; the last is the number of features.
        norm_num_groups: of all group norms.
        block_norm: "group", or "batch" as in folders that do not name it. Group norms need no running statistics, so
            averaged weights are whole, and processes that see other parts of a batch end with the same network.
    """

    @register_to_config
    def __init__(
        self,
        finding_names: Sequence[str] = tuple(finding.value for finding in Finding),
        input_size: int = 128,
        channels: Sequence[int] = (16, 32, 64, 160),
        norm_num_groups: int = 8,
        block_norm: str = "batch",
    ) -> None:
        super().__init__()
        from monai.networks.nets.resnet import ResNet  # late: monai takes seconds to import

        if block_norm not in ("group", "batch"):
            raise ModelError(f'block_norm is {block_norm!r}; expected "group" or "batch"')

        self.network = ResNet(
            block="basic",
            layers=[1, 1, 1, 1],
            block_inplanes=list(channels),
            spatial_dims=2,
            n_input_channels=1,
            conv1_t_size=7,
            conv1_t_stride=2,
            no_max_pool=True,
            bias_downsample=False,
            norm=("group", {"num_groups": norm_num_groups}),
            feed_forward=False,
        )
        if block_norm == "group":
            _group_norms(self.network, norm_num_groups)
        self.view_position, self.sex, self.age = (nn.Linear(channels[-1], 1) for _ in range(3))
        self.findings_head = nn.Linear(channels[-1], len(finding_names))

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Findings that it judges, in the order of its outputs."""
        return tuple(Finding(name) for name in self.config.finding_names)

    def forward(self, image: Tensor) -> Reading:
        """Read images (B, 1, H, W) in [0, 1] of any size."""
        side = self.config.input_size
        if image.shape[-2:] != (side, side):
            image = F.interpolate(image, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
        mean, deviation = image.mean((2, 3), keepdim=True), image.std((2, 3), keepdim=True)
        standard = (image - mean) / (deviation + 0.05)  # 0.05: a blank image stays blank
        net = self.network
        hidden = net.act(net.bn1(net.conv1(standard.contiguous(memory_format=torch.channels_last))))
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
            hidden = layer(hidden)  # at last (B, d, side / 16, side / 16)
        features = hidden.mean((2, 3))
        return Reading(
            features=features,
            view_position=self.view_position(features)[:, 0],
            sex=self.sex(features)[:, 0],
            age=self.age(features)[:, 0],
            findings=self.findings_head(features),
            maps=torch.einsum("bdhw,kd->bkhw", hidden, self.findings_head.weight),
        )


def _group_norms(network: nn.Module, groups: int) -> None:
    """Put group norms in the place of batch norms, in place: MONAI hands ``norm`` to the first layer, not to blocks."""
    for parent in list(network.modules()):
        for name, part in parent.named_children():
            if isinstance(part, nn.BatchNorm2d):
                setattr(parent, name, nn.GroupNorm(groups, part.num_features))


def build_encoder(config: EncoderConfig, findings: Sequence[Finding]) -> Encoder:
    """Make an untrained encoder that judges those findings."""
    return Encoder(
        finding_names=tuple(finding.value for finding in findings),
        input_size=config.input_size,
        channels=config.channels,
        norm_num_groups=config.norm_num_groups,
        block_norm="group",
    )
