"""What a stage tells the training loop."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from xreal.config import Preset, StageConfig

__all__ = ["Loss", "Stage", "white_noise"]


@dataclass(frozen=True)
class Loss:
    """One backward pass and optimizer step.

    Attributes:
        network: key of the network whose optimizer steps.
        value: what is minimised, a scalar.
        parts: its summands, for the log.
    """

    network: str
    value: Tensor
    parts: dict[str, float]


def white_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw standard normal numbers of a tensor's shape, where it is: on a GPU from a stream of its own.

    Args:
        like: what the noise is for.
        generator: on the CPU; seeds the GPU's.
    """
    if like.device.type == "cpu":
        return torch.randn(like.shape, generator=generator)
    seed = int(torch.randint(2**62, (1,), generator=generator))
    own = torch.Generator(like.device).manual_seed(seed)
    return torch.randn(like.shape, generator=own, device=like.device)


class Stage(abc.ABC):
    """A network to train.

    Attributes:
        name: as in ``xreal train NAME``.
        betas: of AdamW: how long it remembers gradients and their squares.
        paces: of networks that do not learn at the stage's rate, how many times as fast they do.
        networks: what is trained; each has its own optimizer. The first is averaged (EMA) and exported.
        sampling_weights: how often each training sample is drawn, (N,).
        autocast: context of the run's precision, for what is called by another way than the networks' ``forward``,
            which accelerate looks after; losses are computed outside of it.
    """

    name: ClassVar[str]
    betas: ClassVar[tuple[float, float]] = (0.9, 0.99)
    paces: ClassVar[dict[str, float]] = {}

    def __init__(self, preset: Preset) -> None:
        self.preset = preset
        self.config: StageConfig = preset.stages[self.name]
        self.networks: dict[str, nn.Module] = {}
        self.sampling_weights: Tensor = torch.ones(0)
        self.autocast: Callable[[], AbstractContextManager[None]] = nullcontext

    @property
    def network(self) -> nn.Module:
        """The network that this stage is for."""
        return next(iter(self.networks.values()))

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def averaged(self) -> Iterator[nn.Parameter]:
        """Return what is averaged (EMA): all of the network."""
        return self.network.parameters()

    @abc.abstractmethod
    def batch(self, indices: Sequence[int], generator: torch.Generator) -> Any:
        """Read and augment training samples."""

    @abc.abstractmethod
    def losses(self, batch: Any, step: int, generator: torch.Generator) -> Iterator[Loss]:
        """Yield one loss per optimizer; each is stepped before the next is computed."""

    @abc.abstractmethod
    def validate(self) -> dict[str, float]:
        """Measure on the validation split, always on the same samples and noise."""

    @abc.abstractmethod
    def sheet(self) -> list[list[np.ndarray]]:
        """Draw rows of pictures that show what the network does."""

    @abc.abstractmethod
    def export(self, folder: Path) -> None:
        """Write the network into the model folder."""
