"""The page in a real browser: scripted readers whose answers are known, a server that dies, a browser that dies."""

import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from xreal.app.study.report import study_report
from xreal.app.study.store import Store

Make = Callable[..., Store]
Serve = Callable[[], str]


class Server:
    """`xreal study serve` as a process of its own, so that it can be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.process = folder, 0, None

    def start(self) -> list[str]:
        call = [sys.executable, "-m", "xreal.cli", "study", "serve", str(self.folder), "--port", str(self.port)]
        self.process = subprocess.Popen(call, stdout=subprocess.PIPE, text=True)
        links = []
        for line in self.process.stdout:
            if line.startswith("Ctrl+C"):
                break
            links.append(line.split()[-1])
        self.port = int(re.search(r":(\d+)/", links[0])[1])
        return links

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process.stdout.close()
            self.process = None


@pytest.fixture
def server(make: Make, tmp_path: Path) -> Iterator[Server]:
    make()
    running = Server(tmp_path / "study")
    yield running
    running.kill()


def truth(folder: Path, presentation: str) -> tuple[bool, bool]:
    with sqlite3.connect(folder / "study.sqlite") as db:
        query = "SELECT generated, has_pathology FROM presentations p JOIN pictures ON pictures.id = picture"
        generated, sick = db.execute(f"{query} WHERE p.id = ?", (presentation,)).fetchone()
    return bool(generated), bool(sick)


def current(page: Page, link: str) -> str | None:
    now = page.request.get(f"{link}state").json()["current"]
    return now and now["id"]


def open_study(browser: Browser, link: str) -> Page:
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    page.goto(link)
    expect(page.locator("#go")).to_be_enabled()
    page.keyboard.press("Enter")
    expect(page.locator("#reading")).to_be_visible()
    return page


def answer(page: Page, keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)
    expect(page.locator("#confirm")).to_be_enabled()


def saved(page: Page, store: Store, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Wait until the first reader's draft on the disk is as wanted."""
    for _ in range(500):
        draft = store.state(store.readers()[0])["current"]["answer"]
        if draft and wanted(draft):
            return draft
        page.wait_for_timeout(20)
    raise AssertionError(f"the draft stays {draft}")


def read_all(page: Page, link: str, folder: Path, keys: Callable[[bool, bool], str]) -> int:
    """Answer with the keys that a reader gives where they know the truth and whether a finding is asked for."""
    count = 0
    while presentation := current(page, link):
        shown = page.locator("#progress").inner_text()
        answer(page, keys(*truth(folder, presentation)))
        page.keyboard.press("Enter")
        count += 1
        while (following := current(page, link)) == presentation:
            page.wait_for_timeout(20)
        if following:
            expect(page.locator("#progress")).not_to_have_text(shown)
    expect(page.locator("#title")).to_have_text("Done. Thank you.")
    return count


def test_scripted_readers_give_exactly_the_numbers_that_they_were_told_to(browser: Browser, server: Server) -> None:
    first, second = server.start()
    sharp = open_study(browser, first)
    # Always right; generated ones look artificial and disobey.
    assert read_all(sharp, first, server.folder, lambda made, sick: ("s211" if made else "r555")[: 3 + sick]) == 20
    blind = open_study(browser, second)
    assert read_all(blind, second, server.folder, lambda made, sick: "r335"[: 3 + sick]) == 20
    numbers = study_report(Store(server.folder))
    one, two = numbers["readers"]["R1"], numbers["readers"]["R2"]
    assert (one["accuracy"]["value"], one["accuracy"]["n"]) == (1, 16)
    assert one["accuracy"]["p"] == pytest.approx(2 / 2**16)
    assert (two["accuracy"]["value"], two["sensitivity"]["value"], two["specificity"]["value"]) == (0.5, 0, 1)
    assert two["accuracy"]["p"] == 1
    assert one["kappa"]["verdict"] == {"value": 1, "low": None, "high": None, "n": 4}
    assert two["kappa"]["verdict"]["value"] is None
    ratings = numbers["all"]["ratings"]
    means = {group: {name: own["value"] for name, own in given.items()} for group, given in ratings.items()}
    assert means == {
        "real": {"called synthetic": 0, "realism": 4, "anatomy": 1, "pathology": 2},
        "made": {"called synthetic": 0.5, "realism": 2.5, "anatomy": -1, "pathology": 0},
    }
    assert numbers["between"]["R1, R2"]["verdict"]["value"] == pytest.approx(0)
    # All agree on 8 real pictures, none on 8 generated ones: P = 1/2, Pe = 1/16 + 9/16.
    assert numbers["fleiss"]["verdict"]["value"] == pytest.approx((1 / 2 - 10 / 16) / (1 - 10 / 16))


def test_nothing_is_lost_when_the_server_dies(browser: Browser, server: Server) -> None:
    link, _ = server.start()
    page = open_study(browser, link)
    for _ in range(3):
        presentation = current(page, link)
        answer(page, "r44" + "4" * truth(server.folder, presentation)[1])
        shown = page.locator("#progress").inner_text()
        page.keyboard.press("Enter")
        expect(page.locator("#progress")).not_to_have_text(shown)
    fourth = current(page, link)
    sick = truth(server.folder, fourth)[1]
    page.keyboard.press("s")
    expect(page.locator("#status")).to_have_text("saved")
    server.kill()
    answer(page, "25" + "1" * sick)
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("no server")
    assert len(Store(server.folder).readings()) == 3
    server.start()
    expect(page.locator("#progress")).to_have_text("5 of 20", timeout=15000)
    last = Store(server.folder).readings()[-1]
    assert (last.place, last.values) == (
        3,
        {"verdict": 1, "realism": 2, "anatomy": 2, "pathology": -2 if sick else None},
    )


