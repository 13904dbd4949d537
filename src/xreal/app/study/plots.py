"""The plots of a study, as SVG and PDF."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from xreal.app.study.questions import VERDICT, Question
from xreal.app.study.store import Reading

__all__ = ["plot_accuracy", "plot_ratings"]

# One file for the same numbers; text stays text, which journals ask for.
_STYLE = {"svg.hashsalt": "xreal", "svg.fonttype": "none", "pdf.fonttype": 42, "font.size": 9}


def plot_accuracy(numbers: dict[str, Any]) -> dict[str, bytes]:
    """Draw every reader's accuracy, and that of all, with its interval beside chance; suffix -> file."""
    rows = {label: one["accuracy"] for label, one in numbers["readers"].items()} | {"all": numbers["all"]["accuracy"]}
    rows = {label: one for label, one in rows.items() if one["value"] is not None}
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.4, 0.9 + 0.3 * len(rows)))
        axes = figure.subplots()
        for place, one in enumerate(rows.values()):
            axes.plot([one["low"], one["high"]], [place, place], color="black", linewidth=1)
            axes.plot(one["value"], place, "o", color="black", markersize=4)
        axes.axvline(numbers["chance"], color="0.5", linestyle=":", label="chance")
        axes.set(
            xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5), xlabel="accuracy, real or synthetic", yticks=range(len(rows))
        )
        axes.set_yticklabels(list(rows))
        axes.legend(loc="lower left", frameon=False)
        return _files(figure)


def plot_ratings(readings: Sequence[Reading], questions: Sequence[Question], groups: Sequence[str]) -> dict[str, bytes]:
    """Draw how often each rating was given in each group, first sights of all readers; suffix -> file."""
    rated = [question for question in questions if question is not VERDICT]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.8, (0.8 + 0.3 * len(groups)) * len(rated)), layout="constrained")
        for axes, question in zip(np.atleast_1d(figure.subplots(len(rated))), rated, strict=True):
            shares = np.array([_shares(readings, question, group) for group in groups])
            left = np.zeros(len(groups))
            for place, (value, meaning) in enumerate(question.options):
                colour = matplotlib.colormaps["RdYlBu"](0.1 + 0.8 * place / (len(question.options) - 1))
                axes.barh(range(len(groups)), shares[:, place], left=left, color=colour, label=f"{value} {meaning}")
                left += shares[:, place]
            axes.set(xlim=(0, 1), ylim=(len(groups) - 0.5, -0.5), title=question.name, yticks=range(len(groups)))
            axes.set_yticklabels(list(groups))
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=7)
        return _files(figure)


def _shares(readings: Sequence[Reading], question: Question, group: str) -> np.ndarray:
    given = [reading.values[question.name] for reading in readings if reading.kind == group and reading.sight == 1]
    counts = np.array([given.count(value) for value in question.values], float)
    return counts / max(1.0, counts.sum())


def _files(figure: Figure) -> dict[str, bytes]:
    files = {}
    for suffix, metadata in (("svg", {"Date": None}), ("pdf", {"CreationDate": None})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, bbox_inches="tight", metadata=metadata)
        files[suffix] = buffer.getvalue()
    return files
