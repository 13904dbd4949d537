"""Shapes of single organs, whatever organ it is: does it hang together, and does it have a tail?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["largest_piece", "tail"]


def largest_piece(organ: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the largest connected piece (8 neighbours) of an organ (H, W)."""
    from scipy import ndimage  # late: slow to import

    pieces, count = ndimage.label(organ, structure=np.ones((3, 3)))
    return organ if count < 2 else pieces == 1 + np.bincount(pieces[organ])[1:].argmax()


def tail(organ: npt.NDArray[np.bool_], radius: float) -> float:
    """Return the share of an organ (H, W), not empty, that lies far from where it is thick.

    Thick is where a disc fits in; far is over two radii from the centre of any such disc.

    Args:
        organ: True inside.
        radius: of the disc, as a share of the image's larger side.
    """
    from scipy import ndimage

    pixels = radius * max(organ.shape)
    rows, columns = np.nonzero(organ)
    organ = np.pad(organ[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1], 1)
    thick = ndimage.distance_transform_edt(organ) > pixels
    if not thick.any():
        return 1.0
    far = ndimage.distance_transform_edt(~thick) > 2 * pixels
    return float((organ & far).sum() / organ.sum())
