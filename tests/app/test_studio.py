"""The studio in a real browser: a person's whole path, a look at the result, two at once, every screen."""

import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from xreal.app.results import NOTICE
from xreal.data.phantom import phantom

LAPTOP, PHONE = (1366, 768), (390, 844)


def paint_ellipse(
    page: Page, finding: str = "Pneumonia", at: tuple[float, float, float, float] = (0.2, 0.4, 0.4, 0.6)
) -> None:
    """Add a finding and pull its ellipse over a part of the canvas, in shares of its side."""
    page.locator(".xe-add").select_option(finding)
    page.locator("[data-tool=ellipse]").click()
    drag(page, ".xe-canvas", at)


def drag(page: Page, where: str, at: tuple[float, float, float, float]) -> None:
    page.locator(where).scroll_into_view_if_needed()
    box = page.locator(where).bounding_box()
    assert box is not None
    x0, y0, x1, y1 = at
    page.mouse.move(box["x"] + x0 * box["width"], box["y"] + y0 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + x1 * box["width"], box["y"] + y1 * box["height"], steps=4)
    page.mouse.up()


def choose(page: Page, label: str, option: str) -> None:
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()


def generate(page: Page, title: str) -> None:
    """Press the button and wait for a result of that title."""
    page.locator("#generate").click()
    expect(page.locator(".xv-title")).to_contain_text(title)
    expect(page.locator("#generate")).to_be_enabled()


def download(page: Page, into: Path) -> dict[str, Path]:
    """Follow every link of the list of files."""
    got = {}
    for link in page.locator("#files a[download]").all():
        with page.expect_download() as begun:
            link.click()
        name = begun.value.suggested_filename
        begun.value.save_as(into / name)
        got[name] = into / name
    return got


def shown(page: Page) -> np.ndarray:
    """Return the pixels of the result as the viewer shows them, (H, W)."""
    read = """() => { const c = document.querySelector('.xv-canvas');
        return [c.height, c.width, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data] }"""
    height, width, *data = page.evaluate(read)
    return np.array(data, np.uint8).reshape(height, width, 4)[..., 0]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture).astype(np.int64)


def test_from_an_anatomy_to_files_that_draw_the_same_image(
    visit: Callable[..., Page], tmp_path: Path, tiny_model_folder: Path
) -> None:
    page = visit()
    expect(page.locator(".xr-banner")).to_contain_text("not for diagnosis")
    page.locator("#sample").click()
    about = page.locator("#about")
    expect(about).to_contain_text("Sampled anatomy, seed 2")
    before = float(page.locator("#ctr input[type=number]").input_value())
    heart = page.locator("#heart input[type=number]")
    heart.fill("1.1")
    heart.press("Enter")
    expect(page.locator("#ctr input[type=number]")).not_to_have_value(f"{before:g}")
    after = float(page.locator("#ctr input[type=number]").input_value())
    assert after == pytest.approx(1.1 * before, abs=0.02)
    expect(about).to_contain_text(f"ratio {after:.2f}")

    paint_ellipse(page)
    strength = page.get_by_label("Strength of Pneumonia")
    strength.fill("0.7")
    choose(page, "Quality", "draft")
    generate(page, "Pneumonia · seed 0 · draft")
    expect(page.locator(".xv-note")).to_have_text(NOTICE)
    for organ in ("left lung", "right lung", "heart"):
        expect(page.locator("#table tr", has_text=organ).first).to_contain_text(re.compile(r"0\.\d{3}"))

    files = download(page, tmp_path / "files")
    own = {"0000.png", "0000.json", "0000.dcm", "0000-healthy.png", "0000-healthy.dcm", "0000-seg.dcm"}
    assert own | {"xreal-studio.zip", "organs.png", "pneumonia.png", "0000-again.py"} <= set(files)
    with Image.open(files["0000.png"]) as picture:
        assert "not for diagnosis" in picture.info["xreal:synthetic"]
    image = pixels(files["0000.png"])
    np.testing.assert_array_equal(shown(page), image)
    assert np.abs(image - pixels(files["0000-healthy.png"])).max() > 0

    # In the unpacked archive, with the model beside it under the name that the page says.
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(files["xreal-studio.zip"]) as archive:
        archive.extractall(folder)
    (folder / tiny_model_folder.name).symlink_to(tiny_model_folder)
    command = page.locator("#command textarea").input_value()
    assert "--lesion Pneumonia=pneumonia.png@0.7 --seed 0" in command
    subprocess.run([sys.executable, "-m", "xreal.cli", *shlex.split(command)[1:]], cwd=folder, check=True)
    subprocess.run([sys.executable, "0000-again.py"], cwd=folder, check=True)
    for again in ("again/0000.png", "again.png"):
        np.testing.assert_array_equal(pixels(folder / again), image)


