"""What organs and findings are called in DICOM: SNOMED CT codes ("SCT"), and DICOM's own ("DCM") where it has one.

Sources: the context groups of PS3.16 (CID 7150 categories, 7155 thoracic structures, 7159 lesions, 6104 and 6105
opacities and lucencies, 244 laterality), and SNOMED CT itself for diseases that these do not list. A finding for which
no code was found whose meaning is certain is a "Lesion" in its place; the segment's label has the finding's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from xreal.vocabulary import Finding, Organ

__all__ = ["FINDINGS", "ORGANS", "Code", "Meaning"]


class Code(NamedTuple):
    """Code Value, Coding Scheme Designator, Code Meaning."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class Meaning:
    """What a segment shows.

    Attributes:
        kind: Segmented Property Type.
        category: Segmented Property Category.
        laterality: modifier of the kind, the patient's side.
        region: Anatomic Region, for kinds that may be anywhere.
    """

    kind: Code
    category: Code
    laterality: Code | None = None
    region: Code | None = None


def _sct(value: str, meaning: str) -> Code:
    return Code(value, "SCT", meaning)


_STRUCTURE = _sct("91723000", "Anatomical Structure")
_ABNORMAL = _sct("49755003", "Morphologically Abnormal Structure")
_OBJECT = _sct("260787004", "Physical object")
_LUNG = _sct("39607008", "Lung")
_PLEURA = _sct("3120008", "Pleura")
_MEDIASTINUM = _sct("72410000", "Mediastinum")
_HEART = _sct("80891009", "Heart")
_LESION = _sct("52988006", "Lesion")

ORGANS = {
    Organ.LEFT_LUNG: Meaning(_LUNG, _STRUCTURE, _sct("7771000", "Left")),
    Organ.RIGHT_LUNG: Meaning(_LUNG, _STRUCTURE, _sct("24028007", "Right")),
    Organ.HEART: Meaning(_HEART, _STRUCTURE),
    Organ.AORTA: Meaning(_sct("15825003", "Aorta"), _STRUCTURE),
}

_FINDING_KINDS: dict[Finding, tuple[Code, Code | None]] = {
    Finding.ATELECTASIS: (_sct("46621007", "Atelectasis"), _LUNG),
    Finding.CARDIOMEGALY: (_sct("287272002", "Cardiomegaly"), _HEART),
    Finding.CONSOLIDATION: (_sct("95436008", "Lung consolidation"), _LUNG),
    Finding.EDEMA: (_sct("19242006", "Pulmonary edema"), _LUNG),
    Finding.ENLARGED_CARDIOMEDIASTINUM: (_LESION, _MEDIASTINUM),
    Finding.FRACTURE: (_sct("72704001", "Fracture"), None),
    Finding.LUNG_LESION: (_LESION, _LUNG),
    Finding.LUNG_OPACITY: (Code("112001", "DCM", "Opacity"), _LUNG),
    Finding.PLEURAL_EFFUSION: (_sct("60046008", "Pleural effusion"), _PLEURA),
    Finding.PLEURAL_OTHER: (_LESION, _PLEURA),
    Finding.PNEUMONIA: (_sct("233604007", "Pneumonia"), _LUNG),
    Finding.PNEUMOTHORAX: (_sct("36118008", "Pneumothorax"), _PLEURA),
    Finding.SUPPORT_DEVICES: (_sct("49062001", "Device"), None),
    Finding.EMPHYSEMA: (_sct("87433001", "Pulmonary emphysema"), _LUNG),
    Finding.FIBROSIS: (_sct("51615001", "Fibrosis of lung"), _LUNG),
    Finding.HERNIA: (_sct("39839004", "Diaphragmatic hernia"), None),
    Finding.INFILTRATION: (_sct("409609008", "Radiologic infiltrate of lung"), _LUNG),
    Finding.MASS: (_sct("4147007", "Mass"), _LUNG),
    Finding.NODULE: (_sct("27925004", "Nodule"), _LUNG),
    Finding.PLEURAL_THICKENING: (_LESION, _PLEURA),
}

FINDINGS = {
    finding: Meaning(kind, _OBJECT if finding is Finding.SUPPORT_DEVICES else _ABNORMAL, region=region)
    for finding, (kind, region) in _FINDING_KINDS.items()
}
