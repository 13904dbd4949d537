"""An engine with the tiny model, and a drawing for it."""

from pathlib import Path

import numpy as np
import pytest

from xreal.app.anatomy import from_sample
from xreal.app.engine import Engine
from xreal.app.job import Job
from xreal.masks.lesions import Lesion, ellipse
from xreal.masks.organs import OrganMask
from xreal.vocabulary import Finding


@pytest.fixture(scope="session")
def engine(tiny_model_folder: Path) -> Engine:
    return Engine(str(tiny_model_folder))


@pytest.fixture(scope="session")
def organs() -> OrganMask:
    return from_sample(1).organs


@pytest.fixture(scope="session")
def pneumonia() -> Lesion:
    return Lesion(Finding.PNEUMONIA, ellipse(80, 130, 20, 25, height=256, width=256), 0.8)


@pytest.fixture
def job(organs: np.ndarray, pneumonia: Lesion) -> Job:
    return Job(organs, [pneumonia], seed=7, quality="draft")
