"""The report's numbers, of answers whose numbers are known."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xreal.app.study.agreement import cohen_kappa, fleiss_kappa
from xreal.app.study.numbers import study_numbers
from xreal.app.study.questions import QUESTIONS, REALISM, VERDICT, Question
from xreal.app.study.report import write_study_report
from xreal.app.study.store import Reading, Store
from xreal.errors import InputError, OutputError

Make = Callable[..., Store]


def reading(reader: int, picture: int, verdict: int, sight: int = 1, **values: int) -> Reading:
    """Say what a reader said of one of ten pictures, of which the last five are generated."""
    given = dict.fromkeys([question.name for question in QUESTIONS]) | {"verdict": verdict, "realism": 3} | values
    made = picture >= 5
    kind = "made" if made else "real"
    return Reading(reader, picture + 10 * (sight - 1), sight, f"p{picture}", kind, made, "", given, [], 2.0 + reader)


def numbers(readings: list[Reading], readers: int = 1) -> dict[str, Any]:
    progress = {
        reader: (sum(one.reader == reader for one in readings), 20) for reader in range(1, readers + 1)
    }  # fmt: skip
    return study_numbers(readings, QUESTIONS[:2], progress, 0.5)


def test_cohen_kappa_of_a_textbook_table() -> None:
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed 0.7, expected 0.5, κ = 0.4.
    one = np.repeat([1, 1, 0, 0], [20, 5, 10, 15])
    other = np.repeat([1, 0, 1, 0], [20, 5, 10, 15])
    found = cohen_kappa(VERDICT, one, other)
    assert found["value"] == pytest.approx(0.4)
    assert found["n"] == 50
    # Large-sample standard error √(p(1 − p) / n) / (1 − e) = 0.13.
    assert found["low"] == pytest.approx(0.4 - 1.96 * 0.13, abs=0.06)
    assert found["high"] == pytest.approx(0.4 + 1.96 * 0.13, abs=0.06)


def test_ratings_one_step_apart_agree_better_than_ratings_at_the_ends() -> None:
    steps = np.tile([1, 2, 3, 4, 5], 4)
    near, far = np.clip(steps + 1, 1, 5), 6 - steps
    # Quadratic weights by hand: 1 − Σ observed (i − j)² / Σ expected (i − j)².
    expected = np.mean([(i - j) ** 2 for i in steps for j in near])
    assert cohen_kappa(REALISM, steps, near)["value"] == pytest.approx(1 - np.mean((steps - near) ** 2) / expected)
    assert cohen_kappa(REALISM, steps, far)["value"] == pytest.approx(-1)
    assert cohen_kappa(REALISM, steps, steps)["value"] == pytest.approx(1)


def test_fleiss_kappa_of_a_textbook_table() -> None:
    # Ten subjects, fourteen raters, five categories; κ = 0.210 by the formulas of Fleiss (1971).
    counts = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    question = Question("x", "", tuple((value, "") for value in range(5)))
    answers = np.array([np.repeat(np.arange(5), row) for row in counts])
    found = fleiss_kappa(question, answers)
    assert found["value"] == pytest.approx(0.210, abs=5e-4)
    assert found["low"] < found["value"] < found["high"]


def test_agreement_is_not_defined_where_all_said_the_same() -> None:
    same = np.ones(6, int)
    assert cohen_kappa(VERDICT, same, same)["value"] is None
    assert fleiss_kappa(VERDICT, np.ones((6, 3), int))["value"] is None
    assert cohen_kappa(VERDICT, same[:0], same[:0]) == {"value": None, "low": None, "high": None, "n": 0}


def test_few_pictures_have_no_interval() -> None:
    few = np.array([0, 1, 0, 1])
    assert cohen_kappa(VERDICT, few, few) == {"value": 1, "low": None, "high": None, "n": 4}
    ratings = numbers([reading(1, i, 0) for i in (0, 1, 2, 3, 5, 6, 7, 8, 9)])["all"]["ratings"]
    assert (ratings["real"]["realism"]["n"], ratings["real"]["realism"]["low"]) == (4, None)
    assert (ratings["made"]["realism"]["n"], ratings["made"]["realism"]["low"]) == (5, 3)


def test_accuracy_of_first_sights_against_chance() -> None:
    # Right on all real ones and on three of five generated ones; wrong at every second sight.
    first = [reading(1, i, int(i >= 7)) for i in range(10)]
    second = [reading(1, i, int(i < 5), sight=2) for i in (0, 1, 8, 9)]
    found = numbers(first + second)
    one = found["readers"]["R1"]
    assert (found["chance"], one["answered"], one["presentations"]) == (0.5, 14, 20)
    assert (one["accuracy"]["value"], one["accuracy"]["n"]) == (0.8, 10)
    assert one["accuracy"]["p"] == pytest.approx(2 * (45 + 10 + 1) / 1024)
    assert one["accuracy"]["low"] == pytest.approx(0.4902, abs=1e-4)  # Wilson, 8 of 10
    assert one["accuracy"]["high"] == pytest.approx(0.9433, abs=1e-4)
    assert (one["sensitivity"]["value"], one["specificity"]["value"]) == (0.6, 1)
    assert one["kappa"]["verdict"]["value"] == -1
    assert one["median seconds"] == 3
    assert found["all"]["accuracy"]["value"] == 0.8
    assert found["between"] == found["fleiss"] == {}


def test_ratings_are_averaged_over_readers_then_pictures() -> None:
    answers = [reading(reader, i, 0, realism=5 if i < 5 else reader) for reader in (1, 2) for i in range(10)]
    answers += [reading(2, 5, 1, sight=2, realism=5)]
    found = numbers(answers, readers=3)
    made = found["all"]["ratings"]["made"]
    assert (made["realism"]["value"], made["realism"]["n"], made["called synthetic"]["value"]) == (1.5, 5, 0)
    assert list(found["all"]["ratings"]) == ["real", "made"]
    assert found["readers"]["R2"]["ratings"]["made"]["realism"]["value"] == 2
    assert found["readers"]["R3"]["accuracy"]["value"] is None
    assert list(found["between"]) == ["R1, R2"]  # R3 has said nothing
    assert found["fleiss"]["realism"]["n"] == 10


def test_the_report_holds_no_name(make: Make, tmp_path: Path) -> None:
    store, out = make(), tmp_path / "report"
    with pytest.raises(InputError, match="no answer has been confirmed"):
        write_study_report(store, out)
    assert not out.exists()
    for reader in store.readers():
        for _ in range(store.progress()[reader.number][1]):
            now = store.state(reader)["current"]
            values = {question["name"]: question["options"][reader.number - 1][0] for question in now["questions"]}
            store.save(reader, now["id"], {"values": values, "marks": [[[0.5, 0.25]]], "seconds": 3, "done": True})
    text = write_study_report(store, out)
    assert {path.name for path in out.iterdir()} == {
        "report.json", "report.md", "tables.tex", "answers.csv", "accuracy.svg", "accuracy.pdf", "ratings.svg",
        "ratings.pdf",
    }  # fmt: skip
    assert (out / "report.md").read_text() == text
    assert "| R1 | 20 of 20 | 0.50 (0.28 to 0.72) | 0.00" in text
    told = b"".join(path.read_bytes() for path in out.iterdir())
    for secret in ("Anna", "Ben", "made-1", "xray-1", *(reader.token for reader in store.readers())):
        assert secret.encode() not in told
    rows = list(csv.DictReader(io.StringIO((out / "answers.csv").read_text())))
    assert len(rows) == 40
    assert {row["verdict"] for row in rows if row["reader"] == "R2"} == {"1"}
    assert {row["pathology"] for row in rows} == {"", "-2", "-1"}
    assert json.loads(rows[0]["marks"]) == [[[0.5, 0.25]]]
    numbers = json.loads((out / "report.json").read_text())
    assert numbers["readers"]["R2"]["sensitivity"]["value"] == 1
    with pytest.raises(OutputError, match="already holds files"):
        write_study_report(store, out)
    before = (out / "ratings.pdf").read_bytes(), (out / "accuracy.svg").read_bytes()
    write_study_report(store, out, overwrite=True)
    assert before == ((out / "ratings.pdf").read_bytes(), (out / "accuracy.svg").read_bytes())
