"""An engine with the tiny model, a drawing for it, and a browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Error, expect, sync_playwright

from xreal.app.anatomy import from_sample
from xreal.app.engine import Engine
from xreal.app.job import Job
from xreal.masks.lesions import Lesion, ellipse
from xreal.masks.organs import OrganMask
from xreal.vocabulary import Finding

# No sandbox: containers run as root. The rest keeps the browser from asking anyone for anything.
BROWSER_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]


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


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Open Chromium, headless: the one of this computer, or else playwright's own."""
    expect.set_options(timeout=120_000)  # a busy machine is slow, not wrong
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        try:
            opened = playwright.chromium.launch(executable_path=path, args=BROWSER_FLAGS)
        except Error as error:
            pytest.skip(f"no Chromium to test the page in: {error}")
        yield opened
        opened.close()
