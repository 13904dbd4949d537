"""A blinded study for readers: real and generated X-rays under names that tell nothing, a form, and a key kept apart.

Every picture is shown twice, so that a reader is also compared with themself. Nothing in the pack tells which picture
is synthetic: the key does, and stays with whoever runs the study.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.stats import binomtest
from torchmetrics.functional.classification import binary_cohen_kappa, multiclass_cohen_kappa

from xreal.errors import InputError, OutputError
from xreal.evaluation.cases import Cases
from xreal.evaluation.control import mean_and_interval
from xreal.images import prepare_output_folder, write_bytes, write_json
from xreal.vocabulary import Finding, prompt_from_findings

__all__ = ["ReaderAnswers", "read_answers", "reader_agreement", "reader_scores", "write_reader_pack"]

FORM_NAME = "answers.csv"
_SCALES = {"realism": (1, 5), "alignment": (-2, 2), "anatomy": (1, 5), "pathology": (1, 5)}
_VERDICT, _REAL, _SYNTHETIC = "real or synthetic", "real", "synthetic"
_COLUMNS = ("image", "asked for", *_SCALES, _VERDICT)
_NOT_APPLICABLE = "n/a"
_FEWEST = 2
_INSTRUCTIONS = f"""\
Some of these chest X-rays are real, some were made by a computer. Look at them in the order of their numbers, each by
itself, and fill in one row of {FORM_NAME} for each before you go on. Do not go back. Nothing may stay empty, and no
row, name or column may be changed; "{_NOT_APPLICABLE}" stays as it is. "asked for" is what the picture should show.

