"""An engine with the tiny model, a drawing for it, a browser, and the studio in it."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page, ViewportSize, expect, sync_playwright

from xreal.app.anatomy import from_sample
from xreal.app.engine import Engine
from xreal.app.job import Job
from xreal.masks.areas import ellipse
from xreal.masks.lesions import Lesion
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


@pytest.fixture(scope="session")
def studio(browser: Browser, tiny_model_folder: Path) -> Iterator[str]:
    """Run `xreal studio` as a process of its own; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    call = [sys.executable, "-m", "xreal.cli", "studio", "--model", str(tiny_model_folder), "--port", str(port)]
    process = subprocess.Popen(call, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.readline()
    assert said.startswith(f"XReal studio: http://127.0.0.1:{port}/"), said
    yield f"http://127.0.0.1:{port}/"
    process.terminate()
    process.wait()
    process.stdout.close()


@pytest.fixture
def visit(browser: Browser, studio: str) -> Iterator[Callable[..., Page]]:
    """Return a function that opens the studio as another visitor; no visitor may ask any other computer."""
    contexts: list[BrowserContext] = []
    asked: list[str] = []

    def open_page(size: tuple[int, int] = (1366, 768), colours: Literal["light", "dark"] = "light") -> Page:
        viewport: ViewportSize = {"width": size[0], "height": size[1]}
        contexts.append(browser.new_context(viewport=viewport, color_scheme=colours))
        contexts[-1].set_default_timeout(120_000)
        page = contexts[-1].new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda opened: asked.append(opened.url))
        page.goto(studio)
        expect(page.locator("#generate")).to_be_enabled()
        expect(page.locator(".xe-waiting")).to_have_count(0)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert any(url.startswith(studio) for url in asked)
    elsewhere = [url for url in asked if not url.startswith((studio, "data:", "blob:"))]
    assert elsewhere == []
