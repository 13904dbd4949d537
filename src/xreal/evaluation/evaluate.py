"""The whole card, step by step: real images, requests, rows, axes, report."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from xreal.data.prepared import PreparedDataset
from xreal.errors import InputError
from xreal.evaluation.card import (
    FEWEST_FOR_FIDELITY,
    Axis,
    FidelityReference,
    anatomy_axis,
    diversity_axis,
    pathology_axes,
    privacy_axis,
    utility_axes,
)
from xreal.evaluation.cases import Cases, joined, read_cases
from xreal.evaluation.judges import JUDGES, Judges, extractors, load_judges
from xreal.evaluation.plots import plot_similarities, plot_spectra
from xreal.evaluation.privacy import nearest_training_images
from xreal.evaluation.readers import write_reader_pack
from xreal.evaluation.report import Picture, examples, pairs, write_report
from xreal.evaluation.rows import Track, ask, draw_row, like_real, reconstruct, shuffle_masks
from xreal.models.folder import resolve_folder, weights_hash
from xreal.pipeline import XRealPipeline

__all__ = ["AXES", "Options", "evaluate"]

AXES = ("fidelity", "anatomy", "pathology", "diversity", "privacy", "utility", "readers")

REAL, RECONSTRUCTED, REGIONAL = "real vs real", "reconstructed", "regional"
TWO_PASS, TEXT_ONLY, SHUFFLED = "two-pass", "without anatomy controller", "shuffled masks"
_DIVERSITY = (8, 4)  # organ masks, images of each
_READ = 30  # real and generated images each in the readers' pack
_MOST_REAL = 600  # real images that are judged; more only take longer


@dataclass(frozen=True)
class Options:
    """What to judge, against what.

    Attributes:
        real: prepared folders; the images of ``split`` are the reference.
        out: folder of the report; a report that was interrupted goes on in it.
        model: bundled model or model folder that draws; or None,
        generated: folder of pictures from anywhere.
        train: prepared folders whose ``train`` split the generator was trained on; default ``real``.
        judges: folder of the judges.
        n: images that the model draws, per row.
        two_pass_n: images of the row "two-pass", each of which takes several times as long.
        seed: of the first image.
        only: axes, some of ``AXES``.
        minutes: time limit of the axis "utility".
        split: of the real images.
        batch_size: images drawn side by side.
    """

    real: tuple[Path, ...]
    out: Path
    model: str | None = None
    generated: Path | None = None
    train: tuple[Path, ...] = ()
    judges: Path = JUDGES
    n: int = 200
    two_pass_n: int = 20
    seed: int = 0
    only: tuple[str, ...] = AXES[:5]
    minutes: float = 30.0
    split: str = "val"
    batch_size: int = 8


@dataclass
class _Row:
    """One row: its cases, and its images mixed as the real set is (with finding or without)."""

    cases: Cases
    mixed: np.ndarray
    drawn: bool = True


@dataclass
class _Card:
    """What the axes fill in."""

    rows: dict[str, dict[str, Axis]]
    findings: dict[str, dict[str, Axis]] = field(default_factory=dict)
    privacy: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    pictures: dict[str, list[Picture]] = field(default_factory=dict)
    plots: dict[str, bytes] = field(default_factory=dict)


def evaluate(options: Options, track: Track, say: Callable[[str], None]) -> dict[str, Any]:
    """Draw where a model is given, judge, and write ``index.html``, ``report.json`` and ``report.md``.

    Args:
        options: what to judge.
        track: shows progress over a sequence.
        say: tells the user what is about to be done.

    Returns:
        What ``report.json`` holds.

    Raises:
        InputError: contradicting options, too few images; DataError, ModelError: folders that cannot be used.
    """
    _check(options)
    judges = load_judges(options.judges)
    pipeline = None if options.model is None else XRealPipeline.from_pretrained(options.model)
    real = _real(options)
    half = len(real) // 2
    reference, others = real.take(range(half)), real.take(range(half, 2 * half))
    options.out.mkdir(parents=True, exist_ok=True)

    rows = {REAL: _Row(others, others.images, drawn=False)}
    if pipeline is not None:
        pipeline.set_progress_bar_config(disable=True)
        rows |= _model_rows(options, pipeline, others, reference, track, say)
    else:
        assert options.generated is not None
        given = read_cases(options.generated, real.images.shape[-1])
        rows[options.generated.name] = _Row(given, given.images)
    main = next(name for name, row in rows.items() if row.drawn)

    card = _Card({name: {} for name in rows})
    if "fidelity" in options.only:
        _fidelity(judges, pipeline, options, reference, rows, card, track)
    if "anatomy" in options.only:
        _anatomy(judges, rows, main, card)
    if "pathology" in options.only:
        for name, row in rows.items():
            axis, findings = pathology_axes(judges, row.cases)
            if axis:
                card.rows[name]["pathology"], card.findings[name] = axis, findings
    if "diversity" in options.only and pipeline is not None:
        card.rows[main]["diversity"] = _diversity(options, pipeline, others, track)
    if "privacy" in options.only:
        _privacy(options, real, rows, main, card, say)
    if "utility" in options.only:
        known = Cases.from_samples(PreparedDataset(options.train or options.real, "train"))
        card.rows[main] |= utility_axes(known, rows[main].cases, real, 60 * options.minutes)
    if "readers" in options.only and not (options.out / "readers-key.json").exists():
        count = min(len(others), len(rows[main].cases), _READ)
        shown = rows[main].cases.take(range(count))
        write_reader_pack(options.out / "readers", options.out / "readers-key.json", others.take(range(count)), shown)
        say(f"readers' pack: {options.out / 'readers'}; its key lies outside, in readers-key.json")
    card.pictures = examples(rows[main].cases, judges) | card.pictures

    about = _about(options, judges, len(real), rows)
    report = {
        "about": about,
        "rows": card.rows,
        "findings": card.findings,
        "privacy": card.privacy,
        "notes": card.notes,
    }
    write_report(options.out, report, card.pictures, card.plots)
    return report


def _check(options: Options) -> None:
    if (options.model is None) == (options.generated is None):
        raise InputError("give either a model that draws or a folder of generated images, and not both")
    if unknown := [axis for axis in options.only if axis not in AXES]:
        raise InputError(f"unknown axis {unknown[0]!r}; expected some of {', '.join(AXES)}")
    if options.n < 1 or options.two_pass_n < 0 or options.batch_size < 1 or options.seed < 0:
        raise InputError("expected --n and --batch-size ≥ 1, --two-pass-n and --seed ≥ 0")


def _real(options: Options) -> Cases:
    """Read the real images in an order that mixes the folders."""
    data = PreparedDataset(options.real, options.split)
    order = np.random.default_rng(0).permutation(len(data))[:_MOST_REAL]
    return Cases.from_samples(data[int(i)] for i in order)


def _model_rows(
    options: Options, pipeline: XRealPipeline, others: Cases, reference: Cases, track: Track, say: Callable[[str], None]
) -> dict[str, _Row]:
    """Ask the model for what ``others`` shows, then for the reference's masks; draw every row."""
    requests, owners = ask(joined(others, reference), options.n, options.seed)
    few = range(min(options.two_pass_n, options.n))
    plans: dict[str, tuple[Cases, bool, dict[str, Any]]] = {
        REGIONAL: (requests, True, {"mode": "regional"}),
        TWO_PASS: (requests.take(few), True, {"mode": "two-pass"}),
        TEXT_ONLY: (requests, False, {"mode": "regional"}),
    }
    say(_forecast(pipeline, requests, plans))
    about = {"weights": weights_hash(resolve_folder(str(options.model)))}
    rows = {RECONSTRUCTED: _Row(others, reconstruct(pipeline.vae, others.images), drawn=False)}
    for name, (wanted, use_masks, settings) in plans.items():
        if len(wanted) == 0:
            continue
        folder = options.out / "images" / name.replace(" ", "-")
        cases = draw_row(
            pipeline, wanted, folder, about, options.seed, track, use_masks, options.batch_size, **settings
        )
        rows[name] = _Row(cases, like_real(cases, owners.take(range(len(cases)))))
    return rows