realism            1 clearly artificial, 2 rather artificial, 3 undecided, 4 rather real, 5 as a real X-ray
alignment          -2 contradicts what was asked for, -1 mostly not, 0 cannot tell, 1 mostly, 2 shows exactly that
anatomy            1 impossible, 2 gross faults, 3 faults, 4 slight faults, 5 faultless
pathology          1 unlike any disease, 2 poor, 3 fair, 4 good, 5 as in a patient
real or synthetic  your verdict: {_REAL} or {_SYNTHETIC}
"""


@dataclass(frozen=True)
class ReaderAnswers:
    """What one reader said of N images, each seen twice.

    Attributes:
        generated: (N,) bool, the truth.
        verdicts: (N, 2) bool, "synthetic" at the first and at the second sight.
        ratings: "realism", "alignment", "anatomy", "pathology" -> (N, 2) float64; NaN in "pathology" where no
            pathology was asked for.
    """

    generated: np.ndarray
    verdicts: np.ndarray
    ratings: dict[str, np.ndarray]


def write_reader_pack(pack: Path, key: Path, real: Cases, generated: Cases, seed: int = 0) -> None:
    """Write the pictures, the form and the instructions to ``pack``, and which is which to ``key``.

    The second showing of a picture comes at least half the number of pictures after the first. PNGs hold 8-bit grey
    pixels and nothing else, uncompressed, so that even their sizes are equal.

    Args:
        pack: new or empty folder; goes to the readers.
        key: JSON file outside of that folder; does not.
        real: with findings of the same kind as the generated ones have, since readers see them.
        generated: of the same size in pixels.
        seed: of the order.

    Raises:
        InputError: fewer than 2 images of a kind, sizes differ, the findings of only one kind are known (each would
            give the answer away), values outside [0, 1], or the key lies in the pack.
        OutputError: the pack holds files, or the key exists or cannot be written.
    """
    pack, key = Path(pack), Path(key)
    _check_blinding(real, generated)
    if key.resolve().is_relative_to(pack.resolve()):
        raise InputError(f"the key {key} lies in the pack {pack} that readers get; put it somewhere else")
    if key.exists():
        raise OutputError(f"{key} exists; a lost key makes its pack worthless. Choose another name.")
    prepare_output_folder(pack)
    shown = [(cases, i) for cases in (real, generated) for i in range(len(cases))]
    entries: list[dict[str, Any]] = []
    for number, index in enumerate(_order(len(shown), seed), start=1):
        cases, i = shown[index]
        entries.append(
            {
                "image": f"{number:04d}.png",
                "asked for": prompt_from_findings(cases.findings[i]) or "a chest X-ray",
                "has pathology": bool(set(cases.findings[i]) - {Finding.NO_FINDING}),
                "picture": index,
                "image_id": cases.image_ids[i],
                "generated": cases is generated,
            }
        )
    write_json(key, {"seed": seed, "images": entries})
    for entry in entries:
        cases, i = shown[entry["picture"]]
        write_bytes(pack / entry["image"], _bare_png(cases.images[i]))
    write_bytes(pack / FORM_NAME, _empty_form(entries))
    write_bytes(pack / "instructions.txt", _INSTRUCTIONS.encode())


def read_answers(form: Path, key: Path) -> ReaderAnswers:
    """Read a filled-in form; commas or semicolons, as spreadsheets write them.

    Raises:
        InputError: a file is missing or of another layout, rows were added, removed or changed, an answer is missing
            or outside its scale.
    """
    entries = _read_key(key)
    rows = _read_form(form)
    names = [row["image"] for row in rows]
    expected = {entry["image"]: entry for entry in entries}
    if sorted(names) != sorted(expected):
        odd = sorted((set(names) ^ set(expected)) or {name for name in names if names.count(name) > 1})
        raise InputError(
            f"{form} has {len(names)} rows, {key} {len(expected)}; not in both, or twice: {', '.join(odd[:5])}. "
            "Use the form of this pack with one row for each picture."
        )
    empty = [f"{row['image']} ({name})" for row in rows for name in _COLUMNS if not row[name]]
    if empty:
        raise InputError(f"{form} is unfinished: {len(empty)} answers are missing, first {empty[0]}. Fill them in.")
    answers = {row["image"]: _answers(row, expected[row["image"]], form) for row in rows}
    looks: dict[int, list[str]] = {}
    for entry in entries:  # in the order of presentation
        looks.setdefault(entry["picture"], []).append(entry["image"])
    truth = {entry["picture"]: entry["generated"] for entry in entries}
    pictures = sorted(looks)
    table = np.array([[answers[name] for name in looks[picture]] for picture in pictures], np.float64)
    return ReaderAnswers(
        generated=np.array([truth[picture] for picture in pictures]),
        verdicts=table[:, :, -1] > 0,
        ratings={name: table[:, :, i] for i, name in enumerate(_SCALES)},
    )


def reader_scores(answers: ReaderAnswers) -> dict[str, Any]:
    """Sum up one reader.

    Returns:
        "real" and "generated": rating -> {"mean", "low", "high", "n"}, over pictures (mean of both sights) with a 95%
        bootstrap interval; ratings that no picture of the kind has are left out. "accuracy": the share of right
        verdicts at the first sight with its 95% Wilson interval, {"mean", "low", "high", "n"}; 0.5 is guessing if
        half of the pictures are real. "kappa": verdict and rating -> Cohen's κ between the sights, see
        :func:`reader_agreement`.
    """
    scores: dict[str, Any] = {}
    for kind, chosen in (("real", ~answers.generated), ("generated", answers.generated)):
        means = {name: ratings[chosen].mean(axis=1) for name, ratings in answers.ratings.items()}
        rated = {name: values[np.isfinite(values)] for name, values in means.items()}
        scores[kind] = {name: _summary(*mean_and_interval(v), len(v)) for name, v in rated.items() if len(v)}
    right = answers.verdicts[:, 0] == answers.generated
    interval = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    scores["accuracy"] = _summary(float(right.mean()), float(interval.low), float(interval.high), len(right))
    scores["kappa"] = _kappas(
        answers.verdicts[:, 0],
        answers.verdicts[:, 1],
        {name: (ratings[:, 0], ratings[:, 1]) for name, ratings in answers.ratings.items()},
    )
    return scores


def reader_agreement(first: ReaderAnswers, second: ReaderAnswers) -> dict[str, float]:
    """Return Cohen's κ between two readers of one pack, over all 2N presentations.

    Returns:
        "real or synthetic" -> κ; each rating -> κ with quadratic weights, since its steps are ordered. NaN where both
        gave one same answer throughout, for which κ is not defined.

    Raises:
        InputError: the answers are of different packs.
    """
    if not np.array_equal(first.generated, second.generated):
        raise InputError("the answers are of different packs; read both forms with one key")
    pairs = {name: (ratings.ravel(), second.ratings[name].ravel()) for name, ratings in first.ratings.items()}
    return _kappas(first.verdicts.ravel(), second.verdicts.ravel(), pairs)


def _summary(mean: float, low: float, high: float, n: int) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high, "n": n}


def _kappas(
    verdicts: np.ndarray, other_verdicts: np.ndarray, ratings: dict[str, tuple[np.ndarray, np.ndarray]]
) -> dict[str, float]:
    verdict_pair = torch.from_numpy(verdicts).int(), torch.from_numpy(other_verdicts).int()
    kappas = {_VERDICT: float(binary_cohen_kappa(*verdict_pair))}
    for name, (one, other) in ratings.items():
        low, high = _SCALES[name]
        rated = np.isfinite(one) & np.isfinite(other)
        if rated.any():
            pair = (torch.from_numpy(values[rated] - low).long() for values in (one, other))
            kappas[name] = float(multiclass_cohen_kappa(*pair, num_classes=high - low + 1, weights="quadratic"))
    return kappas


def _check_blinding(real: Cases, generated: Cases) -> None:
    for name, cases in (("real", real), ("generated", generated)):
        if len(cases) < _FEWEST:
            raise InputError(f"{len(cases)} {name} images; a reader study needs at least {_FEWEST} of each kind")
        if not (np.isfinite(cases.images).all() and cases.images.min() >= 0 and cases.images.max() <= 1):
            raise InputError(f"{name} images hold values outside [0, 1]; rescale or clip them")
    if real.images.shape[1:] != generated.images.shape[1:]:
        raise InputError(
            f"real images are {real.images.shape[1:]}, generated ones {generated.images.shape[1:]} pixels, which tells "
            "them apart; fit both to one size"
        )
    unknown = [any(not findings for findings in cases.findings) for cases in (real, generated)]
    if unknown[0] != unknown[1]:
        raise InputError(
            "only one of real and generated has images without known findings, which tells them apart on the form; "
            "take cases with findings (or none at all) from both"
        )


def _order(count: int, seed: int) -> list[int]:
    """Show all once, then all again: the first half of the first round, shuffled anew, then its second half."""
    rng = np.random.default_rng(seed)
    first = rng.permutation(count)
    halves = first[: count // 2], first[count // 2 :]
    return [int(i) for part in (first, *(rng.permutation(half) for half in halves)) for i in part]


def _bare_png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def _empty_form(entries: Sequence[dict[str, Any]]) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, _COLUMNS, restval="")
    writer.writeheader()
    for entry in entries:
        row = {"image": entry["image"], "asked for": entry["asked for"]}
        writer.writerow(row if entry["has pathology"] else row | {"pathology": _NOT_APPLICABLE})
    return buffer.getvalue().encode()


def _read_key(key: Path) -> list[dict[str, Any]]:
    try:
        entries: list[dict[str, Any]] = json.loads(Path(key).read_text("utf-8"))["images"]
        if not all({"image", "asked for", "has pathology", "picture", "generated"} <= set(entry) for entry in entries):
            raise KeyError("images")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{key} is no key of a reader pack ({error!r}); give the file written with the pack"
        ) from error
    return entries


def _read_form(form: Path) -> list[dict[str, str]]:
    try:
        text = Path(form).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{form} cannot be read ({error}); give the filled-in form, saved as CSV in UTF-8") from error
    header = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text), delimiter=";" if ";" in header else ",")
    if tuple(reader.fieldnames or ()) != _COLUMNS:
        raise InputError(f"{form} has the columns {reader.fieldnames}; expected {list(_COLUMNS)}, unchanged")
    return [{name: (row[name] or "").strip() for name in _COLUMNS} for row in reader]


def _answers(row: dict[str, str], entry: dict[str, Any], form: Path) -> list[float]:
    """Turn a complete row into ratings and verdict (1 for synthetic)."""
    if row["asked for"] != entry["asked for"]:
        raise InputError(f"{form}: {row['image']} asks for {row['asked for']!r}; the pack for {entry['asked for']!r}")
    values = []
    for name, (low, high) in _SCALES.items():
        if name == "pathology" and not entry["has pathology"]:
            wanted, value = _NOT_APPLICABLE, np.nan if row[name].lower() == _NOT_APPLICABLE else None
        else:
            steps = {str(step): float(step) for step in range(low, high + 1)}
            wanted, value = f"a whole number from {low} to {high}", steps.get(row[name].replace("−", "-").lstrip("+"))
        if value is None:
            raise InputError(f"{form}: {name} of {row['image']} is {row[name]!r}; expected {wanted}")
        values.append(value)
    verdict = row[_VERDICT].lower()
    if verdict not in (_REAL, _SYNTHETIC):
        raise InputError(
            f"{form}: {_VERDICT!r} of {row['image']} is {row[_VERDICT]!r}; expected {_REAL} or {_SYNTHETIC}"
        )
    return [*values, float(verdict == _SYNTHETIC)]
