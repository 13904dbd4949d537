"""The whole computation, held by a few numbers: a change that no law sees shows here."""

from collections.abc import Callable

import numpy as np
import pytest

from xreal.masks.lesions import Lesion
from xreal.pipeline import XRealPipeline

# Of the untrained model, with torch 2.13: sums of picture, picture × a ramp, prior, and |picture − twin|. They change
# when the method does.
GOLDEN = {"regional": (782.455, 410.758, 718.238, 0.5942), "two-pass": (2031.176, 1015.564, 718.238, 79.379)}


@pytest.mark.parametrize("mode", GOLDEN)
def test_golden_sums(
    tiny_pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: Callable[..., Lesion], mode: str
) -> None:
    output = tiny_pipeline(organ_mask, [lesion_in()], [7], mode=mode, steps=4)
    assert output.healthy is not None
    assert output.priors is not None
    image, change = output.images[0].astype(np.float64), np.abs(output.images - output.healthy)
    ramp = np.linspace(0, 1, image.size).reshape(image.shape)
    sums = (image.sum(), (image * ramp).sum(), output.priors.sum(), change.sum())
    assert sums == pytest.approx(GOLDEN[mode], rel=1e-3, abs=0.02)