def _forecast(pipeline: XRealPipeline, requests: Cases, plans: dict[str, tuple[Cases, bool, dict[str, Any]]]) -> str:
    """Time a few steps and say what the drawing will take."""
    mask = requests.organ_masks[0] if len(requests) else None

    def seconds(steps: int) -> float:
        began = time.perf_counter()
        pipeline(mask, [], [0], steps=steps)
        return time.perf_counter() - began

    seconds(2)
    few, many = seconds(2), seconds(6)
    step, fixed = max(0.0, (many - few) / 4), few
    evaluations = {REGIONAL: 30 * 3, TWO_PASS: 100 * 3, TEXT_ONLY: 30 * 3}  # network calls: X-ray, prompt and twin
    total = sum(len(wanted) * (evaluations[name] * step + fixed) for name, (wanted, _, _) in plans.items())
    counts = ", ".join(f"{len(wanted)} {name}" for name, (wanted, _, _) in plans.items() if len(wanted))
    return f"drawing {counts}: at most about {max(1, round(total / 60))} minutes; finished images are kept"


def _fidelity(
    judges: Judges,
    pipeline: XRealPipeline | None,
    options: Options,
    reference: Cases,
    rows: dict[str, _Row],
    card: _Card,
    track: Track,
) -> None:
    autoencoder, weights = (
        (None, "") if pipeline is None else (pipeline.vae, weights_hash(resolve_folder(str(options.model))))
    )
    against = FidelityReference(reference.images, extractors(judges, autoencoder, weights), options.seed)
    enough = [name for name, row in rows.items() if len(row.mixed) >= FEWEST_FOR_FIDELITY]
    for name in rows.keys() - set(enough):
        few = (
            f"fidelity of {name}: {len(rows[name].mixed)} images are too few, at least {FEWEST_FOR_FIDELITY} are needed"
        )
        card.notes.append(few)
    common = min([len(reference), *(len(rows[name].mixed) for name in enough)])  # distances depend on n
    for i in track(range(len(enough)), "fidelity"):
        card.rows[enough[i]] |= against.compare(rows[enough[i]].mixed[:common])
    card.plots["power spectrum"] = plot_spectra(
        {"reference": reference.images} | {name: rows[name].mixed for name in enough}
    )


