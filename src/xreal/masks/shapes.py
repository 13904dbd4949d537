"""Anatomies from the statistical shape model: sample new ones, edit a given one, and say what is usual."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from xreal.errors import InputError, MaskError
from xreal.masks.landmarks import FREE_BORDERS, LANDMARKS, draw_landmarks
from xreal.masks.organs import OrganMask, check_organ_mask
from xreal.masks.shape_checks import Drawn, faults, mask_measures, settle
from xreal.masks.shape_fitting import fit_shape_model, reach
from xreal.masks.shape_measures import MEASURES, measure
from xreal.masks.shape_model import ShapeModel, load_shape_model
from xreal.masks.warping import warp_organ_mask
from xreal.vocabulary import Organ

__all__ = ["edit_organ_mask", "move_along_mode", "plausible_ranges", "sample_organ_mask"]

Floats = npt.NDArray[np.float64]

TRUNCATION = 2.5
"""Largest score, in standard deviations, that a sample draws for a mode or the pose."""

_FARTHEST = 4.0  # standard deviations from the average chest beyond which wanted measures are refused
_DRAWS = 50  # before giving up
_SMALLEST = 32  # pixels a side, below which parts of a chest are a pixel wide
_STEEPEST = 45.0  # degrees of tilt
_SCALES = {"heart_scale": "heart_size", "lung_scale": "lung_size"}


def plausible_ranges(mask: OrganMask | None = None, model: ShapeModel | None = None) -> dict[str, tuple[float, float]]:
    """Say between which values the settings of ``sample_organ_mask`` and ``edit_organ_mask`` give usual chests.

    Args:
        mask: (H, W) labels to be edited; None for samples.
        model: the shape model; None is the one of the package.

    Returns:
        Setting to (lowest, highest): the 1st and 99th percentile of the masks that the model learnt from. Scales are
        relative to ``mask`` or else to the average chest; "tilt", in degrees, is by how much to turn ``mask``.
    """
    model = load_shape_model() if model is None else model
    usual = dict(zip(MEASURES, model.usual, strict=True))
    now = dict(zip(MEASURES, model.average, strict=True)) | {"tilt": 0.0} if mask is None else mask_measures(mask)
    ranges = {"ctr": usual["ctr"]}
    ranges |= {scale: usual[name] / now[name] for scale, name in _SCALES.items()}
    ranges["tilt"] = usual["tilt"] - now["tilt"]
    return {name: (float(low), float(high)) for name, (low, high) in ranges.items()}


def sample_organ_mask(
    seed: int,
    size: int = 256,
    *,
    ctr: float | None = None,
    heart_scale: float | None = None,
    lung_scale: float | None = None,
    tilt: float | None = None,
    model: ShapeModel | None = None,
) -> OrganMask:
    """Draw a chest at random, among all or among those with given measures.

    Scores are normal, cut off at ``TRUNCATION`` standard deviations, then conditioned on the measures. A draw with an
    implausible mask, lungs that touch, or an organ at the image's border is drawn again.

    Args:
        seed: of this mask; the same seed and settings give the same mask.
        size: pixels a side, 32 or more.
        ctr: cardiothoracic ratio, met within 0.01 or a pixel, whichever is more.
        heart_scale: the heart's size (square root of its area) relative to the average, met within 0.01 or a pixel.
        lung_scale: likewise the size of both lungs together.
        tilt: degrees by which the line through the lungs' centroids falls to the image's right.
        model: the shape model; None is the one of the package.

    Returns:
        (size, size) uint8 labels.

    Raises:
        InputError: a setting is not usable, or no chest near the model has these measures.
    """
    model = load_shape_model() if model is None else model
    _check_settings(size, ctr, heart_scale, lung_scale, tilt)
    given = {"ctr": ctr, "heart_scale": heart_scale, "lung_scale": lung_scale, "tilt": tilt}
    settings = {name: value for name, value in given.items() if value is not None}
    unit = dict(zip(MEASURES, model.average, strict=True))
    wanted = {_SCALES.get(name, name): value * unit.get(_SCALES.get(name, ""), 1) for name, value in settings.items()}
    _check_reachable(model, wanted, settings)
    generator = np.random.default_rng(seed)
    for _ in range(_DRAWS):
        scores = ndtri(generator.uniform(ndtr(-TRUNCATION), ndtr(TRUNCATION), model.n_scores))

        def draw(targets: Mapping[str, float], scores: Floats = scores) -> Drawn | None:
            found = reach(model, scores, targets)
            points = None if found is None else model.points(found)
            return None if points is None else (draw_landmarks(points, size), points)

        drawn = settle(draw, wanted)
        if drawn is not None and not faults(drawn):
            return drawn[0]
    raise InputError(
        f"None of {_DRAWS} chests with {_say(settings)} is plausible and inside the image. "
        f"Usual are {_say_ranges(plausible_ranges(model=model))}."
    )


def edit_organ_mask(
    mask: OrganMask,
    *,
    ctr: float | None = None,
    heart_scale: float = 1.0,
    lung_scale: float = 1.0,
    tilt: float = 0.0,
    model: ShapeModel | None = None,
) -> OrganMask:
    """Change measures of a given chest and keep all else of it.

    The model is fitted to the mask, its chest is changed as little as the new measures allow, and the mask is warped by
    the difference; so borders that the model cannot express stay. Changes of the heart hold the lungs' other borders in
    place, changes of the lungs hold the heart. The heart pushes the lungs' borders that touch it.

    Args:
        mask: (H, W) labels with both lungs and the heart; an aorta moves with them.
        ctr: the new cardiothoracic ratio, met within 0.01 or a pixel, whichever is more; None leaves it to the rest.
        heart_scale: factor of the heart's size (square root of its area), met within 0.01 or a pixel.
        lung_scale: likewise for both lungs together.
        tilt: degrees to turn the chest by about its centre, clockwise as seen.
        model: the shape model; None is the one of the package.

    Returns:
        (H, W) uint8 labels; a copy of ``mask``, bit for bit, if nothing is to change.

    Raises:
        InputError: a setting is not usable.
        MaskError: an organ is missing; or the edited organs would be implausible, torn, or cut by the image's border.
    """
    before = check_organ_mask(mask)
    _check_settings(max(before.shape), ctr, heart_scale, lung_scale, tilt)
    now = mask_measures(before)
    scaled = {name: s for name, s in (("heart_size", heart_scale), ("lung_size", lung_scale)) if s != 1}
    wanted = {name: now[name] * scale for name, scale in scaled.items()}
    if ctr is None and heart_scale != 1:  # wider and longer alike
        wanted["heart_width"] = now["heart_width"] * heart_scale
    if ctr is not None and (abs(ctr - now["ctr"]) > 1e-9 or scaled or tilt):
        wanted["ctr"] = ctr
    if not wanted and not tilt:
        return before
    model = load_shape_model() if model is None else model
    fit = fit_shape_model(before, model)
    held = _held(heart=bool({"ctr", "heart_size"} & wanted.keys()), lungs="lung_size" in wanted)
    cos, sin = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    turn = np.array([[cos, sin], [-sin, cos]])
    centre = fit.points.mean(axis=0)
    offset = {name: value - now[name] for name, value in measure(fit.points).items()}

    def draw(targets: Mapping[str, float]) -> Drawn | None:
        scores = reach(model, fit.scores, {name: targets[name] + offset[name] for name in targets}, held, turn)
        if scores is None:
            return None
        points = (model.points(scores) - centre) @ turn + centre
        return warp_organ_mask(before, fit.points, points), points

    drawn = settle(draw, wanted)
    wrong = ["The shape model has no such chest."] if drawn is None else faults(drawn, (before, fit.points))
    if drawn is None or wrong:
        given = {"ctr": ctr or now["ctr"], "heart_scale": heart_scale, "lung_scale": lung_scale, "tilt": tilt}
        usual = _say_ranges(plausible_ranges(before, model))
        raise MaskError(f"The edit to {_say(given)} failed: {' '.join(wrong)} Usual for this chest are {usual}.")
    return drawn[0]


def move_along_mode(mode: int, score: float, size: int = 256, model: ShapeModel | None = None) -> OrganMask:
    """Draw the average chest, moved along one mode of shape.

    Args:
        mode: 0 is the mode of largest variance.
        score: how far, in standard deviations; within ±3 chests are as seen in training.
        size: pixels a side, 32 or more.
        model: the shape model; None is the one of the package.

    Raises:
        InputError: the model has no such mode, or a setting is not usable.
    """
    model = load_shape_model() if model is None else model
    if not 0 <= mode < model.n_modes or not np.isfinite(score):
        raise InputError(
            f"mode is {mode}, score {score}; expected a mode from 0 to {model.n_modes - 1}, a finite score"
        )
    _check_size(size)
    scores = np.zeros(model.n_scores)
    scores[mode] = score
    return draw_landmarks(model.points(scores), size)


def _held(heart: bool, lungs: bool) -> npt.NDArray[np.intp] | None:
    """Return the landmarks that stay: the lungs' free borders if only the heart is changed, the heart if only they."""
    if heart and lungs:
        return None
    return FREE_BORDERS if heart else np.arange(LANDMARKS[Organ.HEART].start, LANDMARKS[Organ.HEART].stop)