def test_nothing_is_lost_when_the_browser_dies_before_the_server_is_back(browser: Browser, server: Server) -> None:
    link, _ = server.start()
    context = browser.new_context()
    page = context.new_page()
    page.goto(link)
    expect(page.locator("#go")).to_be_enabled()
    page.keyboard.press("Enter")
    server.kill()
    page.keyboard.press("s")
    page.keyboard.press("4")
    expect(page.locator("#status")).to_contain_text("no server")
    page.close()  # with the answers in nothing but the browser's own storage
    server.start()
    page = context.new_page()
    page.goto(link)
    expect(page.locator("#go")).to_be_enabled()
    page.keyboard.press("Enter")
    expect(page.locator("#verdict input:checked")).to_have_value("1")
    expect(page.locator("#realism input:checked")).to_have_value("4")
    expect(page.locator("#status")).to_have_text("saved")
    store = Store(server.folder)
    draft = store.state(store.readers()[0])["current"]["answer"]
    assert draft["values"] == {"verdict": 1, "realism": 4}
    context.close()


def test_marks_window_pause_and_questions_in_their_turn(browser: Browser, server: Server) -> None:
    link, _ = server.start()
    page = open_study(browser, link)
    store = Store(server.folder)
    box = page.locator("#canvas").bounding_box()
    side = min(box["width"], box["height"])
    left, top = box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2

    def drag(points: list[tuple[float, float]], button: str = "left") -> None:
        page.mouse.move(left + points[0][0] * side, top + points[0][1] * side)
        page.mouse.down(button=button)
        for u, v in points[1:]:
            page.mouse.move(left + u * side, top + v * side)
        page.mouse.up(button=button)

    def grey() -> list[int]:
        return page.evaluate(
            "([u, v]) => { const c = document.getElementById('canvas'), s = Math.min(c.width, c.height);"
            "return [...c.getContext('2d').getImageData((c.width - s) / 2 + u * s, (c.height - s) / 2 + v * s, 1, 1)"
            ".data] }",
            [0.3, 0.6],
        )

    # Questions about what was asked for come after the others.
    expect(page.locator("#anatomy")).to_be_hidden()
    expect(page.locator("#asked")).to_be_hidden()
    before = grey()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    darker = grey()
    assert darker[0] < before[0]
    drag([(0.5, 0.5), (0.5, 0.9)], button="right")
    assert grey()[0] < darker[0]
    page.keyboard.press("0")
    assert grey() == before

    drag([(0.25, 0.25), (0.5, 0.25), (0.5, 0.5)])
    drag([(0.75, 0.75)])
    drag([(0.1, 0.9)])
    page.keyboard.press("z")
    marks = saved(page, store, lambda draft: [len(stroke) for stroke in draft["marks"]] == [3, 1])["marks"]
    assert marks[0] == [pytest.approx(point, abs=0.01) for point in ([0.25, 0.25], [0.5, 0.25], [0.5, 0.5])]

    page.keyboard.press("s")
    page.keyboard.press("2")
    expect(page.locator("#anatomy")).to_be_visible()
    expect(page.locator("#asked")).to_contain_text("Asked for: ")
    page.keyboard.press("f")
    assert page.evaluate("document.fullscreenElement !== null")


def test_a_pause_hides_the_picture_keeps_the_answers_and_does_not_count(browser: Browser, server: Server) -> None:
    link, _ = server.start()
    page = browser.new_page()
    page.clock.install()
    page.goto(link)
    expect(page.locator("#go")).to_be_enabled()
    page.keyboard.press("Enter")
    page.keyboard.press("s")
    page.clock.fast_forward(100_000)
    page.keyboard.press("p")
    expect(page.locator("#title")).to_have_text("Paused")
    expect(page.locator("#reading")).to_be_hidden()
    store = Store(server.folder)
    seconds = saved(page, store, lambda draft: draft["seconds"] >= 100)["seconds"]
    page.keyboard.press("4")  # goes nowhere while paused
    page.clock.fast_forward(1_000_000)
    page.reload()
    expect(page.locator("#go")).to_be_enabled()
    page.clock.fast_forward(1_000_000)
    page.keyboard.press("Enter")
    expect(page.locator("#verdict input:checked")).to_have_value("1")
    expect(page.locator("#realism input:checked")).to_have_count(0)
    page.keyboard.press("Tab")
    page.keyboard.press("1")  # real after all: Tab went round to the first question
    draft = saved(page, store, lambda draft: draft["values"] == {"verdict": 0})
    assert seconds <= draft["seconds"] < 1000


@pytest.mark.parametrize(("width", "height"), [(1366, 768), (390, 844)])
def test_all_of_it_can_be_reached_on_a_screen(browser: Browser, server: Server, width: int, height: int) -> None:
    link, _ = server.start()
    asked: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": height})
    page.on("request", lambda request: asked.append(request.url))
    page.goto(link)
    expect(page.locator("#go")).to_be_enabled()
    page.locator("#go").click()
    for name, value in (("verdict", "1"), ("realism", "3"), ("anatomy", "-1")):
        page.locator(f"#{name} label", has=page.locator(f"input[value='{value}']")).click()
    if truth(server.folder, current(page, link))[1]:
        page.locator("#pathology label").first.click()
    expect(page.locator("#confirm")).to_be_enabled()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("#confirm").click()
    expect(page.locator("#progress")).to_have_text("2 of 20")
    base = link.split("/r/")[0]
    assert all(url.startswith((base, "data:", "blob:")) for url in asked)
