"""The report of a study: every number as JSON, tables as Markdown and LaTeX, plots, and the anonymised answers."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xreal.app.study.numbers import reader_label, study_numbers
from xreal.app.study.plots import plot_accuracy, plot_ratings
from xreal.app.study.store import Reading, Store
from xreal.errors import InputError
from xreal.evaluation.intervals import Number
from xreal.images import prepare_output_folder, write_bytes, write_json

__all__ = ["study_report", "write_study_report"]

Table = tuple[str, list[str], list[list[str]]]  # caption, head, rows
_CSV = ("reader", "place", "sight", "picture", "group", "generated", "asked for")


def study_report(store: Store) -> dict[str, Any]:
    """Return the numbers of a study as it stands, see ``study_numbers``."""
    return study_numbers(store.readings(), store.questions, store.progress(), store.real_share())


def write_study_report(store: Store, out: Path, overwrite: bool = False) -> str:
    """Write ``report.json``, ``report.md``, ``tables.tex``, ``answers.csv``, ``accuracy`` and ``ratings`` (SVG, PDF).

    Returns:
        What ``report.md`` says.

    Raises:
        InputError: nobody has confirmed an answer yet.
        OutputError: the folder holds files and ``overwrite`` is False, or cannot be written to.
    """
    readings = store.readings()
    if not readings:
        raise InputError("no answer has been confirmed yet; the report needs at least one")
    prepare_output_folder(out, overwrite)
    numbers = study_report(store)
    tables = _tables(numbers)
    text = "\n".join(_markdown(table) for table in tables)
    write_json(out / "report.json", numbers)
    write_bytes(out / "report.md", text.encode())
    write_bytes(out / "tables.tex", "\n".join(_latex(table) for table in tables).encode())
    write_bytes(out / "answers.csv", _answers_csv(readings, [question.name for question in store.questions]))
    plots = {
        "accuracy": plot_accuracy(numbers),
        "ratings": plot_ratings(readings, store.questions, list(numbers["all"]["ratings"])),
    }
    for name, files in plots.items():
        for suffix, data in files.items():
            write_bytes(out / f"{name}.{suffix}", data)
    return text


def _tables(numbers: dict[str, Any]) -> list[Table]:
    ratings = numbers["all"]["ratings"]
    names = list(next(iter(ratings.values())))
    groups = [
        [group, str(own["realism"]["n"]), *(_shown(own[name]) for name in names)] for group, own in ratings.items()
    ]
    readers = [
        [
            label,
            f"{one['answered']} of {one['presentations']}",
            *(_shown(one[name]) for name in ("accuracy", "sensitivity", "specificity")),
            _p(one["accuracy"]["p"]),
            "–" if one["median seconds"] is None else f"{one['median seconds']:.1f}",
        ]
        for label, one in numbers["readers"].items()
    ]
    readers.append(["all", "", _shown(numbers["all"]["accuracy"]), "", "", "", ""])
    asked = list(next(iter(numbers["readers"].values()))["kappa"])
    agreement = [[f"{label}, first and second sight", one["kappa"]] for label, one in numbers["readers"].items()]
    agreement += [[pair, kappas] for pair, kappas in numbers["between"].items()]
    if numbers["fleiss"]:
        agreement.append(["all (Fleiss)", numbers["fleiss"]])
    return [
        (
            "Answers per group: share called synthetic and mean ratings with 95% bootstrap intervals over pictures, "
            "first sights, averaged over readers.",
            ["group", "pictures", *names],
            groups,
        ),
        (
            f"Readers against chance ({numbers['chance']:.2f}): accuracy with 95% Wilson interval (all: bootstrap over "
            "pictures), exact two-sided binomial p, first sights; sensitivity is synthetic called synthetic.",
            ["reader", "answered", "accuracy", "sensitivity", "specificity", "p", "median s"],
            readers,
        ),
        (
            "Agreement: Cohen's κ, for ratings with quadratic weights, and Fleiss' κ, with 95% bootstrap intervals "
            "over pictures.",
            ["who", *asked],
            [[who, *(_shown(kappas[name]) for name in asked)] for who, kappas in agreement],
        ),
    ]


def _shown(one: Number) -> str:
    if (value := one["value"]) is None:
        return "–"
    low, high = one["low"], one["high"]
    return f"{value:.2f}" + ("" if low is None or high is None else f" ({low:.2f} to {high:.2f})")


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _markdown(table: Table) -> str:
    caption, head, rows = table
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return f"{caption}\n\n" + "\n".join(lines) + "\n"


def _latex(table: Table) -> str:
    caption, head, rows = table
    lines = [" & ".join(_escape(cell) for cell in row) + r" \\" for row in (head, *rows)]
    body = "\n".join([lines[0], r"\hline", *lines[1:]])
    return (
        f"\\begin{{table}}\n\\centering\n\\caption{{{_escape(caption)}}}\n"
        f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}\n\\hline\n{body}\n\\hline\n\\end{{tabular}}\n\\end{{table}}\n"
    )


def _escape(text: str) -> str:
    special = {c: f"\\{c}" for c in "%&#_{}$"} | {"–": "--", "κ": r"$\kappa$", "<": "$<$", "\\": r"\textbackslash{}"}
    return "".join(special.get(character, character) for character in text)


def _answers_csv(readings: Sequence[Reading], names: Sequence[str]) -> bytes:
    """Write one row per confirmed answer; readers are numbers, pictures random names, times of day are not kept."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow([*_CSV, *names, "seconds", "marks"])
    for reading in readings:
        values = ["" if reading.values[name] is None else reading.values[name] for name in names]
        writer.writerow(
            [
                reader_label(reading.reader),
                reading.place,
                reading.sight,
                reading.picture,
                reading.kind,
                int(reading.generated),
                reading.asked,
                *values,
                f"{reading.seconds:.1f}",
                json.dumps(reading.marks),
            ]
        )
    return buffer.getvalue().encode()
