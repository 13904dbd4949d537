"""A statistical shape model of the chest: a point distribution model of the landmarks of lungs and heart.

After Cootes, Taylor, Cooper & Graham, Active shape models: their training and application, CVIU 61 (1995). Shapes are
aligned by generalised Procrustes analysis; the principal components of what is left are the modes. Where the chest lies
in the image, its size and its tilt belong to the model as well, so that a sample is a whole organ mask. All of it is
Gaussian: a chest is a vector of independent standard normal numbers, ``scores``, of the modes and four of the pose.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from xreal.errors import DataError, MaskError, ModelError
from xreal.files import write_bytes
from xreal.masks.landmarks import N_LANDMARKS, Points, find_landmarks
from xreal.masks.organs import OrganMask
from xreal.masks.shape_measures import MEASURES, measure

__all__ = ["ShapeModel", "learn_shape_model", "load_shape_model", "save_shape_model"]

Floats = npt.NDArray[np.float64]

_BUNDLED = Path(__file__).parents[1] / "weights" / "shapes" / "shape_model.safetensors"
_POSE = 4  # across, down, logarithm of the size, angle in radians (clockwise as seen)

_VARIANCE = 0.99  # share that the modes explain
_MOST_MODES = 60
_OUTLIERS = 0.02  # share of the shapes, farthest from the mean, that is left out: failed segmentations
_RANGE = (1.0, 99.0)  # percentiles of the training masks that a measure's usual range goes between
_FEWEST_MASKS = 30


@dataclass(frozen=True)
class ShapeModel:
    """Mean shape, modes and pose of a population of chests.

    Attributes:
        mean: (N_LANDMARKS, 2) points, centred on 0, root sum of squares about 1.
        modes: (K, N_LANDMARKS, 2), each times its standard deviation: what a score of 1 adds to the mean.
        pose_mean: (4,) mean of across, down, log size, angle.
        pose_modes: (K + 4, 4): what a score of 1 adds to them; the first K rows are how the pose goes with the shape.
        residual: standard deviation of a coordinate about the modes, in units of the image's side.
        usual: (len(MEASURES), 2) 1st and 99th percentile of each measure over the training masks.
        average: (len(MEASURES),) mean of each measure over the training masks.
        count: (1,) number of training masks.
    """

    mean: Floats
    modes: Floats
    pose_mean: Floats
    pose_modes: Floats
    residual: Floats
    usual: Floats
    average: Floats
    count: Floats

    @property
    def n_modes(self) -> int:
        """Number of modes of shape."""
        return len(self.modes)

    @property
    def n_scores(self) -> int:
        """Number of scores that make a chest: the modes and the pose."""
        return len(self.modes) + _POSE

    def points(self, scores: Floats) -> Points:
        """Place the landmarks of a chest.

        Args:
            scores: (n_scores,) in standard deviations.

        Returns:
            (N_LANDMARKS, 2) in units of the image's side.
        """
        return self._shape(scores) @ self._turn(scores) + self._pose(scores)[:2]

    def jacobian(self, scores: Floats) -> Floats:
        """Differentiate ``points`` by the scores: (N_LANDMARKS, 2, n_scores)."""
        turn, shape = self._turn(scores), self._shape(scores)
        placed = shape @ turn
        by_pose = np.zeros((N_LANDMARKS, 2, _POSE))
        by_pose[:, 0, 0] = by_pose[:, 1, 1] = 1
        by_pose[:, :, 2] = placed
        by_pose[:, :, 3] = np.stack([-placed[:, 1], placed[:, 0]], axis=1)
        slopes: Floats = by_pose @ self.pose_modes.T
        slopes[:, :, : self.n_modes] += np.moveaxis(self.modes @ turn, 0, -1)
        return slopes

    def _shape(self, scores: Floats) -> Points:
        return self.mean + np.tensordot(scores[: self.n_modes], self.modes, 1)

    def _pose(self, scores: Floats) -> Floats:
        pose: Floats = self.pose_mean + scores @ self.pose_modes
        return pose

    def _turn(self, scores: Floats) -> Floats:
        _, _, log_size, angle = self._pose(scores)
        cos, sin = np.cos(angle), np.sin(angle)
        turn: Floats = np.exp(log_size) * np.array([[cos, sin], [-sin, cos]])
        return turn


def learn_shape_model(masks: Iterable[OrganMask]) -> ShapeModel:
    """Learn a shape model from organ masks; masks without both lungs and a heart are passed over.

    Args:
        masks: square (H, W) labels, of any sizes.

    Raises:
        DataError: fewer than 30 masks have both lungs and a heart.
    """
    found = []
    for mask in masks:
        try:
            found.append(find_landmarks(mask))
        except MaskError:
            continue
    if len(found) < _FEWEST_MASKS:
        raise DataError(f"{len(found)} masks have both lungs and a heart; a shape model needs {_FEWEST_MASKS} or more")
    return _gaussian(_without_outliers(np.stack(found)))


def _without_outliers(shapes: Points) -> Points:
    aligned, _ = _align(shapes)
    mean = aligned.mean(axis=0)
    _, scores = _components(aligned - mean)
    far = np.linalg.norm((aligned - mean).reshape(len(shapes), -1), axis=1)
    odd = np.linalg.norm(scores, axis=1)
    kept = [distance <= np.quantile(distance, 1 - _OUTLIERS / 2) for distance in (far, odd)]
    return shapes[kept[0] & kept[1]]


def _align(shapes: Points) -> tuple[Points, Floats]:
    """Generalised Procrustes analysis: the shapes aligned by shift, size and turn, and the poses (N, 4) undone by it.

    A point is a complex number here, so that size and turn are one complex factor.
    """
    points = shapes[..., 0] + 1j * shapes[..., 1]
    centres = points.mean(axis=1)
    centred = points - centres[:, None]
    mean = centred.mean(axis=0)
    for _ in range(20):
        mean = mean / np.linalg.norm(mean)
        factors = (centred.conj() @ mean) / (np.abs(centred) ** 2).sum(axis=1)
        upright = np.exp(1j * np.angle(factors).mean())  # the mean shape lies as the chests do on average
        factors = factors / upright
        aligned = centred * factors[:, None]
        mean = aligned.mean(axis=0)
    poses = np.stack([centres.real, centres.imag, -np.log(np.abs(factors)), -np.angle(factors)], axis=1)
    return np.stack([aligned.real, aligned.imag], axis=-1), poses


def _components(departures: Points) -> tuple[Floats, Floats]:
    """Principal components times their standard deviations (K, N_LANDMARKS, 2), and the scores (N, K)."""
    flat = departures.reshape(len(departures), -1)
    left, singular, right = np.linalg.svd(flat, full_matrices=False)
    share = (singular**2).cumsum() / (singular**2).sum()
    count = min(int(np.searchsorted(share, _VARIANCE)) + 1, _MOST_MODES, len(flat) - 1 - _POSE)
    scale = np.sqrt(len(flat) - 1)
    modes = (singular[:count, None] * right[:count] / scale).reshape(count, N_LANDMARKS, 2)
    return modes, left[:, :count] * scale


def _gaussian(shapes: Points) -> ShapeModel:
    """Fit the model to shapes: the pose follows the shape's scores linearly, and what is left of it is Gaussian."""
    aligned, poses = _align(shapes)
    mean = aligned.mean(axis=0)
    modes, scores = _components(aligned - mean)
    unexplained = aligned - mean - np.tensordot(scores, modes, 1)
    pose_mean = poses.mean(axis=0)
    with_shape = scores.T @ (poses - pose_mean) / len(scores)
    left = poses - pose_mean - scores @ with_shape
    own = np.linalg.cholesky(np.cov(left.T) + 1e-12 * np.eye(_POSE)).T
    measures = np.array([list(measure(points).values()) for points in shapes])
    return ShapeModel(
        mean=mean,
        modes=modes,
        pose_mean=pose_mean,
        pose_modes=np.concatenate([with_shape, own]),
        residual=np.array([np.std(unexplained * np.exp(poses[:, 2])[:, None, None])]),
        usual=np.percentile(measures, _RANGE, axis=0).T,
        average=measures.mean(axis=0),
        count=np.array([len(shapes)], np.float64),
    )


