"""What tests of training share."""

import numpy as np
import pytest

from xreal.data.contract import Sample
from xreal.data.phantom import phantom
from xreal.vocabulary import Finding


@pytest.fixture(scope="session")
def host() -> Sample:
    """Return a healthy chest of 256 pixels, with its organ mask, as if read from a JPEG file."""
    drawn = phantom(3, 256)
    image = (255 * drawn.image).round().astype(np.uint8)
    return Sample(image, drawn.organ_mask, "3", "p3", "phantom", (Finding.NO_FINDING,), jpeg_steps=(1,) * 64)
