"""The server: a link is a key, a wrong one tells nothing, and bad answers are refused."""

from collections.abc import Callable, Iterator

import pytest
from starlette.testclient import TestClient

from xreal.app.study.server import links, serve, study_app
from xreal.app.study.store import Store
from xreal.errors import InputError

Make = Callable[..., Store]


@pytest.fixture
def client(make: Make) -> Iterator[tuple[TestClient, Store]]:
    store = make()
    with TestClient(study_app(store)) as opened:
        yield opened, store


def test_a_link_opens_the_page_and_nothing_tells_the_group(client: tuple[TestClient, Store]) -> None:
    browser, store = client
    reader = store.readers()[0]
    base = f"/r/{reader.token}/"
    assert browser.get(base[:-1]).url.path == base
    page = browser.get(base)
    assert "Reader study" in page.text
    assert "http" not in page.text  # nothing from elsewhere
    state = browser.get(base + "state")
    now = state.json()["current"]
    picture = browser.get(f"{base}picture/{now['id']}")
    assert picture.content == store.png(reader, now["id"])
    assert browser.get(f"{base}outlines/{now['id']}").headers["content-type"] == "image/png"
    for response in (page, state, picture):
        shown = str(response.headers) + (response.text if response is not picture else "")
        assert "made" not in shown.replace("made by a computer", "")
        assert "generated" not in shown
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert "default-src 'self'" in response.headers["content-security-policy"]
    for name in ("study.js", "saver.js", "viewer.js", "study.css"):
        assert browser.get(f"/page/{name}").status_code == 200


@pytest.mark.parametrize("path", ["/", "/r/", "/r/x/", "/r/x/state", "/r/x/picture/y", "/page/../store.py", "/docs"])
def test_without_a_link_there_is_nothing(path: str, client: tuple[TestClient, Store]) -> None:
    assert client[0].get(path).status_code == 404


def test_answers_are_saved_refused_or_too_late(client: tuple[TestClient, Store]) -> None:
    browser, store = client
    anna, ben = store.readers()
    now = store.state(anna)["current"]
    whole = {question["name"]: question["options"][0][0] for question in now["questions"]}
    given = {"values": whole, "marks": [], "seconds": 2, "done": True}

    def put(token: str, body: object) -> int:
        return browser.put(f"/r/{token}/answer/{now['id']}", json=body).status_code

    assert put("wrong", given) == 404
    assert put(ben.token, given) == 422
    assert put(anna.token, given | {"values": {"verdict": 7}}) == 422
    assert put(anna.token, [0.123456789] * 500_000) == 413
    assert browser.put(f"/r/{anna.token}/answer/{now['id']}", content=b"{").status_code == 422
    assert store.readings() == []
    assert put(anna.token, given) == 200
    assert put(anna.token, given) == 409
    assert len(store.readings()) == 1
    assert [progress for _, progress, _ in links(store, "https://x.org/")] == ["1 of 20", "0 of 20"]
    assert links(store, "https://x.org/")[0][2] == f"https://x.org/r/{anna.token}/"


def test_an_address_that_cannot_be_had_is_said(make: Make) -> None:
    store = make()
    for port, said in ((80, r"cannot listen on 203\.0\.113\.1:80"), (70000, "port is 70000"), (-5, "port is -5")):
        with pytest.raises(InputError, match=said):
            serve(store, "203.0.113.1", port, None, lambda _: None)
