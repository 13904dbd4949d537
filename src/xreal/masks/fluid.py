"""Where free fluid lies in the lung of a patient who stands: a pleural effusion.

It fills the base, hides the costophrenic angle, and its upper border rises towards the chest wall (meniscus).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from xreal.masks.areas import extent

__all__ = ["above_fluid"]

_LEVEL = (0.06, 0.4)  # of the lung's height: the fluid's above the lung's lowest point
_RISE, _WIDTH = (0.06, 0.22), (0.1, 0.3)  # of the meniscus, of the lung's height, and how far in, of the lung's width


def above_fluid(lung: npt.NDArray[np.bool_], right: bool, generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """Draw a level and a meniscus.

    Args:
        lung: (H, W), not empty.
        right: it is the patient's right lung, whose chest wall is on the image's left.
        generator: of both.

    Returns:
        How far each pixel lies above the fluid's upper border, (H, W) in pixels; below 0 in the fluid.
    """
    x0, y0, x1, y1 = extent(lung)
    height, width = y1 - y0, x1 - x0
    rows, columns = np.mgrid[: lung.shape[0], : lung.shape[1]] + 0.5
    from_wall = columns - x0 if right else x1 - columns
    level = max(1.0, generator.uniform(*_LEVEL) * height)  # a row of pixels at least
    rise = generator.uniform(*_RISE) * height * np.exp(-from_wall / (generator.uniform(*_WIDTH) * width))
    above: npt.NDArray[np.float64] = y1 - level - rise - rows
    return above
