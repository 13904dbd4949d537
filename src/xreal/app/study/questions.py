"""What readers are asked about each picture, and what counts as an answer."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from xreal.errors import InputError

__all__ = ["ANATOMY", "PATHOLOGY", "QUESTIONS", "REALISM", "VERDICT", "Answer", "Question", "check_answer"]

_MOST_MARKS, _MOST_POINTS = 200, 5000


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        name: column of the answer.
        text: as readers see it.
        options: pairs of value and meaning, in order.
        needs_request: it is about what was asked for, which is shown from then on.
    """

    name: str
    text: str
    options: tuple[tuple[int, str], ...]
    needs_request: bool = False

    @property
    def values(self) -> tuple[int, ...]:
        """Values that an answer can have."""
        return tuple(value for value, _ in self.options)

    def to_json(self) -> dict[str, Any]:
        """Return the question as the page takes it."""
        return asdict(self)


VERDICT = Question("verdict", "Real or synthetic?", ((0, "real"), (1, "synthetic")))
REALISM = Question(
    "realism",
    "How realistic is it?",
    ((1, "clearly artificial"), (2, "rather artificial"), (3, "undecided"), (4, "rather real"), (5, "as a real X-ray")),
)
_ALIGNMENT = ((-2, "not at all"), (-1, "mostly not"), (0, "cannot tell"), (1, "mostly"), (2, "exactly"))
ANATOMY = Question("anatomy", "Do the organs fill the outlines?", _ALIGNMENT, needs_request=True)
PATHOLOGY = Question("pathology", "Does it show the findings asked for?", _ALIGNMENT, needs_request=True)
QUESTIONS = (VERDICT, REALISM, ANATOMY, PATHOLOGY)


@dataclass(frozen=True)
class Answer:
    """What a reader said of one presentation, so far.

    Attributes:
        values: question's name -> value, None where it is not answered yet.
        marks: strokes on the picture, each a list of points (x, y) in [0, 1] from the top left.
        seconds: time that the picture was in view.
        done: the reader has confirmed it; it cannot be changed any more.
    """

    values: dict[str, int | None]
    marks: list[list[list[float]]]
    seconds: float
    done: bool


def check_answer(given: Any, questions: tuple[Question, ...]) -> Answer:
    """Check what came from a page.

    Args:
        given: decoded JSON with "values", "marks", "seconds" and "done".
        questions: those that this picture is asked.

    Raises:
        InputError: something is missing, of another kind or out of range, or a confirmed answer is incomplete.
    """
    if not isinstance(given, dict) or given.keys() != {"values", "marks", "seconds", "done"}:
        raise InputError("expected an object with values, marks, seconds and done")
    values, marks, seconds, done = (given[key] for key in ("values", "marks", "seconds", "done"))
    names = {question.name for question in questions}
    if not isinstance(values, dict) or not values.keys() <= names:
        raise InputError(f"values are {values!r}; expected answers to {', '.join(sorted(names))}")
    checked: dict[str, int | None] = {}
    for question in questions:
        value = values.get(question.name)
        if value is not None and (type(value) is not int or value not in question.values):
            raise InputError(f"{question.name} is {value!r}; expected one of {question.values} or null")
        checked[question.name] = value
    if not _is_number(seconds) or seconds < 0:
        raise InputError(f"seconds is {seconds!r}; expected a number ≥ 0")
    if not isinstance(done, bool):
        raise InputError(f"done is {done!r}; expected true or false")
    if done and (missing := [name for name, value in checked.items() if value is None]):
        raise InputError(f"not answered: {', '.join(missing)}; answer every question before confirming")
    return Answer(checked, _check_marks(marks), float(seconds), done)


def _check_marks(marks: Any) -> list[list[list[float]]]:
    if not isinstance(marks, list) or len(marks) > _MOST_MARKS:
        raise InputError(f"expected a list of at most {_MOST_MARKS} marks")
    for stroke in marks:
        if not isinstance(stroke, list) or not 1 <= len(stroke) <= _MOST_POINTS:
            raise InputError(f"a mark holds no points or too many; expected 1 to {_MOST_POINTS}")
        for point in stroke:
            if not isinstance(point, list) or len(point) != 2 or not all(_is_number(c) and 0 <= c <= 1 for c in point):
                raise InputError(f"a mark holds {point!r}; expected [x, y] in [0, 1]")
    return marks


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
