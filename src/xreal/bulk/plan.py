"""What a synthetic data set shall hold: read from YAML, checked before anything is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from xreal.errors import InputError
from xreal.inputs import check_settings
from xreal.vocabulary import Finding, parse_finding

__all__ = ["Anatomies", "Checks", "Drawing", "Group", "Places", "Plan", "Range", "parse_plan", "read_plan"]

Range = tuple[float, float]
"""Lowest and highest value; each image draws its own, uniformly."""


@dataclass(frozen=True)
class Group:
    """Images that show the same findings.

    Attributes:
        findings: none for healthy X-rays.
        n: how many images.
    """

    findings: tuple[Finding, ...]
    n: int


@dataclass(frozen=True)
class Anatomies:
    """Where organ masks come from: a folder of masks, real X-rays, or the statistical shape model within ranges.

    Attributes:
        masks: folder of organ masks, .png or .npy, each equally likely; None: the shape model.
        redraw: prepared data sets whose `train` X-rays are drawn again, as other patients: an image takes the organ
            mask of one that shows its findings, and all that this one shows as the prompt of the whole X-ray. No lesion
            has a place then.
        ctr: cardiothoracic ratio; None, here and below: varies as in real chests.
        heart_scale: heart's size relative to the average chest.
        lung_scale: lungs' size relative to the average chest.
        tilt: degrees.
    """

    masks: str | None = None
    redraw: tuple[str, ...] = ()
    ctr: Range | None = None
    heart_scale: Range | None = None
    lung_scale: Range | None = None
    tilt: Range | None = None


@dataclass(frozen=True)
class Places:
    """Where lesions go, and how strong they are.

    Attributes:
        boxes: prepared data sets; lesions go where the boxes of their `train` images lie, relative to the lungs. None
            given: an ellipse inside a lung, the base of one for an effusion, or the heart itself for its two findings.
        area: of an ellipse before it is cut at the lung's border, share of both lungs' area; None: as is usual for the
            finding.
        strength: factor on the guidance.
    """

    boxes: tuple[str, ...] = ()
    area: Range | None = None
    strength: Range = (1.0, 1.0)


@dataclass(frozen=True)
class Drawing:
    """Settings of ``XRealPipeline.__call__``; those that are None are filled in from the quality."""

    quality: str = "default"
    mode: str | None = None
    solver: str | None = None
    steps: int | None = None
    guidance: float | None = None
    eta: float | None = None
    lesion_start: float = 0.1
    lesion_until: float = 1.0
    exact: bool = False
    texture: float | None = None
    prompt: str = ""
    prompt_guidance: float | None = None


@dataclass(frozen=True)
class Checks:
    """What an image must stand to enter the data set.

    Attributes:
        min_dice: every organ asked for must reach this Dice in the image, or in its healthy twin where lesions could
            hide an organ.
        retries: how often an image that fails is drawn again with another seed, before it is dropped.
        train: prepared data sets that the model was trained on; a near-copy of a `train` image fails.
    """

    min_dice: float = 0.8
    retries: int = 2
    train: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A whole data set.

    Attributes:
        images: the groups, drawn in this order.
        seed: of the data set; everything follows from it, the plan and the model.
        batch_size: images drawn side by side, and kept or drawn again together when a run is killed.
    """

    images: tuple[Group, ...]
    seed: int = 0
    batch_size: int = 4
    anatomies: Anatomies = Anatomies()
    lesions: Places = Places()
    draw: Drawing = Drawing()
    checks: Checks = Checks()

    @property
    def n(self) -> int:
        """Number of images."""
        return sum(group.n for group in self.images)

    @property
    def has_places(self) -> bool:
        """Whether its findings have a place; those of X-rays drawn again belong to the whole X-ray."""
        return not self.anatomies.redraw

    def findings_of(self, index: int) -> tuple[Finding, ...]:
        """Return the findings of one image, 0 ≤ index < n."""
        for group in self.images:
            if index < group.n:
                return group.findings
            index -= group.n
        raise IndexError(index)


def read_plan(path: Path) -> Plan:
    """Read a plan from YAML (JSON is YAML too).

    Raises:
        InputError: the file is missing, is no YAML, or as ``parse_plan``.
    """
    import yaml

    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"plan {path} cannot be read ({error}); give a YAML file") from error
    except yaml.YAMLError as error:
        raise InputError(f"plan {path} is not YAML: {' '.join(str(error).split())}") from error
    try:
        return parse_plan(given)
    except InputError as error:
        raise InputError(f"plan {path}: {error}") from error


