"""Fit the shape model to an organ mask, and find the chest nearest to another that has wanted measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from xreal.masks.landmarks import LANDMARKS, Points, draw_landmarks, find_landmarks
from xreal.masks.organs import OrganMask, dice_per_organ
from xreal.masks.shape_measures import measure, slopes
from xreal.masks.shape_model import ShapeModel

__all__ = ["Fit", "fit_shape_model", "reach"]

Floats = npt.NDArray[np.float64]

_FINER = 4  # points of the target's outline per landmark
_ROUNDS = 8
_HELD = 0.002  # units of the side, half a pixel of 256: how far held landmarks move for one standard deviation


@dataclass(frozen=True)
class Fit:
    """The chest of the shape model that comes nearest to a mask.

    Attributes:
        scores: (n_scores,) of the shape model, in standard deviations.
        points: (N_LANDMARKS, 2) landmarks of that chest, in units of the image's larger side.
        dice: ``Organ.title`` to the Dice coefficient in [0, 1] of the fit with the mask.
    """

    scores: Floats
    points: Points
    dice: dict[str, float]


def fit_shape_model(mask: OrganMask, model: ShapeModel) -> Fit:
    """Fit by maximum a posteriori: near to the mask's outlines, and a likely chest.

    The first round takes the landmarks as they were found; later ones pull each point to the nearest place of the
    organ's outline, so that landmarks may slide along it.

    Args:
        mask: (H, W) labels with both lungs and the heart.
        model: the shape model.

    Raises:
        MaskError: as ``find_landmarks``.
    """
    target = find_landmarks(mask)
    outlines = {organ: _finely(target[where]) for organ, where in LANDMARKS.items()}
    trees = {organ: cKDTree(outline) for organ, outline in outlines.items()}
    scores = np.zeros(model.n_scores)
    precision = 1 / float(model.residual[0]) ** 2
    wanted = target
    for turn in range(_ROUNDS):
        points = model.points(scores)
        if turn > 2:
            wanted = np.concatenate(
                [outlines[organ][trees[organ].query(points[where])[1]] for organ, where in LANDMARKS.items()]
            )
        jacobian = model.jacobian(scores).reshape(-1, model.n_scores)
        pull = precision * jacobian.T @ (wanted - points).ravel() - scores
        scores = scores + np.linalg.solve(precision * jacobian.T @ jacobian + np.eye(model.n_scores), pull)
    points = model.points(scores)
    side = max(mask.shape)
    drawn = draw_landmarks(points, side)[: mask.shape[0], : mask.shape[1]]
    return Fit(scores, points, {k: v for k, v in dice_per_organ(mask, drawn).items() if k != "aorta"})


def _finely(outline: Points) -> Points:
    at = np.arange(_FINER * len(outline)) / _FINER
    return np.stack(
        [np.interp(at, np.arange(len(outline) + 1), np.append(axis, axis[0])) for axis in outline.T], axis=1
    )


def reach(
    model: ShapeModel,
    scores: Floats,
    wanted: Mapping[str, float],
    held: npt.NDArray[np.intp] | None = None,
    turn: Floats | None = None,
) -> Floats | None:
    """Change scores as little as possible, in standard deviations, until the measures are the wanted ones.

    For a Gaussian model this is conditioning: a random chest becomes a random one among those with these measures.

    Args:
        model: the shape model.
        scores: (n_scores,) to start from.
        wanted: some of ``MEASURES`` and their values.
        held: indices of landmarks that should stay where they are.
        turn: (2, 2), by which points are multiplied from the right before they are measured.

    Returns:
        (n_scores,), or None where no chest of the model has such measures.
    """
    names = tuple(wanted)
    if not names:
        return scores
    turn = np.eye(2) if turn is None else turn
    cost = np.eye(model.n_scores)
    if held is not None:
        moved = model.jacobian(scores)[held].reshape(-1, model.n_scores)
        cost = cost + moved.T @ moved / _HELD**2
    for _ in range(30):
        points = model.points(scores) @ turn
        now = measure(points)
        missing = np.array([wanted[name] - now[name] for name in names])
        if np.abs(missing).max() < 1e-6:
            return scores
        jacobian = np.einsum("pik,ij->pjk", model.jacobian(scores), turn)
        gradient = np.array([np.tensordot(slopes(points, name), jacobian, 2) for name in names])
        way = np.linalg.solve(cost, gradient.T)
        step = way @ np.linalg.solve(gradient @ way, missing)
        scores = scores + step * min(1.0, 2.0 / max(float(np.linalg.norm(step)), 1e-12))
        if not np.isfinite(scores).all() or np.linalg.norm(scores) > 100:
            return None
    return None
