"""What a conversion will do: which stored tensor becomes which weight, and which are left out and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xreal.convert.checkpoint import Weights, named
from xreal.errors import ModelError

__all__ = ["Component", "Plan", "key_map"]


def key_map(keys: list[str], convert: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]) -> dict[str, str]:
    """Find out which key a converter of diffusers turns into which, new key -> old key.

    Each key is given a tensor that holds its number, in the four dimensions that such converters expect of a
    convolution.
    """
    markers = {key: torch.full((1, 1, 1, 1), number) for number, key in enumerate(keys)}
    return {new: keys[int(marker.flatten()[0])] for new, marker in convert(markers).items()}


@dataclass(frozen=True)
class Component:
    """A network and where its weights come from.

    Attributes:
        name: folder in the model folder.
        network: without weights, on the device "meta".
        weights: stored tensors.
        keys: weight of the network -> key of ``weights``.
    """

    name: str
    network: nn.Module
    weights: Weights
    keys: Mapping[str, str]

    def __post_init__(self) -> None:
        """Check that every weight has a tensor of its shape, of finite numbers, and every tensor a weight.

        Raises:
            ModelError: not so; the tensors are named as in the file.
        """
        file, prefix, stored = self.weights.path, self.weights.prefix, self.weights.tensors
        wanted = self.network.state_dict()
        if missing := sorted(wanted.keys() - self.keys.keys()):
            raise ModelError(f"{file} lacks weights of {self.name}: {named(missing)}")
        used = {source for target, source in self.keys.items() if target in wanted}
        if surplus := sorted(prefix + key for key in stored.keys() - used):
            raise ModelError(f"{file} holds tensors that {self.name} has no place for: {named(surplus)}")
        wrong = [
            f"{prefix}{source} is {tuple(stored[source].shape)}, expected {tuple(wanted[target].shape)}"
            for target, source in self.keys.items()
            if not _fits(stored[source], wanted[target])
        ]
        if wrong:
            raise ModelError(f"{file} does not fit {self.name}: {named(wrong, 4)}")
        if broken := sorted(prefix + key for key in used if not bool(stored[key].isfinite().all())):
            raise ModelError(f"{file} holds NaN or infinity in {named(broken, 4)}; such a network draws nothing")

    def load(self) -> nn.Module:
        """Return the network with its weights, in float32."""
        wanted = self.network.state_dict()
        state = {
            target: self.weights.tensors[source].float().reshape(wanted[target].shape).clone()
            for target, source in self.keys.items()
        }
        self.network.load_state_dict(state, assign=True)
        return self.network.eval()

    def lines(self) -> Iterator[str]:
        """Describe each tensor's way."""
        for target, source in self.keys.items():
            shape = "×".join(map(str, self.weights.tensors[source].shape))
            yield f"{self.weights.path.name}: {self.weights.prefix}{source} ({shape}) -> {self.name}/{target}"


def _fits(stored: Tensor, wanted: Tensor) -> bool:
    """Say whether the shapes are equal, a 1×1 convolution counting as the linear layer that it is."""
    linear = stored.ndim == 4 and wanted.ndim == 2 and stored.shape[2:] == (1, 1)
    return (stored.shape[:2] if linear else stored.shape) == wanted.shape


@dataclass(frozen=True)
class Plan:
    """A whole conversion.

    Attributes:
        components: networks.
        tokenizer: prompt -> token numbers.
        scheduler: noise schedule.
        facts: what was inferred, in words.
        unused: "file: key" of each tensor that is left out -> why.
    """

    components: tuple[Component, ...]
    tokenizer: Any
    scheduler: Any
    facts: tuple[str, ...]
    unused: Mapping[str, str]

    def lines(self) -> Iterator[str]:
        """Describe it all: each tensor used, each left out, what was inferred."""
        for component in self.components:
            yield from component.lines()
        for key, reason in self.unused.items():
            yield f"{key} -> not used: {reason}"
        yield from self.facts
