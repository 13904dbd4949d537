"""The whole card, step by step: real images, requests, rows, axes, report."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from xreal.data.contract import Sample
from xreal.data.prepared import PreparedDataset
from xreal.errors import DataError, InputError
from xreal.evaluation.card import (
    FEWEST_FOR_FIDELITY,
    Axis,
    FidelityReference,
    ManyReference,
    anatomy_axis,
    diversity_axis,
    edits_axis,
    finding_fidelity,
    pathology_axes,
    places_axis,
    privacy_axis,
    utility_axes,
)
from xreal.evaluation.cases import Cases, joined, read_cases
from xreal.evaluation.edits import judge_edits
from xreal.evaluation.judges import EncoderFeatures, Judges, extractors, load_judges
from xreal.evaluation.options import Options, check_options
from xreal.evaluation.places import learn_places
from xreal.evaluation.plots import plot_similarities, plot_spectra
from xreal.evaluation.privacy import FEWEST_HELD_OUT, TrainingImages, nearest_training_images, thumbnails
from xreal.evaluation.report import Picture, edited_pairs, examples, pairs, write_report
from xreal.evaluation.rows import (
    REAL,
    RECONSTRUCTED,
    REGIONAL,
    SHUFFLED,
    Row,
    Track,
    as_stored,
    ask,
    draw_row,
    like_real,
    model_rows,
    reconstruct,
    redraw,
    shuffle_masks,
    with_lungs,
    with_twins,
)
from xreal.evaluation.telling import FEWEST_TO_LEARN
from xreal.evaluation.utility import forecast_utility
from xreal.models.folder import resolve_folder, weights_hash
from xreal.pipeline import XRealPipeline
from xreal.vocabulary import Finding

__all__ = ["evaluate"]

_DIVERSITY = (8, 4)  # organ masks, images of each
_MOST_REAL = 600  # real images that are judged; more only take longer
_MOST_TRAINING = 2000  # real images that networks of the axis utility may learn from; they take 0.8 MB each
_LEARNT_FROM = 700  # training X-rays, and as many drawn, that the axis "network" learns from
_OTHER_SEEDS = 1_000_000  # from here on: nothing that is judged is also learnt from
_PART = 256  # training images that are looked at together for copies


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
    check_options(options)
    judges = load_judges(options.judges)
    pipeline = None if options.model is None else XRealPipeline.from_pretrained(options.model, options.backend, "auto")
    real = _real(options)
    if "utility" in options.only:
        say(forecast_utility(60 * options.minutes, len(real)))
    half = len(real) // 2
    halves = real.take(range(half)), real.take(range(half, 2 * half))
    reference, others = halves[::-1] if options.swap_halves else halves
    options.out.mkdir(parents=True, exist_ok=True)

    rows = {REAL: Row(others, others.images, drawn=False)}
    if pipeline is not None:
        pipeline.set_progress_bar_config(disable=True)
        if options.only != ("edits",):  # which need none of them
            rows |= model_rows(options, pipeline, others, reference, track, say)
    else:
        assert options.generated is not None
        given = read_cases(options.generated, real.images.shape[-1])
        rows[options.generated.resolve().name] = Row(given, given.images)
    main = next((name for name, row in rows.items() if row.drawn), REGIONAL)

    card = _Card({name: {} for name in [*rows, main]})
    if main in rows and (same := len(_hashes(rows[main].mixed) & _hashes(real.images))):
        card.notes.append(f"{same} of the images judged are real images of the reference, pixel for pixel")
    if "fidelity" in options.only:
        _fidelity(judges, pipeline, options, reference, rows, card, track)
        _finding_fidelity(judges, options, reference, others, rows, card)
    if "anatomy" in options.only:
        _anatomy(judges, rows, main, card)
    if "pathology" in options.only:
        _pathology(judges, options, rows, card)
    if "diversity" in options.only and pipeline is not None:
        card.rows[main]["diversity"] = _diversity(options, pipeline, others, track)
    if "privacy" in options.only:
        _privacy(options, real, rows, main, card, say)
    if "edits" in options.only and pipeline is not None:
        _edits(options, pipeline, judges, main, card, track)
    if "network" in options.only and pipeline is not None:
        _network(options, pipeline, reference, rows, card, track)
    if "utility" in options.only:
        axes, notes = _utility(options, pipeline, real, rows[main], track)
        card.rows[main] |= axes
        card.notes += notes
    if main in rows:
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


def _real(options: Options) -> Cases:
    """Read the real images in an order that mixes the folders."""
    return Cases.from_samples(_random_part(PreparedDataset(options.real, options.split), _MOST_REAL))


def _random_part(data: PreparedDataset, most: int) -> Sequence[Sample]:
    return data.take(np.random.default_rng(0).permutation(len(data))[:most].tolist())


def _fidelity(
    judges: Judges,
    pipeline: XRealPipeline | None,
    options: Options,
    reference: Cases,
    rows: dict[str, Row],
    card: _Card,
    track: Track,
) -> None:
    if len(reference) < FEWEST_FOR_FIDELITY:
        card.notes.append(
            f"fidelity: half of the real images, {len(reference)}, are too few to compare with; "
            f"at least {2 * FEWEST_FOR_FIDELITY} real images are needed"
        )
        return
    autoencoder, weights = (
        (None, "") if pipeline is None else (pipeline.vae, weights_hash(resolve_folder(str(options.model))))
    )
    against = FidelityReference(reference.images, extractors(judges, autoencoder, weights), options.seed)
    enough = [name for name, row in rows.items() if len(row.mixed) >= FEWEST_FOR_FIDELITY]
    for name in (name for name in rows if name not in enough):
        count = len(rows[name].mixed)
        card.notes.append(f"fidelity of {name}: {count} images are too few, at least {FEWEST_FOR_FIDELITY} are needed")
    common = min([len(reference), *(len(rows[name].mixed) for name in enough)])  # distances depend on n
    for i in track(range(len(enough)), "fidelity"):
        card.rows[enough[i]] |= against.compare(rows[enough[i]].mixed[:common])
    card.plots["power spectrum"] = plot_spectra(
        {"reference": reference.images} | {name: rows[name].mixed for name in enough}
    )


def _finding_fidelity(
    judges: Judges, options: Options, reference: Cases, others: Cases, rows: dict[str, Row], card: _Card
) -> None:
    """Compare what was asked to have a finding with all real images that have it; real images with the other half."""
    for name, row in rows.items():
        if row.drawn:
            axes, notes = finding_fidelity(judges, joined(reference, others), row.cases, options.seed)
            card.notes += [f"fidelity of {name}, {note}" for note in notes]
        else:
            axes, _ = finding_fidelity(judges, reference, replace(row.cases, images=row.mixed), options.seed)
        if axes:
            card.findings[name] = axes


def _anatomy(judges: Judges, rows: dict[str, Row], main: str, card: _Card) -> None:
    for name, row in rows.items():
        if axis := anatomy_axis(judges, replace(row.cases, images=row.mixed)):
            card.rows[name]["anatomy"] = axis
    if "anatomy" in card.rows[main]:
        shuffled = shuffle_masks(replace(rows[main].cases, images=rows[main].mixed))
        card.rows[SHUFFLED] = {"anatomy": anatomy_axis(judges, shuffled)}
    else:
        card.notes.append(f"anatomy of {main}: no requested organ masks (NAME-organs.png) beside the images")


def _pathology(judges: Judges, options: Options, rows: dict[str, Row], card: _Card) -> None:
    places = None
    try:
        data = PreparedDataset(options.train or options.real, "train")
        places = learn_places(EncoderFeatures(judges.encoder, judges.hashes["encoder"]), data, options.seed)
    except DataError as error:
        card.notes.append(f"pathology in its place: {error}")
    else:
        if axis := places_axis(places, PreparedDataset(options.real, options.split)):
            card.rows[REAL]["pathology"] = axis
    for name, row in rows.items():
        axis, findings = pathology_axes(judges, row.cases, places)
        if axis:
            card.rows[name]["pathology"] = axis
            for finding, numbers in findings.items():
                card.findings.setdefault(name, {}).setdefault(finding, {}).update(numbers)
        elif row.drawn:
            card.notes.append(f"pathology of {name}: no lesions (NAME-lesion.png) with twins (NAME-healthy.png)")


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
    options: Options, real: Cases, rows: dict[str, Row], main: str, card: _Card, say: Callable[[str], None]
) -> None:
    if len(real) < FEWEST_HELD_OUT:
        card.notes.append(
            f"privacy: {len(real)} held-out real images cannot tell 1% false alarms; give at least {FEWEST_HELD_OUT}"
        )
        return
    data = PreparedDataset(options.train or options.real, "train")
    if not len(data):
        raise DataError("privacy: the training data have no X-ray in `train`; give others as --train")
    say(f"comparing with {len(data)} training images")
    train, hashes = _searchable(data)
    if same := len(hashes & _hashes(real.images)):
        card.notes.append(f"{same} of {len(real)} reference images are training images, pixel for pixel")
    held_out = nearest_training_images(real.images, train)
    similarities = {"held-out real images": held_out.similarity}
    for name, row in rows.items():
        if row.drawn:
            nearest = nearest_training_images(row.mixed, train)
            card.rows[name]["privacy"], card.privacy[name] = privacy_axis(nearest, held_out)
            similarities[name] = nearest.similarity
            if name == main:
                card.pictures["nearest training images, most similar first"] = pairs(row.mixed, train.read, nearest)
    card.plots["nearest training image"] = plot_similarities(similarities, card.privacy[main]["threshold"])


def _searchable(data: PreparedDataset) -> tuple[TrainingImages, set[bytes]]:
    """Make what the search for copies first looks at, and the hash of every image; no more of them stays in memory."""

    def read(indices: Sequence[int] | np.ndarray) -> np.ndarray:
        pictures: np.ndarray = np.stack([data[int(index)].image for index in indices]).astype(np.float32) / 255
        return pictures

    small, hashes = [], set[bytes]()
    for start in range(0, len(data), _PART):
        part = read(range(start, min(start + _PART, len(data))))
        small.append(thumbnails(part))
        hashes |= _hashes(part)
    return TrainingImages(np.concatenate(small), read, min(part.shape[1:])), hashes


def _edits(options: Options, pipeline: XRealPipeline, judges: Judges, name: str, card: _Card, track: Track) -> None:
    data = PreparedDataset(options.real, options.split)
    edits, notes = judge_edits(pipeline, judges, data, options.edit_n, track)
    card.notes += notes
    for kind, some in edits.items():
        card.rows[name][f"edits: {kind}"] = edits_axis(some)
    card.pictures["edits of real X-rays"] = edited_pairs(edits)


def _network(
    options: Options, pipeline: XRealPipeline, reference: Cases, rows: dict[str, Row], card: _Card, track: Track
) -> None:
    """Ask for what training X-rays show, and let networks learn to tell these, and their reconstructions, from them."""
    known = Cases.from_samples(_random_part(PreparedDataset(options.train or options.real, "train"), _MOST_TRAINING))
    usable = with_lungs(known)
    count = min(_LEARNT_FROM, len(usable))
    if count < FEWEST_TO_LEARN:
        card.notes.append(
            f"network: {count} X-rays of `train` have a mask of both lungs; at least {FEWEST_TO_LEARN} are needed"
        )
        return
    requests, owners = ask(known, count, options.seed)
    about = {"weights": weights_hash(resolve_folder(str(options.model)))}
    folder, seed = options.out / "images/network", options.seed + _OTHER_SEEDS
    drawn = draw_row(pipeline, requests, folder, about, seed, track, batch_size=options.batch_size)
    learnt = {
        RECONSTRUCTED: as_stored(reconstruct(pipeline, owners.images), owners),
        REGIONAL: as_stored(like_real(drawn, owners), owners),
    }
    if len(rest := known.images[usable[count : 2 * count]]) >= FEWEST_TO_LEARN:
        learnt = {REAL: rest} | learnt
    against, names = ManyReference(owners.images, reference.images, options.seed), list(learnt)
    for i in track(range(len(names)), "told by who has seen many"):
        card.rows[names[i]] |= against.compare(learnt[names[i]], rows[names[i]].mixed, names[i] != REAL)


def _utility(
    options: Options, pipeline: XRealPipeline | None, real: Cases, row: Row, track: Track
) -> tuple[dict[str, Axis], list[str]]:
    """Test on real images whose masks were not asked for, as what was drawn from these masks has seen them."""
    lent = set() if row.mask_owners is None else _hashes(row.mask_owners)
    test = real.take([i for i in range(len(real)) if not _hashes(real.images[i : i + 1]) & lent])
    known = Cases.from_samples(_random_part(PreparedDataset(options.train or options.real, "train"), _MOST_TRAINING))
    masked = labelled = with_twins(row.cases)
    notes = []
    if pipeline is not None:
        try:
            labelled = redraw(options, pipeline, known, Finding.PNEUMONIA, track)
        except InputError as error:  # these data do not have it; a segmenter can still be taught
            notes.append(f"utility: {error}")
    axes, others = utility_axes(known, masked, labelled, test, 60 * options.minutes)
    return axes, notes + others


def _hashes(images: np.ndarray) -> set[bytes]:
    """Return a hash per image, of its pixels in 8 bits."""
    return {hashlib.sha256(np.rint(image * 255).astype(np.uint8).tobytes()).digest() for image in images}


def _about(options: Options, judges: Judges, real: int, rows: dict[str, Row]) -> dict[str, Any]:
    about: dict[str, Any] = {
        "judged": options.model or str(options.generated),
        "weights": weights_hash(resolve_folder(options.model)) if options.model else "unknown",
        "reference": f"{real // 2} of {real} real images ({options.split}{', halves swapped' * options.swap_halves})",
        "seed": options.seed,
    }
    about |= {f"judge: {name}": weights for name, weights in judges.hashes.items()}
    return about | {f"images: {name}": len(row.mixed) for name, row in rows.items()}