def parse_plan(given: Any) -> Plan:
    """Check a plan and fill in what it leaves out.

    Args:
        given: the fields of ``Plan`` as plain values; ``images`` is a list of {findings: [...], n: ...}.

    Raises:
        InputError: an unknown key, or a value of another kind or out of range; unknown findings too.
    """
    _check_keys("the plan", given, Plan)
    if not isinstance(given.get("images"), list) or not given["images"]:
        raise InputError("images: expected a list such as [{findings: [Edema], n: 100}, {n: 50}], at least one entry")
    plan = Plan(
        images=tuple(_group(entry) for entry in given["images"]),
        seed=_whole("seed", given.get("seed", 0), 0, 2**48),
        batch_size=_whole("batch_size", given.get("batch_size", 4), 1, 1024),
        anatomies=_section("anatomies", given, Anatomies),
        lesions=_section("lesions", given, Places),
        draw=_section("draw", given, Drawing),
        checks=_section("checks", given, Checks),
    )
    ranged = [name for name in _SHAPE_RANGES if getattr(plan.anatomies, name) is not None]
    if plan.anatomies.masks is not None and ranged:
        raise InputError(f"anatomies: {ranged[0]} shapes the shape model's chests, but masks gives them; leave one out")
    if plan.anatomies.redraw and (ranged or plan.anatomies.masks is not None):
        other = "masks" if plan.anatomies.masks is not None else ranged[0]
        raise InputError(f"anatomies: redraw takes the organs of real X-rays; leave {other} out")
    if plan.anatomies.redraw and (plan.lesions != Places() or plan.draw.prompt):
        what = "draw: prompt" if plan.draw.prompt else "lesions"
        raise InputError(f"anatomies: redraw says findings by prompt, not by place; leave {what} out")
    draw = asdict(plan.draw)
    settings = check_settings([0], **{key: value for key, value in draw.items() if key not in ("exact", "prompt")})
    return replace(plan, draw=Drawing(**draw | asdict(settings)))


_SHAPE_RANGES = ("ctr", "heart_scale", "lung_scale", "tilt")


def _check_keys(where: str, given: Any, cls: Any) -> None:
    names = [field.name for field in fields(cls)]
    if not isinstance(given, Mapping):
        raise InputError(f"{where}: expected keys and values ({', '.join(names)}), not {given!r}")
    if unknown := [key for key in given if key not in names]:
        raise InputError(f"{where}: unknown key {unknown[0]!r}; expected some of {', '.join(names)}")


def _group(entry: Any) -> Group:
    _check_keys("images", entry, Group)
    names = _texts("findings", entry.get("findings", []))
    findings = tuple(dict.fromkeys(parse_finding(name) for name in names))
    if Finding.NO_FINDING in findings and len(findings) > 1:
        raise InputError("images: No Finding stands beside a finding; leave one of them out")
    if "n" not in entry:
        raise InputError(f"images: {entry!r} does not say how many; add n")
    return Group(tuple(f for f in findings if f is not Finding.NO_FINDING), _whole("images: n", entry["n"], 1, 10**9))


def _section(name: str, given: Mapping[str, Any], cls: Any) -> Any:
    section = {} if given.get(name) is None else given[name]
    _check_keys(name, section, cls)
    return cls(**{key: _READ[key](f"{name}: {key}", value) for key, value in section.items() if value is not None})


def _whole(what: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"{what} is {value!r}; expected a whole number from {low} to {high}")
    return value


def _number(what: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{what} is {value!r}; expected a number")
    return float(value)


def _range(low: float, high: float) -> Callable[[str, Any], Range]:
    def read(what: str, value: Any) -> Range:
        ends = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value, value]
        numbers = [_number(what, end) for end in ends]
        if len(numbers) != 2 or not low <= numbers[0] <= numbers[1] <= high:
            raise InputError(f"{what} is {value!r}; expected a number or [lowest, highest] from {low:g} to {high:g}")
        return numbers[0], numbers[1]

    return read


def _texts(what: str, value: Any) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, Sequence) or not all(isinstance(one, str) and one for one in values):
        raise InputError(f"{what} is {value!r}; expected a text or a list of texts")
    return tuple(values)


def _kind(kind: type, word: str) -> Callable[[str, Any], Any]:
    def read(what: str, value: Any) -> Any:
        if not isinstance(value, kind):
            raise InputError(f"{what} is {value!r}; expected {word}")
        return value

    return read


def _share(what: str, value: Any) -> float:
    if not 0 <= _number(what, value) <= 1:
        raise InputError(f"{what} is {value!r}; expected 0 to 1")
    return float(value)


_READ: dict[str, Callable[[str, Any], Any]] = {
    "masks": _kind(str, "a folder"),
    "redraw": _texts,
    "ctr": _range(0.1, 0.9),
    "heart_scale": _range(0.2, 5),
    "lung_scale": _range(0.2, 5),
    "tilt": _range(-45, 45),
    "boxes": _texts,
    "area": _range(0.001, 0.5),
    "strength": _range(0.01, 4),
    "quality": _kind(str, "draft, default or reference"),
    "mode": _kind(str, "regional or two-pass"),
    "solver": _kind(str, "ddim, dpm++, unipc or euler"),
    "steps": lambda what, value: _whole(what, value, 1, 999),
    "guidance": _number,
    "eta": _number,
    "lesion_start": _number,
    "lesion_until": _number,
    "texture": _number,
    "exact": _kind(bool, "true or false"),
    "prompt": _kind(str, "a text"),
    "prompt_guidance": _number,
    "min_dice": _share,
    "retries": lambda what, value: _whole(what, value, 0, 1000),
    "train": _texts,
}
