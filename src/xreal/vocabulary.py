"""Names: organs, findings, and the words that a prompt is made of."""

from __future__ import annotations

import difflib
import enum
import re
from collections.abc import Iterable

from xreal.errors import FindingError

__all__ = ["Finding", "Organ", "find_finding", "parse_finding", "prompt_from_findings", "prompt_words"]


class Organ(enum.IntEnum):
    """Labels of an organ mask. Left and right are the patient's: the right lung is on the left of the image."""

    BACKGROUND = 0
    LEFT_LUNG = 1
    RIGHT_LUNG = 2
    HEART = 3
    AORTA = 4

    @property
    def title(self) -> str:
        """Name for people, such as "left lung"."""
        return self.name.lower().replace("_", " ")


class Finding(enum.StrEnum):
    """Radiological findings: the CheXpert and MIMIC-CXR names, then those that only NIH ChestX-ray14 has."""

    NO_FINDING = "No Finding"
    ATELECTASIS = "Atelectasis"
    CARDIOMEGALY = "Cardiomegaly"
    CONSOLIDATION = "Consolidation"
    EDEMA = "Edema"
    ENLARGED_CARDIOMEDIASTINUM = "Enlarged Cardiomediastinum"
    FRACTURE = "Fracture"
    LUNG_LESION = "Lung Lesion"
    LUNG_OPACITY = "Lung Opacity"
    PLEURAL_EFFUSION = "Pleural Effusion"
    PLEURAL_OTHER = "Pleural Other"
    PNEUMONIA = "Pneumonia"
    PNEUMOTHORAX = "Pneumothorax"
    SUPPORT_DEVICES = "Support Devices"
    EMPHYSEMA = "Emphysema"
    FIBROSIS = "Fibrosis"
    HERNIA = "Hernia"
    INFILTRATION = "Infiltration"
    MASS = "Mass"
    NODULE = "Nodule"
    PLEURAL_THICKENING = "Pleural Thickening"


# Names that data sets use for the same thing (ChestX-ray14 labels and box lists, RSNA 2018, VinDr-CXR, PadChest).
_ALIASES = {
    "effusion": Finding.PLEURAL_EFFUSION,
    "infiltrate": Finding.INFILTRATION,
    "infiltrates": Finding.INFILTRATION,
    "pleural thickening": Finding.PLEURAL_THICKENING,
    "oedema": Finding.EDEMA,
    "pulmonary edema": Finding.EDEMA,
    "pulmonary fibrosis": Finding.FIBROSIS,
    "nodule/mass": Finding.LUNG_LESION,
    "opacity": Finding.LUNG_OPACITY,
    "normal": Finding.NO_FINDING,
    "healthy": Finding.NO_FINDING,
}


def _key(name: str) -> str:
    return re.sub(r"[\s_\-]+", " ", name).strip().lower()


_BY_KEY = {_key(finding.value): finding for finding in Finding} | _ALIASES


def parse_finding(name: str | Finding) -> Finding:
    """Find the finding of that name, in any case, with spaces, hyphens or underscores, or by a data set's alias.

    Raises:
        FindingError: the name is not known; the message suggests the nearest and lists all.
    """
    if isinstance(name, Finding):
        return name
    finding = _BY_KEY.get(_key(name))
    if finding is None:
        near = difflib.get_close_matches(_key(name), _BY_KEY, n=1)
        hint = f" Did you mean {_BY_KEY[near[0]].value!r}?" if near else ""
        raise FindingError(f"unknown finding {name!r}.{hint} Known findings: {', '.join(f.value for f in Finding)}.")
    return finding


def find_finding(name: str) -> Finding | None:
    """Find the finding of that name as ``parse_finding`` does; None where there is none."""
    return _BY_KEY.get(_key(name))


_VIEWS = {"PA": "PA view", "AP": "AP view"}
_SEXES = {"M": "male", "F": "female"}


def prompt_from_findings(findings: Iterable[str | Finding], view_position: str = "", sex: str = "") -> str:
    """Write the prompt of an image: finding names, then view and sex when known, joined by commas.

    Args:
        findings: names or members of ``Finding``; order does not matter, the prompt follows the enumeration's.
        view_position: DICOM View Position, "PA" or "AP"; anything else is left out.
        sex: DICOM Patient's Sex, "M" or "F"; anything else is left out.

    Returns:
        Such as "Pleural Effusion, Pneumonia, AP view, female"; "" if nothing is known.
    """
    wanted = {parse_finding(finding) for finding in findings}
    words = [finding.value for finding in Finding if finding in wanted]
    words += [phrase for phrase in (_VIEWS.get(view_position), _SEXES.get(sex)) if phrase]
    return ", ".join(words)


def prompt_words() -> list[str]:
    """List every phrase that a prompt can hold: what the tokenizer's vocabulary is trained on."""
    return [finding.value for finding in Finding] + list(_VIEWS.values()) + list(_SEXES.values())