def _check_size(size: int) -> None:
    if size < _SMALLEST:
        raise InputError(f"size is {size} pixels; expected {_SMALLEST} or more")


def _check_settings(
    size: int, ctr: float | None, heart_scale: float | None, lung_scale: float | None, tilt: float | None
) -> None:
    _check_size(size)
    if ctr is not None and not 0 < ctr < 1:
        raise InputError(f"ctr is {ctr}; expected a cardiothoracic ratio between 0 and 1, usually 0.35 to 0.65")
    for name, scale in (("heart_scale", heart_scale), ("lung_scale", lung_scale)):
        if scale is not None and not 0 < scale < np.inf:
            raise InputError(f"{name} is {scale}; expected a positive factor, 1 for no change")
    if tilt is not None and not -_STEEPEST <= tilt <= _STEEPEST:
        raise InputError(f"tilt is {tilt}; expected degrees from -{_STEEPEST:.0f} to {_STEEPEST:.0f}")


def _check_reachable(model: ShapeModel, wanted: Mapping[str, float], settings: Mapping[str, float]) -> None:
    """Refuse measures that no chest near the average has."""
    nearest = reach(model, np.zeros(model.n_scores), wanted)
    distance = np.inf if nearest is None else float(np.linalg.norm(nearest))
    if distance > _FARTHEST:
        far = (
            "the shape model has no such chest"
            if nearest is None
            else f"{distance:.1f} standard deviations from the average"
        )
        raise InputError(
            f"{_say(settings)}: {far}; up to {_FARTHEST:.0f} are drawn. "
            f"Usual are {_say_ranges(plausible_ranges(model=model))}."
        )


def _say(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items()) or "no settings"


def _say_ranges(ranges: Mapping[str, tuple[float, float]]) -> str:
    return ", ".join(f"{name} {low:.2f} to {high:.2f}" for name, (low, high) in ranges.items())
