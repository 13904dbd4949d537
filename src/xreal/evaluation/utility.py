"""Is synthetic data of use? Train small networks with and without it, test them on real X-rays only.

All arms of a comparison get the same network, the same number of optimisation steps and the same seeds, so that only
their training images differ. The number of steps is what fits into the time that the user gives.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from xreal.errors import InputError
from xreal.evaluation.cases import Cases
from xreal.evaluation.utility_tasks import BATCH, FEWEST_TEST, FEWEST_TRAIN, Classify, Pool, Segment, Task
from xreal.vocabulary import Finding

__all__ = ["Utility", "classifier_utility", "forecast_utility", "segmenter_utility"]

REAL, SYNTHETIC, SYNTHETIC_THEN_REAL = "real only", "synthetic only", "synthetic then real"

_LEARNING_RATE = 2e-3
_FEWEST_STEPS, _MOST_STEPS = 200, 2000  # below, seeds decide what is learnt; above, so small networks learn no more
_TIMED_STEPS = 3
_RESERVE = 0.85  # share of the time that is planned for, as other programs may slow the steps down
_FEWEST_SEEDS = 3
_RUNS = 12  # of one task: four arms, three seeds
_MARGIN = 1.25  # of the time that is asked for: the same machine is slower at other times


@dataclass(frozen=True)
class Utility:
    """Scores of every arm on the same real test images.

    Attributes:
        scores: metric ("AUROC", or "dice ORGAN") -> arm -> one score per seed. Arms: "real only", "synthetic only",
            "synthetic then real", and "real + K × synthetic" for each ratio.
        differences: the same for every arm but "real only": its score minus that of "real only" with the same seed.
        seeds: in the order of the scores.
        steps: optimisation steps of every run.
        train_count: arm -> number of training images.
        test_count: number of test images.
    """

    scores: dict[str, dict[str, list[float]]]
    differences: dict[str, dict[str, list[float]]]
    seeds: tuple[int, ...]
    steps: int
    train_count: dict[str, int]
    test_count: int


def classifier_utility(
    finding: Finding,
    real: Cases,
    synthetic: Cases,
    test: Cases,
    seconds: float,
    seeds: Sequence[int] = (0, 1, 2),
    ratios: Sequence[int] = (1,),
    few_shot: int | None = None,
    image_size: int = 128,
) -> Utility:
    """Train classifiers of one finding (``Classify``) and measure AUROC.

    Args:
        finding: what is told apart from everything else.
        real: training images.
        synthetic: training images; ``findings`` are what was asked for.
        test: real images of patients whom neither the generator nor ``real`` has seen.
        seconds: time limit for all runs together.
        seeds: one run of every arm for each; at least 3.
        ratios: K of the arms "real + K × synthetic", which add K times as many synthetic images as there are real ones.
        few_shot: train on so many random real images only, others for each seed; None for all.
        image_size: pixels a side that images are brought to.

    Raises:
        InputError: too few seeds or images, ratios that need more synthetic images than there are, or a limit that is
            too short; the message says the minimum.
    """
    return _compare(Classify(finding, image_size), real, synthetic, test, seconds, seeds, ratios, few_shot)


def segmenter_utility(
    real: Cases,
    synthetic: Cases,
    test: Cases,
    seconds: float,
    seeds: Sequence[int] = (0, 1, 2),
    ratios: Sequence[int] = (1,),
    few_shot: int | None = None,
    image_size: int = 128,
) -> Utility:
    """Train segmenters of lungs and heart (``Segment``) and measure Dice of each organ.

    A synthetic image's organ mask is the requested one. Arguments and errors: :func:`classifier_utility`.
    """
    return _compare(Segment(image_size), real, synthetic, test, seconds, seeds, ratios, few_shot)


def _compare(
    task: Task,
    real: Cases,
    synthetic: Cases,
    test: Cases,
    seconds: float,
    seeds: Sequence[int],
    ratios: Sequence[int],
    few_shot: int | None,
) -> Utility:
    started = time.monotonic()
    if len(set(seeds)) < _FEWEST_SEEDS:
        raise InputError(f"seeds are {list(seeds)}; expected at least {_FEWEST_SEEDS} different ones")
    real_pool, synthetic_pool = (
        task.pool(cases, name, FEWEST_TRAIN) for cases, name in ((real, "real"), (synthetic, "synthetic"))
    )
    test_pool = task.pool(test, "test", FEWEST_TEST)
    real_count = len(real_pool) if few_shot is None else few_shot
    fewest = FEWEST_TRAIN * len(real_pool.strata.unique())
    if not fewest <= real_count <= len(real_pool):
        raise InputError(f"few_shot is {few_shot}; expected {fewest} to {len(real_pool)} real images")
    if any(ratio < 1 or ratio * real_count > len(synthetic_pool) for ratio in ratios):
        raise InputError(
            f"ratios are {list(ratios)} for {real_count} real images; expected whole numbers from 1 to "
            f"{len(synthetic_pool) // real_count}, as there are {len(synthetic_pool)} synthetic ones. Give more or "
            "use few_shot."
        )
    arms = [_arms(real_pool, synthetic_pool, real_count, ratios, seed) for seed in seeds]
    left = _RESERVE * (seconds - (time.monotonic() - started))
    steps = _steps_within(left, len(seeds) * len(arms[0]), task, real_pool, test_pool)
    scores: dict[str, dict[str, list[float]]] = {}
    for seed, phases_of in zip(seeds, arms, strict=True):
        for arm, phases in phases_of.items():
            for metric, score in task.scores(_trained(task, phases, steps, seed), test_pool).items():
                scores.setdefault(metric, {}).setdefault(arm, []).append(score)
    return Utility(
        scores=scores,
        differences={metric: _differences(by_arm) for metric, by_arm in scores.items()},
        seeds=tuple(seeds),
        steps=steps,
        train_count={arm: sum(map(len, phases)) for arm, phases in arms[0].items()},
        test_count=len(test_pool),
    )


def _arms(real: Pool, synthetic: Pool, count: int, ratios: Sequence[int], seed: int) -> dict[str, Sequence[Pool]]:
    """Name the arms; each trains on its pools one after the other."""
    generator = torch.Generator().manual_seed(seed)
    some_real = real.sample(count, generator)
    arms: dict[str, Sequence[Pool]] = {
        REAL: (some_real,),
        SYNTHETIC: (synthetic,),
        SYNTHETIC_THEN_REAL: (synthetic, some_real),
    }
    for ratio in ratios:
        arms[f"real + {ratio} × synthetic"] = (some_real.joined(synthetic.sample(ratio * count, generator)),)
    return arms


def _differences(by_arm: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    return {
        arm: [score - base for score, base in zip(scores, by_arm[REAL], strict=True)]
        for arm, scores in by_arm.items()
        if arm != REAL
    }


def _steps_within(seconds: float, runs: int, task: Task, train: Pool, test: Pool) -> int:
    """Measure a step and a test, and share the time out evenly."""
    started = time.monotonic()
    per_step, network = _seconds_per_step(task, train)
    before = time.monotonic()
    task.scores(network, test)
    per_test = time.monotonic() - before
    spent = time.monotonic() - started
    steps = int(((seconds - spent) / runs - per_test) / per_step)
    if steps < _FEWEST_STEPS:
        needed = (runs * (_FEWEST_STEPS * per_step + per_test) + spent) / _RESERVE
        raise InputError(
            f"the time limit leaves {max(steps, 0)} steps for each of {runs} runs; expected at least {_FEWEST_STEPS}. "
            f"Give about {needed:.0f} seconds more than the images take to load, or fewer arms."
        )
    return min(steps, _MOST_STEPS)


def _seconds_per_step(task: Task, train: Pool) -> tuple[float, nn.Module]:
    """Time a few steps; the network that took them comes too."""
    _trained(task, (train,), 1, seed=0)  # warms up
    before = time.monotonic()
    network = _trained(task, (train,), _TIMED_STEPS, seed=0)
    return (time.monotonic() - before) / _TIMED_STEPS, network


def forecast_utility(seconds: float, test_count: int, image_size: int = 128) -> str:
    """Say, before anything is drawn or loaded, how far the networks will be trained in the time given for both tasks.

    Args:
        seconds: time limit, half of it for each task.
        test_count: real images that every network is tested on.
        image_size: as given to the tasks.

    Returns:
        A sentence with the steps of each task.

    Raises:
        InputError: the time does not suffice; the message says how much would.
    """
    steps, needed = {}, 0.0
    for name, task in (("segmenter", Segment(image_size)), ("classifier", Classify(Finding.PNEUMONIA, image_size))):
        per_step, _ = _seconds_per_step(task, task.blank())
        per_test = test_count / BATCH * per_step / 3  # a step is a pass forwards and two that cost as much backwards
        steps[name] = min(_MOST_STEPS, max(0, int((_RESERVE * seconds / 2 / _RUNS - per_test) / per_step)))
        needed = max(needed, 2 * _RUNS * (_FEWEST_STEPS * per_step + per_test) / _RESERVE)
    taken = " and ".join(f"{count} steps for each of {_RUNS} {name}s" for name, count in steps.items())
    if min(steps.values()) < _FEWEST_STEPS:
        raise InputError(
            f"utility: {seconds / 60:g} minutes are enough for {taken}; at least {_FEWEST_STEPS} steps are needed. "
            f"Give --minutes {math.ceil(needed * _MARGIN / 60)} or more, or leave the axis out"
        )
    return f"utility: up to {seconds / 60:g} minutes, about {taken}"


def _trained(task: Task, phases: Sequence[Pool], steps: int, seed: int) -> nn.Module:
    """Train a new network; arms of one seed start from the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = task.build()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=_LEARNING_RATE, total_steps=steps + 1, pct_start=0.15
    )
    for step in range(steps):
        images, targets = task.batch(phases[step * len(phases) // steps], generator)
        loss = task.loss(network(images), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval().requires_grad_(False)
