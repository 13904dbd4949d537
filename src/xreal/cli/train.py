"""``xreal train``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["train"]

_WORKED_OUT = ("variation", "signal-leak", "film")  # at once, without steps
_PRECISIONS = ("auto", "no", "bf16", "fp16")


def train(
    stage: Annotated[
        str,
        typer.Argument(
            help="segmenter, autoencoder, backbone, anatomy, variation, adapter, joint, autoguidance, signal-leak, "
            "adversarial, decoder, detail, texture or film; baselines: concat or controlnet; judges: encoder or "
            "judge-segmenter."
        ),
    ],
    data: Annotated[list[Path], typer.Option(help="Prepared data set; may be given several times.")],
    out: Annotated[Path, typer.Option(help="Model folder; each stage adds its component.")],
    preset: Annotated[str, typer.Option(help="cxr-256, paper or tiny.")] = "cxr-256",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    steps: Annotated[int | None, typer.Option(min=1, help="Instead of the preset's; of `film`, the solver's.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Instead of the preset's.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Instead of the preset's.")] = None,
    copies: Annotated[
        int | None,
        typer.Option(min=0, help="Moved copies of each X-ray, encoded beside it, instead of the preset's."),
    ] = None,
    autoencoder: Annotated[str | None, typer.Option(help="Model with a vae/ to use instead of OUT's.")] = None,
    start: Annotated[str | None, typer.Option(help="Model whose weights training begins with.")] = None,
    weak: Annotated[
        str | None, typer.Option(help="autoguidance: weaker model, such as an earlier state of START.")
    ] = None,
    mixed_precision: Annotated[str, typer.Option(help="no, bf16, fp16, or auto.")] = "auto",
    micro_batch_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Images of the batch that are computed at once; the rest follows before the weights change."
        ),
    ] = None,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Keep fewer activations: less memory, more time.")
    ] = False,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the network first: minutes, which a GPU soon earns back.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would need: parameters, FLOPs, memory, epochs; run nothing.")
    ] = False,
    processes: Annotated[int, typer.Option(min=1, help="With --dry-run: how many would share the batch.")] = 1,
    max_minutes: Annotated[float, typer.Option(help="Stop with a checkpoint after this time.")] = float("inf"),
) -> None:
    """Train one network of the model."""
    from xreal.config import get_preset
    from xreal.errors import InputError

    _check(stage, learning_rate, mixed_precision, max_minutes)
    if stage in _WORKED_OUT and (dry_run or resume):
        raise InputError(f"{stage} is worked out from the data at once; it takes neither --dry-run nor --resume")
    changes = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "augmented_copies": copies}
    chosen = get_preset(preset)
    if stage == "variation":
        _learn_variation(data, out, chosen.variation_components)
        return
    if stage == "signal-leak":
        _learn_signal_leak(data, out)
        return
    if stage == "film":
        _learn_films(data, out, steps)
        return
    if stage in chosen.stages:
        chosen = chosen.with_stage(stage, **{key: value for key, value in changes.items() if value is not None})
    if dry_run:
        from xreal.training.forecast import forecast

        for line in forecast(stage, chosen, data, processes, micro_batch_size, recompute, mixed_precision).lines():
            typer.echo(line)
        return

    from xreal.models.folder import resolve_folder, write_index
    from xreal.training.loop import train as run
    from xreal.training.stages import build_stage

    typer.echo(f"{stage}: preparing what it learns from; where that is encoded or drawn first, it takes minutes")
    others = (None if model is None else resolve_folder(model) for model in (autoencoder, start, weak))
    built = build_stage(stage, chosen, data, out, *others)

    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(stage, total=None)

        def report(step: int, total: int, parts: dict[str, float]) -> None:
            shown = f"{stage}  " + "  ".join(f"{name} {value:.4f}" for name, value in parts.items())
            progress.update(task, total=total, completed=step, description=shown)
            if not progress.console.is_terminal and step % 50 == 0:  # a log file shows no bar
                progress.console.print(f"{step}/{total}  {shown}", soft_wrap=True)

        metrics = run(
            built,
            out,
            resume=resume,
            mixed_precision=mixed_precision,
            micro_batch_size=micro_batch_size,
            recompute=recompute,
            compiled=compiled,
            max_minutes=max_minutes,
            report=report,
        )
    typer.echo("  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    if write_index(out):
        typer.echo(f"{out} is a complete model: xreal generate --model {out} …")


def _check(stage: str, learning_rate: float | None, mixed_precision: str, max_minutes: float) -> None:
    from xreal.errors import InputError
    from xreal.training.stages import STAGES

    if stage not in (*STAGES, *_WORKED_OUT):
        raise InputError(f"unknown stage {stage!r}; expected one of {', '.join((*STAGES, *_WORKED_OUT))}")
    if learning_rate is not None and not 0 < learning_rate < float("inf"):  # NaN fails too
        raise InputError(f"--learning-rate is {learning_rate}; expected a number above 0")
    if mixed_precision not in _PRECISIONS:
        raise InputError(f"--mixed-precision is {mixed_precision!r}; expected one of {', '.join(_PRECISIONS)}")
    if not max_minutes > 0:
        raise InputError(f"--max-minutes is {max_minutes}; expected a number above 0")


def _learn_variation(data: list[Path], out: Path, components: int) -> None:
    from xreal.models.folder import write_index
    from xreal.training.variation import learn_variation

    with _bar("variation") as report:
        variation = learn_variation(data, out, components, report)
    variation.save_pretrained(out / "anatomy_variation")
    write_index(out)
    typer.echo(f"{out / 'anatomy_variation'}: {components} components")


def _learn_signal_leak(data: list[Path], out: Path) -> None:
    from xreal.models.folder import write_index
    from xreal.training.signal_leak import learn_signal_leak

    with _bar("signal-leak") as report:
        leak = learn_signal_leak(data, out, report)
    leak.save_pretrained(out / "signal_leak")
    write_index(out)
    typer.echo(f"{out / 'signal_leak'}: {len(leak.directions)} directions")


def _learn_films(data: list[Path], out: Path, steps: int | None) -> None:
    from xreal.training.film import learn_films

    with _bar("film") as report:
        texture, left = learn_films(data, out, report, steps=steps)
    texture.save_pretrained(out / "texture")
    typer.echo(
        f"{out / 'texture'}: bands of drawn X-rays are off by {left['mean']:.2f} dB at most, their scatter by "
        f"{left['scatter']:.2f} dB"
    )


@contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar, and give what it is told by: how many are done, of how many."""
    from rich.progress import Progress

    with Progress() as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
