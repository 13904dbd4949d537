"""Organ and lesion masks as one DICOM Segmentation that refers to its image, and organs read back from one."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from xreal.dicom.codes import FINDINGS, ORGANS, Code, Meaning
from xreal.dicom.dataset import equipment, is_dicom, make_uid, open_dataset, quiet, require_dicom, save
from xreal.errors import ImageError, MaskError
from xreal.vocabulary import Finding, Organ, parse_finding

__all__ = ["is_segmentation", "read_organ_segmentation", "write_segmentation"]

_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"  # Segmentation Storage
# Elements that an image must have, if empty; a segmentation takes them over.
_PATIENT_AND_STUDY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
# SNOMED CT also has a code for each lung, which other writers use instead of "Lung" with a side.
_OTHER_CODES = {"44029006": Organ.LEFT_LUNG, "3341006": Organ.RIGHT_LUNG}

Segment = tuple[str, Meaning, npt.NDArray[np.bool_]]


def write_segmentation(
    path: str | os.PathLike[str],
    image_path: str | os.PathLike[str],
    organ_mask: npt.NDArray[np.integer[Any]] | None = None,
    lesions: Iterable[tuple[str | Finding, npt.NDArray[np.floating[Any]]]] = (),
    *,
    series_number: int = 100,
) -> None:
    """Write masks as a binary Segmentation in the image's study: a segment for each organ present and each lesion.

    Identifiers are made from the image's and the masks. The masks are marked MANUAL: given, not measured in the image.

    Args:
        path: ends in ".dcm"; the folder exists.
        image_path: DICOM image that the masks belong to.
        organ_mask: (H, W) ``Organ`` labels in the image's size, or None.
        lesions: finding and (H, W) mask in [0, 1]; what is above half of the mask's highest value is lesion.
        series_number: 1 or more.

    Raises:
        MaskError: a mask of another size or without area, or none at all.
        ImageError: the image cannot be read, or does not say which study it belongs to.
        InputError: a finding is unknown, or the extra ``dicom`` is not installed.
        OutputError: the file cannot be written.
    """
    require_dicom()
    from highdicom.seg import Segmentation

    image = open_dataset(image_path)
    if missing := [name for name in ("StudyInstanceUID", "SOPInstanceUID", "Rows", "Columns") if name not in image]:
        raise ImageError(f"{image_path} has no {missing[0]}; expected a DICOM image that masks can refer to.")
    segments = [*_organ_segments(organ_mask), *_lesion_segments(lesions)]
    shape = (int(image.Rows), int(image.Columns))
    if not segments:
        raise MaskError("neither organ_mask nor lesions hold anything; expected a mask to write.")
    for label, _, area in segments:
        if area.shape != shape:
            raise MaskError(
                f"mask of {label} is {area.shape}, image {image_path} {shape} (H, W); expected equal sizes."
            )
    for name in _PATIENT_AND_STUDY:
        if name not in image:
            setattr(image, name, None)
    areas = np.stack([area for _, _, area in segments], axis=-1)
    digest = hashlib.sha256(np.packbits(areas).tobytes()).hexdigest()
    parts = (str(image.SOPInstanceUID), *(label for label, _, _ in segments), digest, str(series_number))
    with quiet():
        segmentation = Segmentation(
            source_images=[image],
            pixel_array=areas[None].astype(np.uint8),
            segmentation_type="BINARY",
            segment_descriptions=[
                _description(number, label, meaning, make_uid("segment", *parts, str(number)))
                for number, (label, meaning, _) in enumerate(segments, 1)
            ],
            series_instance_uid=make_uid("masks series", *parts),
            sop_instance_uid=make_uid("masks", *parts),
            series_number=series_number,
            series_description="Organ and lesion masks",
            instance_number=1,
            content_label="MASKS",
            content_description="Organ and lesion masks",
            pixel_measures=_pixel_measures(image),
            omit_empty_frames=False,
            **equipment(str(image.get("DeviceSerialNumber") or "")),
        )
    segmentation.SyntheticData = image.get("SyntheticData") or "NO"
    segmentation.PatientOrientation = image.get("PatientOrientation")
    save(segmentation, path)


def _organ_segments(organ_mask: npt.NDArray[np.integer[Any]] | None) -> Iterable[Segment]:
    if organ_mask is None:
        return
    organ_mask = np.asarray(organ_mask)
    if organ_mask.ndim != 2 or organ_mask.dtype.kind not in "iu" or not np.isin(organ_mask, list(Organ)).all():
        raise MaskError(f"organ_mask is {organ_mask.dtype} of shape {organ_mask.shape}; expected (H, W) labels 0 to 4.")
    for organ, meaning in ORGANS.items():
        if (organ_mask == organ).any():
            yield organ.title.capitalize(), meaning, organ_mask == organ


def _lesion_segments(lesions: Iterable[tuple[str | Finding, npt.NDArray[np.floating[Any]]]]) -> Iterable[Segment]:
    seen: Counter[Finding] = Counter()
    for name, mask in lesions:
        finding, mask = parse_finding(name), np.asarray(mask)
        if finding not in FINDINGS:
            raise MaskError(f"{finding.value!r} has no place in the image; expected a finding that can be seen.")
        if mask.ndim != 2 or not mask.any() or not (mask.min() >= 0 and mask.max() <= 1):
            raise MaskError(f"lesion mask of {finding.value}: expected (H, W) in [0, 1] with some area above 0.")
        seen[finding] += 1
        number = f" {seen[finding]}" if seen[finding] > 1 else ""
        yield finding.value + number, FINDINGS[finding], mask > mask.max() / 2


def _description(number: int, label: str, meaning: Meaning, tracking_uid: str) -> Any:
    from highdicom.seg import SegmentDescription

    description = SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=_concept(meaning.category),
        segmented_property_type=_concept(meaning.kind),
        algorithm_type="MANUAL",
        tracking_uid=tracking_uid,
        tracking_id=label,
        anatomic_regions=None if meaning.region is None else [_concept(meaning.region)],
    )
    if meaning.laterality is not None:
        kind = description.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [_concept(meaning.laterality)]
    return description


def _concept(code: Code) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(*code)


def _pixel_measures(image: Any) -> Any:
    """Take over the image's pixel spacing; a projection has no thickness, which the library asks for."""
    from highdicom import PixelMeasuresSequence

    if (spacing := image.get("PixelSpacing")) is None:
        return None
    return PixelMeasuresSequence(pixel_spacing=[float(step) for step in spacing], slice_thickness=None)


