"""The studio in a real browser: what it refuses, in words, and what it never shows."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect


def toast(page: Page) -> Any:
    return page.locator(".toast-body").last


@pytest.mark.parametrize(
    ("tab", "field", "make", "message"),
    [
        ("X-ray", "#xray-file", lambda path: path.write_text("not a picture"), "chest.png"),
        ("Organ mask", "#mask-file", lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n broken"), "chest.png"),
        (
            "Organ mask",
            "#mask-file",
            lambda path: Image.fromarray(np.full((64, 64), 7, np.uint8)).save(path),
            "7",
        ),
        (
            "X-ray",
            "#xray-file",
            lambda path: Image.new("1", (9000, 9000)).save(path),
            "9000 × 9000, 81 megapixels; expected at most 50",
        ),
    ],
)
def test_files_of_no_use_are_refused_in_words(
    visit: Callable[..., Page],
    tmp_path: Path,
    tab: str,
    field: str,
    make: Callable[[Path], object],
    message: str,
) -> None:
    make(tmp_path / "chest.png")
    page = visit()
    page.get_by_role("tab", name=tab).click()
    page.locator(f"{field} input").set_input_files(tmp_path / "chest.png")
    expect(toast(page)).to_contain_text(message)
    said = toast(page).inner_text()
    assert not re.search(r"/\w+/\w+|Traceback", said), said  # no path of the server
    expect(page.locator("#about")).to_contain_text("Sampled anatomy, seed 1")  # what was there stays
    expect(page.locator("#generate")).to_be_enabled()


def test_a_file_beyond_the_limit_is_not_taken(visit: Callable[..., Page], tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as stream:
        stream.truncate(65 * 2**20)
    page = visit()
    page.get_by_role("tab", name="X-ray").click()
    page.locator("#xray-file input").set_input_files(tmp_path / "large.png")
    expect(toast(page)).to_contain_text(re.compile("size|large", re.IGNORECASE))
    expect(page.locator("#about")).to_contain_text("Sampled anatomy, seed 1")


def test_bad_numbers_are_refused(visit: Callable[..., Page]) -> None:
    page = visit()
    page.get_by_label("Images", exact=True).fill("99")
    page.locator("#generate").click()
    expect(toast(page)).to_contain_text("99")
    expect(page.locator("#generate")).to_be_enabled()
    expect(page.locator("#stop")).to_be_disabled()


def test_no_file_of_the_server_is_readable(visit: Callable[..., Page], studio: str) -> None:
    page = visit()
    source = Path(__file__).resolve()
    places = [
        "file=/etc/passwd",
        "file=../../../../etc/passwd",
        "file=..%2f..%2f..%2f..%2fetc%2fpasswd",
        "file=%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        f"file={source}",
        f"file={source.parents[2] / 'pyproject.toml'}",
        "file=pyproject.toml",
        "file=.",
        "file=/proc/self/environ",
        "upload/../../etc/passwd",
    ]
    for place in places:
        answer = page.request.get(f"{studio}gradio_api/{place}", max_redirects=0)
        assert answer.status in (400, 401, 403, 404, 405, 422), (place, answer.status)
        assert "root:" not in answer.text()
    config = page.request.get(f"{studio}config").text()
    assert str(source.parents[2]) not in config
