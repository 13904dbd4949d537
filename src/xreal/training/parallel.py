"""One step over several parts of a batch, here or on other processes: the same numbers, whoever computes them.

A global batch is cut into parts of equal size. Samples and noise of a part depend on the seed, the step and the part's
number alone. Each process computes its share of the parts one after another (gradient accumulation) and gradients are
averaged over all of them. So a run can go on with another number of processes, and ends with the same weights.

Gradients are averaged here rather than by ``DistributedDataParallel``: stages call ``encode`` and ``decode`` of their
networks, and discriminators from within losses, which its hooks do not see.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from xreal.errors import InputError

__all__ = ["average_gradients", "average_values", "checkpoint_activations", "count_parts", "same_everywhere"]

_BUCKET = 25_000_000  # values that are sent at once: large enough for the network, small beside the weights


def count_parts(batch_size: int, micro_batch_size: int | None, processes: int) -> int:
    """Return into how many parts the global batch is cut; default one per process.

    Raises:
        InputError: the sizes do not divide each other.
    """
    if micro_batch_size is None:
        if batch_size % processes:
            raise InputError(
                f"a batch of {batch_size} cannot be shared equally by {processes} processes; give --batch-size "
                f"{max(1, batch_size // processes) * processes}, or another number of processes"
            )
        return processes
    if micro_batch_size < 1 or batch_size % micro_batch_size:
        raise InputError(f"--micro-batch-size {micro_batch_size} does not divide the batch size, {batch_size}")
    parts = batch_size // micro_batch_size
    if parts % processes:
        raise InputError(
            f"a batch of {batch_size} in parts of {micro_batch_size} makes {parts} parts, which {processes} processes "
            "cannot share equally; change --micro-batch-size, --batch-size or the number of processes"
        )
    return parts


def same_everywhere(networks: Iterable[nn.Module]) -> None:
    """Give every process the first one's weights."""
    if dist.is_initialized():
        for network in networks:
            for tensor in network.state_dict().values():
                dist.broadcast(tensor, 0)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients over all processes, in place."""
    if not dist.is_initialized():
        return
    waiting: list[Tensor] = []
    size = 0
    for parameter in parameters:
        if parameter.requires_grad:
            if parameter.grad is None:  # not used in this process's parts, but maybe in another's
                parameter.grad = torch.zeros_like(parameter)
            waiting.append(parameter.grad)
            size += parameter.grad.numel()
        if size >= _BUCKET:
            _average(waiting)
            waiting, size = [], 0
    if waiting:
        _average(waiting)


def _average(tensors: list[Tensor]) -> None:
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for tensor, values in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(values.view_as(tensor))


def average_values(parts: list[dict[str, float]], device: torch.device) -> dict[str, float]:
    """Average what the losses of all parts say of themselves, over all processes."""
    names = list(parts[0])
    values = torch.tensor([[part[name] for name in names] for part in parts], dtype=torch.float64).mean(0)
    if dist.is_initialized():
        values = values.float().to(device)
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return dict(zip(names, values.tolist(), strict=True))


def checkpoint_activations(network: nn.Module) -> bool:
    """Compute activations again in the backward pass instead of keeping them, where the network can.

    Returns:
        Whether any part of the network can.
    """
    able = [part for part in network.modules() if getattr(part, "_supports_gradient_checkpointing", False)]
    able = [part for part in able if hasattr(part, "enable_gradient_checkpointing")]  # diffusers' networks
    for part in able:
        part.enable_gradient_checkpointing()
    return bool(able)
