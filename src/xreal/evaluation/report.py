"""The report: every number as JSON, the summary as Markdown, and one HTML page that opens without a network."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from xreal.evaluation.anatomy import anatomy_control
from xreal.evaluation.cases import Cases
from xreal.evaluation.edits import Edits
from xreal.evaluation.intervals import Number
from xreal.evaluation.judges import Judges
from xreal.evaluation.privacy import NearestImages
from xreal.images import write_bytes, write_json
from xreal.sheets import colour_labels, overlay, signed_difference

__all__ = [
    "FINDINGS",
    "SUMMARY",
    "Picture",
    "edited_pairs",
    "examples",
    "markdown_table",
    "pairs",
    "shown",
    "write_report",
]

Picture = tuple[str, np.ndarray]  # caption, (H, W) or (H, W, 3) float in [0, 1]

# Axis, metric: the columns of the summary table.
SUMMARY = (
    ("fidelity: cxr-encoder", "frechet distance"),
    ("fidelity: cxr-encoder", "precision"),
    ("fidelity: cxr-encoder", "coverage"),
    ("fidelity: autoencoder", "frechet distance"),
    ("real or generated", "accuracy"),
    ("radiomics", "radiomics distance"),
    ("spectrum", "spectrum distance"),
    ("anatomy", "dice right lung"),
    ("anatomy", "dice left lung"),
    ("anatomy", "dice heart"),
    ("anatomy", "cardiothoracic ratio error"),
    ("pathology", "inside"),
    ("pathology", "ratio"),
    ("pathology", "auroc in place"),
    ("pathology", "kid in place"),
    ("privacy", "flagged"),
)

# Metrics of a finding: the columns of its table.
FINDINGS = (
    "kid",
    "kid of other real images",
    "brighter",
    "inside",
    "response: requested",
    "auroc in place",
    "auroc",
    "pointing game",
    "iou",
)


def shown(one: Number | None) -> str:
    """Write a number with its interval as "0.931 (0.920 to 0.941)"; "–" where there is none."""
    if one is None or (value := one["value"]) is None:
        return "–"
    low, high = one["low"], one["high"]
    return _digits(value) + ("" if low is None or high is None else f" ({_digits(low)} to {_digits(high)})")


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) >= 1 else f"{value:.3f}"


def _metrics(rows: dict[str, dict[str, Any]], axis: str) -> list[str]:
    """List the metrics of an axis in the order in which the rows bring them."""
    return list(dict.fromkeys(metric for axes in rows.values() for metric in axes.get(axis, {})))


def markdown_table(report: dict[str, Any]) -> str:
    """Write the summary: one line per row, one column per number of ``SUMMARY`` that any row has; "" if none."""
    rows = report["rows"]
    columns = [(axis, metric) for axis, metric in SUMMARY if metric in _metrics(rows, axis)]
    if not columns:
        return ""
    titles = [f"{metric}, {axis.split(': ')[1]}" if ": " in axis else metric for axis, metric in columns]
    lines = ["| row | " + " | ".join(titles) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, axes in rows.items():
        cells = [shown(axes.get(axis, {}).get(metric)) for axis, metric in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _findings_table(report: dict[str, Any]) -> str:
    """Write one line per requested finding of each row."""
    lines = ["| row | finding | n | " + " | ".join(FINDINGS) + " |", "|---" * (len(FINDINGS) + 3) + "|"]
    for row, findings in report["findings"].items():
        for finding, axis in findings.items():
            n = min((one["n"] for one in axis.values()), default=0)
            lines.append(
                f"| {row} | {finding} | {n} | " + " | ".join(shown(axis.get(name)) for name in FINDINGS) + " |"
            )
    return "\n".join(lines)


def write_report(
    out: Path,
    report: dict[str, Any],
    pictures: dict[str, list[Picture]],
    plots: dict[str, bytes],
) -> None:
    """Write ``report.json``, ``report.md`` and ``index.html``.

    Args:
        out: folder that exists.
        report: "about", "rows" (row -> axis -> metric -> number), "findings" (row -> finding -> metric -> number),
            "privacy", "utility" and "notes".
        pictures: heading -> pictures with captions.
        plots: heading -> SVG.
    """
    write_json(out / "report.json", report)
    notes = "".join(f"- {note}\n" for note in report["notes"])
    about = "".join(f"- {key}: {value}\n" for key, value in report["about"].items())
    text = f"# Report card\n\n{about}\n{markdown_table(report)}\n"
    if report["findings"]:
        text += f"\n{_findings_table(report)}\n"
    write_bytes(out / "report.md", (text + (f"\n{notes}" if notes else "")).encode())
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("xreal.evaluation", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["shown"] = shown
    axes = dict.fromkeys(axis for row in report["rows"].values() for axis in row)
    page = environment.get_template("report.html.j2").render(
        report=report,
        axes={axis: _metrics(report["rows"], axis) for axis in axes},
        per_finding={
            row: list(dict.fromkeys(metric for axis in some.values() for metric in axis))
            for row, some in report["findings"].items()
        },
        pictures={
            heading: [(caption, _data_url(image)) for caption, image in some] for heading, some in pictures.items()
        },
        plots={heading: base64.b64encode(svg).decode() for heading, svg in plots.items()},
    )
    write_bytes(out / "index.html", page.encode())


def _data_url(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray((np.clip(image, 0, 1) * 255).round().astype(np.uint8)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def examples(cases: Cases, judges: Judges, count: int = 3) -> dict[str, list[Picture]]:
    """Show the cases that obey their organ mask worst, middling and best; without masks, the first ones.

    Args:
        cases: as drawn.
        judges: the segmenter tells how well a mask is obeyed: mean Dice of the organs.
        count: of each kind.
    """
    masked = np.flatnonzero(cases.organ_masks.any((1, 2)))
    if len(masked) == 0:
        return {"examples": [picture for i in range(min(count, len(cases))) for picture in _case(cases, i, "")]}
    scores = anatomy_control(judges.segmenter, cases.images[masked], cases.organ_masks[masked])
    dice = np.nanmean([values for name, values in scores.items() if name.startswith("dice")], axis=0)
    order = masked[np.argsort(dice)]
    by_index = dict(zip(masked.tolist(), dice.tolist(), strict=True))
    middle = max(0, len(order) // 2 - count // 2)
    picked = {"worst": order[:count], "median": order[middle : middle + count], "best": order[::-1][:count]}
    return {
        f"{kind} cases (mean Dice of the organs)": [
            picture for i in indices for picture in _case(cases, int(i), f"{by_index[int(i)]:.3f}")
        ]
        for kind, indices in picked.items()
    }


def _case(cases: Cases, index: int, score: str) -> list[Picture]:
    """Show one case: what was asked for, what was drawn, its twin, what the lesion changed."""
    image, twin = cases.images[index], cases.healthy[index]
    name = cases.image_ids[index]
    pictures: list[Picture] = []
    if cases.organ_masks[index].any():
        pictures.append((f"{name} organ mask", colour_labels(cases.organ_masks[index])))
    if np.isfinite(twin).all():
        asked = ", ".join(cases.findings[index])
        pictures.append((f"{asked}, where", overlay(twin, cases.lesion_masks[index])))
        pictures.append(("healthy twin", twin))
        pictures.append(("difference x2", signed_difference(image, twin)))
    return [*pictures, (f"{name} {score}".strip(), image)]


def pairs(
    images: np.ndarray, read: Callable[[np.ndarray], np.ndarray], nearest: NearestImages, count: int = 8
) -> list[Picture]:
    """Show the images that are nearest to a training image beside it, which ``read`` returns for its index."""
    pictures: list[Picture] = []
    for i in np.argsort(nearest.similarity)[::-1][:count]:
        similarity = nearest.similarity[i]
        pictures += [(f"judged, {similarity:.2f}", images[i]), ("training", read(nearest.index[[i]])[0])]
    return pictures


def edited_pairs(edits: dict[str, Edits]) -> list[Picture]:
    """Show the first X-rays of each kind of edit, the edited ones, and what changed."""
    pictures: list[Picture] = []
    for kind, some in edits.items():
        for image, edited in some.pictures:
            pictures += [("X-ray", image), (kind, edited), ("difference x2", signed_difference(edited, image))]
    return pictures