def test_the_result_is_looked_at_from_all_sides(visit: Callable[..., Page]) -> None:
    page = visit()
    paint_ellipse(page)
    choose(page, "Quality", "draft")
    generate(page, "Pneumonia · seed 0")
    image = shown(page)
    page.get_by_role("button", name="Healthy twin").click()
    twin = shown(page)
    assert (twin != image).any()

    page.get_by_role("button", name="Swipe").click()
    drag(page, ".xv-canvas", (0.5, 0.5, 0.25, 0.5))
    mixed = shown(page)
    np.testing.assert_array_equal(mixed[:, :12], image[:, :12])
    np.testing.assert_array_equal(mixed[:, -40:], twin[:, -40:])

    page.get_by_role("button", name="Difference").click()
    expect(page.locator(".xv-title")).to_contain_text("red brighter, blue darker")
    page.get_by_role("button", name="Image", exact=True).click()
    page.locator(".xv-window").fill("60")
    page.locator(".xv-level").fill("100")
    windowed = np.clip(255 * ((image - 99.5) / 59 + 0.5), 0, 255)
    np.testing.assert_allclose(shown(page), windowed, atol=1)
    page.get_by_role("button", name="Zoom in").click()
    assert "scale(1.5)" in page.locator(".xv-moved").evaluate("element => element.style.transform")
    page.get_by_role("button", name="Reset", exact=True).click()
    np.testing.assert_array_equal(shown(page), image)
    page.get_by_role("button", name="Outlines").click()
    assert (shown(page) != image).any()


def test_organs_are_painted_and_undone_and_the_history_comes_back(visit: Callable[..., Page], tmp_path: Path) -> None:
    page = visit()
    expect(page.locator("#about")).to_contain_text("ratio")
    page.get_by_role("radio", name="Heart").click()
    before = page.locator("#about").inner_text()
    drag(page, ".xe-canvas", (0.3, 0.6, 0.7, 0.6))
    expect(page.locator("#about")).not_to_have_text(before)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#about")).to_have_text(before)
    choose(page, "Quality", "draft")
    page.get_by_label("Images", exact=True).fill("2")
    generate(page, "healthy · seed 0")
    first = shown(page)
    page.locator("#history button.thumbnail-item").nth(1).click()
    expect(page.locator(".xv-title")).to_contain_text("seed 1")
    assert (shown(page) != first).any()
    np.testing.assert_array_equal(pixels(download(page, tmp_path)["0001.png"]), shown(page))


def test_an_xray_is_edited_and_kept_beyond_the_finding(visit: Callable[..., Page], tmp_path: Path) -> None:
    chest = np.rint(phantom(5, 200).image * 65535).astype(np.uint16)
    Image.fromarray(chest).save(tmp_path / "chest.png")
    page = visit()
    page.get_by_role("tab", name="X-ray").click()
    page.locator("#xray-file input").set_input_files(tmp_path / "chest.png")
    expect(page.locator("#about")).to_contain_text("X-ray chest.png")
    paint_ellipse(page, at=(0.1, 0.1, 0.3, 0.3))
    choose(page, "Quality", "draft")
    generate(page, "Pneumonia · seed 0")
    expect(page.get_by_role("button", name="X-ray before")).to_be_enabled()
    files = download(page, tmp_path / "files")
    edited = pixels(files["0000.png"])
    assert edited.shape == chest.shape
    np.testing.assert_array_equal(edited[:, 120:], chest[:, 120:])
    assert (edited[20:60, 20:60] != chest[20:60, 20:60]).any()
    assert "xreal edit source.png" in page.locator("#command textarea").input_value()


