"""The numbers of a study: accuracy against chance, ratings per group, agreement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import binomtest

from xreal.app.study.agreement import FEWEST_FOR_INTERVAL, cohen_kappa, fleiss_kappa
from xreal.app.study.questions import VERDICT, Question
from xreal.app.study.store import Reading
from xreal.evaluation.control import mean_and_interval
from xreal.evaluation.intervals import Number, number, share_interval

__all__ = ["reader_label", "study_numbers"]


def reader_label(reader: int) -> str:
    """Name a reader without their name, such as "R1"."""
    return f"R{reader}"


def study_numbers(
    readings: Sequence[Reading], questions: Sequence[Question], progress: dict[int, tuple[int, int]], real_share: float
) -> dict[str, Any]:
    """Sum up the confirmed answers.

    Accuracy, ratings and agreement between readers are of first sights alone; second sights are compared with the
    first. Intervals of all readers together are over pictures, the readers being taken as they are.

    Args:
        readings: confirmed answers.
        questions: those that were asked.
        progress: reader's number -> confirmed answers and presentations.
        real_share: of the pictures; who always gives the more frequent verdict is right that often.

    Returns:
        "chance"; "readers" -> label -> "answered", "presentations", "median seconds", "accuracy" (with exact
        two-sided "p" against chance), "sensitivity" (synthetic pictures called synthetic), "specificity", "ratings"
        (group -> rating), "kappa" (question -> κ between sights); "all" -> "accuracy", "ratings"; "between" ->
        "R1, R2" -> question -> Cohen's κ; "fleiss" -> question -> κ of all readers who have answered.
    """
    chance = max(real_share, 1 - real_share)
    groups = list(dict.fromkeys(reading.kind for reading in sorted(readings, key=lambda r: (r.generated, r.kind))))
    readers = {}
    for reader, (done, total) in sorted(progress.items()):
        own = [reading for reading in readings if reading.reader == reader]
        readers[reader_label(reader)] = {
            "answered": done,
            "presentations": total,
            "median seconds": float(np.median([reading.seconds for reading in own])) if own else None,
            **_accuracy(own, chance),
            "ratings": {group: _ratings(own, group, questions) for group in groups},
            "kappa": {question.name: _within(own, question) for question in questions},
        }
    active = [reader for reader, (done, _) in sorted(progress.items()) if done]
    return {
        "chance": chance,
        "readers": readers,
        "all": {
            "accuracy": _mean(_per_picture(readings, lambda r: float(bool(r.values["verdict"]) == r.generated))),
            "ratings": {group: _ratings(readings, group, questions) for group in groups},
        },
        "between": {
            f"{reader_label(one)}, {reader_label(other)}": {
                question.name: _between(readings, question, one, other) for question in questions
            }
            for one, other in combinations(active, 2)
        },
        "fleiss": {question.name: _fleiss(readings, question, active) for question in questions}
        if len(active) > 1
        else {},
    }


def _first(readings: Iterable[Reading]) -> list[Reading]:
    return [reading for reading in readings if reading.sight == 1]


def _accuracy(own: Sequence[Reading], chance: float) -> dict[str, Number]:
    seen = _first(own)
    right = [bool(reading.values["verdict"]) == reading.generated for reading in seen]
    accuracy = _proportion(right)
    accuracy["p"] = float(binomtest(sum(right), len(right), chance).pvalue) if right else None
    return {
        "accuracy": accuracy,
        "sensitivity": _proportion([r for r, reading in zip(right, seen, strict=True) if reading.generated]),
        "specificity": _proportion([r for r, reading in zip(right, seen, strict=True) if not reading.generated]),
    }


def _proportion(hits: Sequence[bool]) -> Number:
    """Return a share with its 95% Wilson interval."""
    if not hits:
        return number(np.nan, 0)
    share = sum(hits) / len(hits)
    return number(share, len(hits), *share_interval(share, len(hits)))


def _ratings(readings: Sequence[Reading], group: str, questions: Sequence[Question]) -> dict[str, Number]:
    """Average per picture over readers, then over pictures; "called synthetic" in place of the verdict."""
    own = [reading for reading in readings if reading.kind == group]
    names = {question.name: "called synthetic" if question is VERDICT else question.name for question in questions}
    return {shown: _mean(_per_picture(own, lambda r, name=name: r.values[name])) for name, shown in names.items()}


def _per_picture(readings: Sequence[Reading], value: Any) -> list[float]:
    pictures: dict[str, list[float]] = {}
    for reading in _first(readings):
        if (one := value(reading)) is not None:
            pictures.setdefault(reading.picture, []).append(one)
    return [float(np.mean(values)) for values in pictures.values()]


def _mean(values: Sequence[float]) -> Number:
    if not values:
        return number(np.nan, 0)
    if len(values) < FEWEST_FOR_INTERVAL:
        return number(float(np.mean(values)), len(values))
    mean, low, high = mean_and_interval(values)
    return number(mean, len(values), low, high)


def _answers(readings: Sequence[Reading], question: Question, reader: int, sight: int = 1) -> dict[str, int]:
    return {
        reading.picture: value
        for reading in readings
        if reading.reader == reader and reading.sight == sight and (value := reading.values[question.name]) is not None
    }


def _kappa_of_shared(question: Question, one: dict[str, int], other: dict[str, int]) -> Number:
    shared = sorted(one.keys() & other.keys())
    return cohen_kappa(question, np.array([one[p] for p in shared]), np.array([other[p] for p in shared]))


def _within(own: Sequence[Reading], question: Question) -> Number:
    if not own:
        return number(np.nan, 0)
    reader = own[0].reader
    return _kappa_of_shared(question, _answers(own, question, reader), _answers(own, question, reader, sight=2))


def _between(readings: Sequence[Reading], question: Question, one: int, other: int) -> Number:
    return _kappa_of_shared(question, _answers(readings, question, one), _answers(readings, question, other))


def _fleiss(readings: Sequence[Reading], question: Question, readers: Sequence[int]) -> Number:
    columns = [_answers(readings, question, reader) for reader in readers]
    shared = sorted(set.intersection(*(set(column) for column in columns)))
    return fleiss_kappa(
        question, np.array([[column[p] for column in columns] for p in shared]).reshape(-1, len(readers))
    )