def save_shape_model(path: str | os.PathLike[str], model: ShapeModel) -> None:
    """Write a model as safetensors, float32.

    Raises:
        OutputError: the file cannot be written.
    """
    tensors = {field.name: np.ascontiguousarray(getattr(model, field.name), np.float32) for field in fields(model)}
    write_bytes(path, save(tensors))


def load_shape_model(path: str | os.PathLike[str] | None = None) -> ShapeModel:
    """Read a model that ``save_shape_model`` wrote; None is the one of the package.

    Raises:
        ModelError: the file is missing, damaged or no shape model.
    """
    path = _BUNDLED if path is None else Path(path)
    try:
        tensors = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{path} cannot be read as a shape model ({error}); make one with `xreal masks fit-model`"
        ) from error
    wanted = {field.name for field in fields(ShapeModel)}
    model = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    modes = len(model["modes"]) if "modes" in model and model["modes"].ndim else 0
    shapes = {
        "mean": (N_LANDMARKS, 2),
        "modes": (modes, N_LANDMARKS, 2),
        "pose_mean": (_POSE,),
        "pose_modes": (modes + _POSE, _POSE),
        "residual": (1,),
        "usual": (len(MEASURES), 2),
        "average": (len(MEASURES),),
        "count": (1,),
    }
    if model.keys() != wanted or any(model[name].shape != shape for name, shape in shapes.items()):
        held = ", ".join(f"{name} {tensor.shape}" for name, tensor in sorted(model.items()))
        raise ModelError(f"{path} is no shape model of this version: it holds {held}; expected {shapes}")
    if not all(np.isfinite(tensor).all() for tensor in model.values()):
        raise ModelError(f"{path} holds numbers that are not finite; make it again with `xreal masks fit-model`")
    return ShapeModel(**model)
