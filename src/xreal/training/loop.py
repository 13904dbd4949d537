"""The training loop: every stage runs through it."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers.training_utils import EMAModel
from torch import Tensor

from xreal.errors import InputError, TrainingError
from xreal.images import write_json
from xreal.models.precision import default_device, fast_dtype
from xreal.sheets import write_sheet
from xreal.training.parallel import (
    average_gradients,
    average_values,
    checkpoint_activations,
    count_parts,
    same_everywhere,
)
from xreal.training.stage import Loss, Stage

__all__ = ["train"]

Report = Callable[[int, int, dict[str, float]], None]


def learning_rate_factor(step: int, steps: int, warmup: int, cooldown: float = 0.3) -> float:
    """Warm up linearly, stay, and fall linearly to zero over the last ``cooldown`` of the steps."""
    rise = min(1.0, (step + 1) / max(1, warmup))
    fall = min(1.0, (steps - step) / max(1.0, cooldown * steps))
    return max(0.0, min(rise, fall))


def draw_indices(weights: Tensor, batch_size: int, step: int, seed: int) -> list[int]:
    """Draw the samples of one step; the same for a step whether or not training was interrupted."""
    return torch.multinomial(weights, batch_size, replacement=True, generator=_generator(seed, step, 0)).tolist()


def _generator(seed: int, step: int, stream: int) -> torch.Generator:
    mixed = np.random.SeedSequence((seed, step, stream)).generate_state(1)[0]
    return torch.Generator().manual_seed(int(mixed))


class _Run:
    """Networks, optimizers and averages of one stage, and where they are kept."""

    def __init__(self, stage: Stage, folder: Path, accelerator: Accelerator) -> None:
        self.stage, self.folder, self.accelerator, self.step = stage, folder, accelerator, 0
        self.optimizers = {}
        for key, network in stage.networks.items():
            parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
            optimizer = torch.optim.AdamW(
                parameters, lr=stage.config.learning_rate, weight_decay=stage.config.weight_decay, betas=stage.betas
            )
            # Placed and, in mixed precision, its calls wrapped, but no more: see training/parallel.py.
            stage.networks[key] = accelerator.prepare_model(network, evaluation_mode=True)
            self.optimizers[key] = accelerator.prepare_optimizer(optimizer)
        stage.autocast = accelerator.autocast
        same_everywhere(stage.networks.values())
        decay = stage.config.ema_decay
        self.average = EMAModel(list(stage.averaged()), decay=decay, use_ema_warmup=True, power=0.75, foreach=True)
        self.average.to(accelerator.device)
        accelerator.register_for_checkpointing(self, self.average)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    def save(self) -> None:
        """Replace the checkpoint; a kill at any moment leaves the old one or the new one whole."""
        fresh, old = self.folder / "checkpoint.new", self.folder / "checkpoint.old"
        if self.accelerator.is_main_process:
            shutil.rmtree(fresh, ignore_errors=True)
        self.accelerator.wait_for_everyone()  # no process may clear what another has begun to write, or rename it
        self.accelerator.save_state(str(fresh))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            shutil.rmtree(old, ignore_errors=True)
            if self.checkpoint.exists():
                self.checkpoint.rename(old)
            fresh.rename(self.checkpoint)
            shutil.rmtree(old, ignore_errors=True)

    def load(self) -> None:
        old = self.folder / "checkpoint.old"
        if self.accelerator.is_main_process and not self.checkpoint.exists() and old.exists():
            old.rename(self.checkpoint)
        self.accelerator.wait_for_everyone()
        if not self.checkpoint.exists():
            raise TrainingError(f"{self.folder} holds no checkpoint to resume from; start without --resume")
        self.accelerator.load_state(str(self.checkpoint))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged weights into the network for the time of the block."""
        parameters = list(self.stage.averaged())
        modes = [(part, part.training) for part in self.stage.network.modules()]
        self.average.store(parameters)
        self.average.copy_to(parameters)
        self.stage.network.eval()
        try:
            with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # other shapes than in training
                yield
        finally:
            self.average.restore(parameters)
            for part, training in modes:
                part.training = training

    def export(self, out: Path) -> dict[str, float]:
        """Validate the averaged weights, draw a sheet with them, write them into a model folder; return the metrics."""
        with self.averaged():
            metrics = self.stage.validate()
            write_sheet(self.folder / f"step-{self.step:07d}.png", self.stage.sheet())
            self.stage.export(out)
        self.accelerator.log(metrics, step=self.step)
        return metrics

    def step_networks(self, parts: Sequence[Sequence[int]], numbers: Sequence[int]) -> dict[str, float]:
        """Take one optimizer step per loss of the stage; each is taken before the next loss is computed.

        Args:
            parts: samples of each part that this process computes.
            numbers: of these parts in the global batch.
        """
        config = self.stage.config
        running = []
        for indices, number in zip(parts, numbers, strict=True):
            generator = _generator(config.seed, self.step, 1 + number)
            running.append(self.stage.losses(self.stage.batch(indices, generator), self.step, generator))
        told: dict[str, float] = {}
        while losses := self._backward(running, numbers):
            key = losses[0].network
            optimizer = self.optimizers[key]
            parameters = list(self.stage.networks[key].parameters())
            average_gradients(parameters)
            rate = config.learning_rate * self.stage.paces.get(key, 1.0)
            for group in optimizer.param_groups:
                group["lr"] = rate * learning_rate_factor(self.step, config.steps, config.warmup_steps)
            self.accelerator.clip_grad_norm_(parameters, config.gradient_clip)
            optimizer.step()
            for other in self.optimizers.values():
                other.zero_grad()
            told |= average_values([loss.parts for loss in losses], self.accelerator.device)
        self.average.step(self.stage.averaged())
        self.step += 1
        return told

    def _backward(self, running: Sequence[Iterator[Loss]], numbers: Sequence[int]) -> list[Loss]:
        """Compute the next loss of each part and sum their gradients; nothing where there is none any more."""
        losses = []
        for part, number in zip(running, numbers, strict=True):
            # Dropout takes no generator: it draws from the global one, which must not depend on who computes the part.
            torch.manual_seed(_generator(self.stage.config.seed, self.step, 1 + number).initial_seed())
            loss = next(part, None)
            if loss is None:
                return []
            if not torch.isfinite(loss.value):
                raise TrainingError(
                    f"{self.stage.name}: the loss is {loss.value.item()} at step {self.step}; "
                    "resume with a lower learning rate or without mixed precision"
                )
            self.accelerator.backward(loss.value / len(running))
            losses.append(replace(loss, value=loss.value.detach()))
        return losses