def _anatomy(judges: Judges, rows: dict[str, _Row], main: str, card: _Card) -> None:
    for name, row in rows.items():
        if axis := anatomy_axis(judges, replace(row.cases, images=row.mixed)):
            card.rows[name]["anatomy"] = axis
    if "anatomy" in card.rows[main]:
        shuffled = shuffle_masks(replace(rows[main].cases, images=rows[main].mixed))
        card.rows[SHUFFLED] = {"anatomy": anatomy_axis(judges, shuffled)}
    else:
        card.notes.append(f"anatomy of {main}: no requested organ masks (NAME-organs.png) beside the images")


def _diversity(options: Options, pipeline: XRealPipeline, others: Cases, track: Track) -> Axis:
    masks, repeats = _DIVERSITY
    requests, _ = ask(others, min(masks, options.n), options.seed)
    repeated = requests.take([i for i in range(len(requests)) for _ in range(repeats)])
    repeated = replace(repeated, image_ids=tuple(f"{i:04d}" for i in range(len(repeated))))
    about = {"weights": weights_hash(resolve_folder(str(options.model)))}
    folder = options.out / "images/diversity"
    drawn = draw_row(pipeline, repeated, folder, about, options.seed, track, batch_size=options.batch_size)
    return diversity_axis(drawn.healthy, [i // repeats for i in range(len(drawn))], others.images)


def _privacy(
    options: Options, real: Cases, rows: dict[str, _Row], main: str, card: _Card, say: Callable[[str], None]
) -> None:
    data = PreparedDataset(options.train or options.real, "train")
    say(f"comparing with {len(data)} training images")
    train = np.stack([sample.image for sample in data]).astype(np.float32) / 255
    known = {hashlib.sha256(image.tobytes()).digest() for image in train}
    if same := sum(hashlib.sha256(image.tobytes()).digest() in known for image in real.images):
        card.notes.append(f"{same} of {len(real)} reference images are training images, byte for byte")
    held_out = nearest_training_images(real.images, train)
    similarities = {"held-out real images": held_out.similarity}
    for name, row in rows.items():
        if row.drawn:
            nearest = nearest_training_images(row.mixed, train)
            card.rows[name]["privacy"], card.privacy[name] = privacy_axis(nearest, held_out)
            similarities[name] = nearest.similarity
            if name == main:
                card.pictures["nearest training images, most similar first"] = pairs(row.mixed, train, nearest)
    card.plots["nearest training image"] = plot_similarities(similarities, card.privacy[main]["threshold"])


def _about(options: Options, judges: Judges, real: int, rows: dict[str, _Row]) -> dict[str, Any]:
    about: dict[str, Any] = {
        "judged": options.model or str(options.generated),
        "weights": weights_hash(resolve_folder(options.model)) if options.model else "unknown",
        "reference": f"{real // 2} of {real} real images ({options.split})",
        "seed": options.seed,
    }
    about |= {f"judge: {name}": weights for name, weights in judges.hashes.items()}
    return about | {f"images: {name}": len(row.mixed) for name, row in rows.items()}