def test_two_at_once_wait_for_each_other(visit: Callable[..., Page]) -> None:
    first, second = visit(), visit()
    choose(first, "Quality", "reference")
    first.get_by_label("Images", exact=True).fill("4")
    choose(second, "Quality", "draft")
    second.get_by_label("Seed", exact=True).fill("5")
    first.locator("#generate").click()
    expect(first.locator("#progress")).to_contain_text("Step")
    second.locator("#generate").click()
    expect(second.locator("#progress")).to_contain_text("Waiting")
    assert "Step" in first.locator("#progress").inner_text()
    expect(second.locator(".xv-title")).to_contain_text("seed 5")
    expect(first.locator(".xv-title")).to_contain_text("healthy · seed 0 · reference")
    assert first.locator("#history button.thumbnail-item").count() == 4
    assert second.locator("#history button.thumbnail-item").count() == 1  # each sees only their own


def test_drawing_can_be_stopped_and_begun_again(visit: Callable[..., Page]) -> None:
    page = visit()
    choose(page, "Quality", "reference")
    page.get_by_label("Images", exact=True).fill("8")
    page.locator("#generate").click()
    expect(page.locator("#progress")).to_contain_text("Step")
    page.locator("#stop").click()
    expect(page.locator("#progress")).to_contain_text("Stopped")
    expect(page.locator("#stop")).to_be_disabled()
    choose(page, "Quality", "draft")
    page.get_by_label("Images", exact=True).fill("1")
    generate(page, "healthy · seed 0 · draft")


@pytest.mark.parametrize("size", [LAPTOP, PHONE])
def test_everything_fits_on_the_screen(visit: Callable[..., Page], size: tuple[int, int]) -> None:
    page = visit(size)
    paint_ellipse(page)
    choose(page, "Quality", "draft")
    generate(page, "Pneumonia · seed 0")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    beyond = """() => [...document.querySelectorAll('button, input, select, canvas, .xr-banner, .xr-table, #files a')]
        .filter(part => part.offsetParent && (part.getBoundingClientRect().right > innerWidth + 1 ||
            part.getBoundingClientRect().left < -1)).map(part => part.outerHTML.slice(0, 120))"""
    assert page.evaluate(beyond) == []
    small = """() => [...document.querySelectorAll('.xe-row button, .xe-row select, #generate, #stop')]
        .filter(part => part.offsetParent && part.getBoundingClientRect().height < 24)
        .map(part => part.outerHTML.slice(0, 120))"""
    assert page.evaluate(small) == []
    unnamed = """() => [...document.querySelectorAll('.xe button, .xe input, .xe select, .xv button, .xv input')]
        .filter(part => !part.textContent.trim() && !part.getAttribute('aria-label') && !part.closest('label'))
        .map(part => part.outerHTML.slice(0, 120))"""
    assert page.evaluate(unnamed) == []


# Text on the nearest background that is not transparent, by WCAG 2.2's relative luminance; disabled parts are exempt.
HARD_TO_READ = """() => {
    const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
    const light = colour => colour.slice(0, 3).map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = part => {
        for (; part; part = part.parentElement) {
            const colour = numbers(getComputedStyle(part).backgroundColor);
            if (colour.length < 4 || colour[3] > 0.99) return colour;
        }
        return [255, 255, 255];
    };
    return [...document.querySelectorAll('body *')]
        .filter(part => part.offsetParent && !part.closest(':disabled, .xv-stage, .xe-stage') &&
            [...part.childNodes].some(child => child.nodeType === 3 && child.textContent.trim()))
        .map(part => {
            const [a, b] = [numbers(getComputedStyle(part).color), behind(part)].map(light).sort((x, y) => y - x);
            return [(a + 0.05) / (b + 0.05), part.textContent.trim().slice(0, 40)];
        })
        .filter(([ratio]) => ratio < 4.5);
}"""


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_all_text_can_be_read(visit: Callable[..., Page], colours: Literal["light", "dark"]) -> None:
    page = visit(colours=colours)
    page.get_by_role("tab", name="X-ray").click()
    page.get_by_role("button", name="Mode").click()
    paint_ellipse(page)
    assert page.evaluate(HARD_TO_READ) == []
    white = "() => document.querySelector('#about').style.setProperty('background', '#777', 'important')"
    page.evaluate(white)
    assert page.evaluate(HARD_TO_READ) != []  # it would be found