def train(
    stage: Stage,
    out: Path,
    *,
    resume: bool = False,
    mixed_precision: str = "auto",
    micro_batch_size: int | None = None,
    recompute: bool = False,
    compiled: bool = False,
    max_minutes: float = math.inf,
    report: Report = lambda step, steps, parts: None,
) -> dict[str, float]:
    """Train a stage and export its network into ``out``, a model folder.

    Logs, pictures, a frozen copy of the configuration and the checkpoint are kept in ``out/training/NAME``. The samples
    and the noise of a step depend on the seed, the step and the size of the parts alone, so a resumed run goes on as if
    never interrupted, with ``micro_batch_size`` also on another number of processes.

    Args:
        stage: what to train.
        out: model folder.
        resume: go on from the checkpoint.
        mixed_precision: "no", "bf16", "fp16", or "auto" for bf16 where the hardware has it.
        micro_batch_size: samples of the batch that are computed at once; the rest is shared out to the processes or
            follows in turn, before the weights change. Default: a process's whole share.
        recompute: keep fewer activations and compute them again: less memory, more time.
        compiled: let ``torch.compile`` make kernels for the network's shapes first: minutes that a GPU soon earns back.
        max_minutes: stop with a checkpoint after this time.
        report: called after each step with step, number of steps, and what to show.

    Returns:
        The last validation metrics.

    Raises:
        TrainingError: nothing to resume, something in the way, or the loss is no longer finite.
        InputError: a batch that cannot be cut so, or a network that cannot recompute activations.
    """
    config, folder = stage.config, out / "training" / stage.name
    if not resume and (folder / "checkpoint").exists():
        raise TrainingError(f"{folder} already holds a run; give --resume to go on, or another --out")
    folder.mkdir(parents=True, exist_ok=True)
    if mixed_precision == "auto":
        mixed_precision = "bf16" if fast_dtype(default_device()) is torch.bfloat16 else "no"
    AcceleratorState._reset_state()  # shared by the whole process: an earlier run may have had another precision
    accelerator = Accelerator(
        mixed_precision=mixed_precision,
        log_with="tensorboard",
        project_dir=folder,
        cpu=default_device().type == "cpu",  # accelerate sees the processes of torchrun on CPUs only if told
    )
    rank, world = accelerator.process_index, accelerator.num_processes
    count = count_parts(config.batch_size, micro_batch_size, world)
    if recompute and not checkpoint_activations(stage.network):
        raise InputError(f"the network of {stage.name} cannot recompute activations; leave --recompute away")
    run = _Run(stage, folder, accelerator)
    if compiled:
        stage.network.compile(dynamic=False)
    if resume:
        run.load()
    accelerator.init_trackers("tensorboard")
    if accelerator.is_main_process:
        about = {"parts": count, "processes": world, "mixed_precision": mixed_precision}
        write_json(folder / "config.json", {"preset": stage.preset.to_dict(), "stage": asdict(config), "run": about})

    began, metrics = time.monotonic(), {}
    if run.step >= config.steps and accelerator.is_main_process:  # killed when nothing was left but this
        metrics = run.export(out)
    mine = range(rank, count, world)
    while run.step < config.steps:
        indices = draw_indices(stage.sampling_weights, config.batch_size, run.step, config.seed)
        parts = run.step_networks([indices[number::count] for number in mine], mine)
        accelerator.log(parts, step=run.step)
        report(run.step, config.steps, parts)

        finished = run.step == config.steps
        if time.monotonic() - began > 60 * max_minutes:
            accelerator.set_trigger()
        out_of_time = accelerator.check_trigger()  # the processes of a distributed run stop at the same step
        if run.step % config.checkpoint_every == 0 or finished or out_of_time:
            run.save()
        if (run.step % config.validate_every == 0 or finished or out_of_time) and accelerator.is_main_process:
            metrics = run.export(out)
            minutes = (time.monotonic() - began) / 60
            with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps({"step": run.step, "minutes": round(minutes, 1)} | parts | metrics) + "\n")
        if out_of_time:
            break
    accelerator.wait_for_everyone()  # whoever returns first may read what the main process exports
    accelerator.end_training()
    return metrics
