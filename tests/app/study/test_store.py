"""The study's file: answers are kept, checked, and final once confirmed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xreal.app.study.store import Store
from xreal.errors import InputError

Make = Callable[..., Store]
WHOLE = {"verdict": 1, "realism": 2, "anatomy": -1}


def answer(done: bool = False, marks: Any = (), seconds: float = 1.5, **values: Any) -> dict[str, Any]:
    return {"values": values, "marks": list(marks), "seconds": seconds, "done": done}


def test_a_draft_is_kept_and_a_confirmed_answer_is_final(make: Make, tmp_path: Path) -> None:
    store = make()
    anna, ben = store.readers()
    state = store.state(anna)
    assert (state["done"], state["total"], state["current"]["answer"]) == (0, 20, None)
    now = state["current"]["id"]
    names = [question["name"] for question in state["current"]["questions"]]
    stroke = [[0.1, 0.2], [0.3, 0.4]]
    assert store.save(anna, now, answer(verdict=1, marks=[stroke]))
    draft = Store(tmp_path / "study").state(anna)["current"]
    assert (draft["id"], draft["answer"]) == (now, {"values": {"verdict": 1}, "marks": [stroke], "seconds": 1.5})
    assert store.readings() == []
    given = {name: (WHOLE | {"pathology": 2})[name] for name in names}
    assert store.save(anna, now, answer(True, [stroke], 4.0, **given))
    assert not store.save(anna, now, answer(False, verdict=0))
    (reading,) = store.readings()
    assert {name: value for name, value in reading.values.items() if value is not None} == given
    assert (reading.reader, reading.place, reading.marks, reading.seconds) == (1, 0, [stroke], 4.0)
    after = store.state(anna)
    assert (after["done"], after["current"]["id"]) == (1, state["next"])
    assert store.state(ben)["done"] == 0
    assert store.progress() == {1: (1, 20), 2: (0, 20)}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "expected an object"),
        ({"values": {}}, "expected an object"),
        (answer(verdict=2), "verdict is 2; expected one of"),
        (answer(verdict=True), "verdict is True"),
        (answer(verdict="1"), "verdict is '1'"),
        (answer(realism=0), "realism is 0"),
        (answer(anatomy=-3), "anatomy is -3"),
        (answer(mood=1), "expected answers to"),
        (answer(True, verdict=1), "not answered: realism, anatomy"),
        (answer(seconds=-1), "seconds is -1"),
        (answer(seconds=float("nan")), "seconds is nan"),
        (answer(marks=[[]]), "holds no points"),
        (answer(marks=[[[0.5]]]), "expected \\[x, y\\]"),
        (answer(marks=[[[0.5, 1.5]]]), "expected \\[x, y\\]"),
        (answer(marks=[[[0.5, 0.5]]] * 201), "at most 200"),
        (answer() | {"done": 1}, "done is 1"),
    ],
)
def test_what_is_no_answer_is_refused(given: Any, said: str, make: Make) -> None:
    store = make()
    anna = store.readers()[0]
    now = store.state(anna)["current"]["id"]
    with pytest.raises(InputError, match=said):
        store.save(anna, now, given)
    assert store.state(anna)["current"]["answer"] is None


def test_a_reader_reaches_nothing_of_another(make: Make) -> None:
    store = make()
    anna, ben = store.readers()
    now = store.state(anna)["current"]["id"]
    assert store.png(anna, now) is not None
    assert store.png(ben, now) is None
    with pytest.raises(InputError, match="no presentation"):
        store.save(ben, now, answer(verdict=1))
    assert store.reader(anna.token) == anna
    assert store.reader("") is None
    assert len(anna.token) >= 32
    assert anna.token != ben.token


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no study\.sqlite"):
        Store(tmp_path)
    (tmp_path / "study.sqlite").write_bytes(b"no database at all, but long enough to be looked at" * 20)
    with pytest.raises(InputError, match="is no study"):
        Store(tmp_path)