def is_segmentation(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file is a DICOM Segmentation.

    Raises:
        ImageError: it is DICOM but cannot be read, or the extra ``dicom`` is not installed.
    """
    with open(path, "rb") as file:
        if not is_dicom(file.read(256)):
            return False
    return open_dataset(path).get("SOPClassUID") == _SEGMENTATION


def read_organ_segmentation(path: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    """Read the organs of a binary Segmentation of one image; other segments are left out.

    Organs are known by their SNOMED CT codes. Where segments overlap, heart and aorta cover the lungs.

    Returns:
        (H, W) uint8 ``Organ`` labels.

    Raises:
        MaskError: it has no organ, is not binary, or has several frames of one organ.
        ImageError: the file cannot be read, or the extra ``dicom`` is not installed.
    """
    dataset = open_dataset(path)
    if dataset.get("SOPClassUID") != _SEGMENTATION or dataset.get("SegmentationType") != "BINARY":
        kind = dataset.get("SegmentationType") or "no Segmentation"
        raise MaskError(f"{path} is {kind}; expected a binary DICOM Segmentation. Export the masks as such.")
    try:
        with quiet():
            organs = {int(item.SegmentNumber): _organ(item) for item in dataset.SegmentSequence}
            labels = [str(item.get("SegmentLabel") or "unnamed") for item in dataset.SegmentSequence]
            frames = np.atleast_3d(dataset.pixel_array.astype(bool))
            frames = frames.reshape(-1, int(dataset.Rows), int(dataset.Columns))
            numbers = [
                int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
                for group in _groups_with_segment(dataset)
            ]
            found = [(organs[number], frame) for number, frame in zip(numbers, frames, strict=True) if organs[number]]
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise ImageError(f"{path} cannot be read as a Segmentation ({error}). It is damaged: copy it again.") from error
    if not found:
        raise MaskError(f"{path} has no organ, but {', '.join(labels)}; expected lungs, heart or aorta.")
    if repeated := [organ.title for organ, count in Counter(organ for organ, _ in found if organ).items() if count > 1]:
        raise MaskError(f"{path} has several frames of the {repeated[0]}; expected the mask of one X-ray.")
    mask = np.zeros(frames.shape[1:], np.uint8)
    for organ, frame in sorted(found, key=lambda pair: int(pair[0] or 0)):
        mask[frame] = organ
    return mask


def _groups_with_segment(dataset: Any) -> list[Any]:
    """Return per frame the functional groups that say its segment: its own, or those that all frames share."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    frames = dataset.PerFrameFunctionalGroupsSequence
    return [group if "SegmentIdentificationSequence" in group else shared for group in frames]


def _organ(item: Any) -> Organ | None:
    kind = item.SegmentedPropertyTypeCodeSequence[0]
    modifiers = kind.get("SegmentedPropertyTypeModifierCodeSequence") or []
    side = modifiers[0].get("CodeValue") if modifiers else None
    for organ, meaning in ORGANS.items():
        wanted = None if meaning.laterality is None else meaning.laterality.value
        if kind.get("CodeValue") == meaning.kind.value and side == wanted:
            return organ
    return _OTHER_CODES.get(kind.get("CodeValue"))
