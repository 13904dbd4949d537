"""Synthetic X-rays as DICOM that says so, and edited X-rays as derived images of their source."""

from __future__ import annotations

import copy
import datetime
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from xreal.dicom.dataset import canonical_json, equipment, make_uid, open_dataset, quiet, require_dicom, save
from xreal.dicom.read import grey_levels, stored_values
from xreal.errors import ImageError, InputError

__all__ = ["write_dicom"]

_BITS = 12  # as X-ray detectors have; the steps of the networks' float32 images are far below those of 8 bits
_PATIENT = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")
_SEXES = ("M", "F", "O")
_LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91")
_LONGEST_DERIVATION, _LONGEST_COMMENT = 1024, 10240  # characters of VR ST and LT (PS3.5 6.2)
# Of a source, what would be untrue of an image made from it.
_STALE = (
    "IconImageSequence",
    "DigitalSignaturesSequence",
    "MACParametersSequence",
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)


def write_dicom(
    path: str | os.PathLike[str],
    image: npt.NDArray[np.floating[Any]],
    provenance: Mapping[str, Any],
    *,
    series_description: str = "Synthetic chest X-ray",
    series_number: int = 1,
    patient: Mapping[str, str] | None = None,
    source: str | os.PathLike[str] | None = None,
) -> None:
    """Write an image with Synthetic Data (0008,001C) YES, Image Type DERIVED and the equipment that made it.

    Without a source: a Secondary Capture of 12 bits, MONOCHROME2, in a study of its own. With one: a copy of the
    source in its study, as a new series and instance that records the source. Pixels that look as in the source keep
    their stored values to the last bit; the others take the stored value that looks most alike, among those that the
    source holds. Private elements, thumbnails and signatures of the source are left out.

    Every identifier is made from the provenance (and the source's): the same provenance gives the same identifiers.
    Burned In Annotation is NO for a drawn image: no text is written into it. An edited image keeps its source's.

    Args:
        path: ends in ".dcm"; the folder exists.
        image: (H, W) in [0, 1], air dark; of an edited image in the source's size.
        provenance: seed, settings and whatever else it takes to draw the image again, as JSON can hold it; kept in
            Image Comments. "weights", the weights' hash, names the equipment.
        series_description: at most 64 characters; with the number it tells images of one provenance apart.
        series_number: 1 or more.
        patient: of PatientID, PatientName, PatientBirthDate (YYYYMMDD), PatientSex; what is not given stays empty.
        source: X-ray that the image is an edit of.

    Raises:
        ImageError: the image has another shape or range, or the source is no X-ray that ``read_dicom`` reads.
        InputError: provenance, patient or description cannot be held, or the extra ``dicom`` is not installed.
        OutputError: the file cannot be written.
    """
    require_dicom()
    image = np.asarray(image)
    if image.ndim != 2 or not image.size or image.dtype.kind != "f" or max(image.shape) > 65535:
        raise ImageError(f"image is {image.dtype} of shape {image.shape}; expected (H, W) floats in [0, 1].")
    if not (image.min() >= 0 and image.max() <= 1):  # NaN fails too
        raise ImageError(f"image holds values {image.min()} to {image.max()}; expected [0, 1]. Rescale or clip it.")
    if not 1 <= len(series_description) <= 64 or "\\" in series_description or series_number < 1:
        raise InputError(
            f"series {series_number} {series_description!r}: expected a number ≥ 1 and 1 to 64 characters without \\."
        )
    if source is not None and patient is not None:
        raise InputError("patient and source are given; an edited image keeps its source's patient. Leave one out.")
    text = canonical_json(provenance)
    if len(text) > _LONGEST_COMMENT:
        raise InputError(f"provenance has {len(text)} characters as JSON; DICOM holds {_LONGEST_COMMENT}. Shorten it.")
    parts = (text, series_description, str(series_number))
    series = {"SeriesDescription": series_description, "SeriesNumber": series_number}
    if source is None:
        dataset = _drawn(image, str(provenance.get("weights", "")), parts, series, patient or {})
    else:
        dataset = _edited(image, str(provenance.get("weights", "")), parts, series, source)
    dataset.SyntheticData = "YES"
    verb = "drawn" if source is None else "edited"
    summary = "; ".join(f"{key} {value}" for key, value in provenance.items())
    derivation = f"Synthetic image, not for diagnosis: {verb} by xreal. {summary}".encode("ascii", "replace").decode()
    dataset.DerivationDescription = derivation[:_LONGEST_DERIVATION].replace("\\", "/")
    dataset.ImageComments = text
    save(dataset, path)


def _drawn(
    image: npt.NDArray[Any],
    weights: str,
    parts: tuple[str, ...],
    series: Mapping[str, Any],
    patient: Mapping[str, str],
) -> Any:
    from highdicom import ContributingEquipment
    from highdicom.sc import SCImage
    from pydicom.sr.codedict import codes

    white = 2**_BITS - 1
    dataset = SCImage(
        pixel_array=np.rint(image * white).astype(np.uint16),
        photometric_interpretation="MONOCHROME2",
        bits_allocated=16,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),  # columns run to the patient's left, rows to the feet
        study_instance_uid=make_uid("study", parts[0]),
        series_instance_uid=make_uid("series", *parts),
        sop_instance_uid=make_uid("image", *parts),
        series_number=series["SeriesNumber"],
        series_description=series["SeriesDescription"],
        instance_number=1,
        specific_character_set="ISO_IR 192",
        contributing_equipment=[_contribution(ContributingEquipment, codes.DCM.SynthesizingEquipment, weights)],
        **equipment(weights),
    )
    dataset.BitsStored, dataset.HighBit = _BITS, _BITS - 1
    dataset.WindowCenter, dataset.WindowWidth = 2 ** (_BITS - 1), 2**_BITS  # exactly black to white
    dataset.ConversionType = "SYN"  # synthetic image (PS3.3 C.8.6.1)
    dataset.BodyPartExamined = "CHEST"
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    for keyword, value in patient.items():
        dataset.add(_patient_element(keyword, value))
    return dataset


def _patient_element(keyword: str, value: str) -> Any:
    from pydicom import config
    from pydicom.datadict import dictionary_VR, tag_for_keyword
    from pydicom.dataelem import DataElement

    if keyword not in _PATIENT:
        raise InputError(f"patient has {keyword}; expected of {', '.join(_PATIENT)}.")
    try:
        if keyword == "PatientSex" and value not in _SEXES:
            raise ValueError(f"expected one of {', '.join(_SEXES)}")
        return DataElement(tag_for_keyword(keyword), dictionary_VR(keyword), value, validation_mode=config.RAISE)
    except (ValueError, TypeError) as error:
        raise InputError(f"patient: DICOM cannot hold {keyword} {value!r} ({error}).") from error


def _edited(
    image: npt.NDArray[Any],
    weights: str,
    parts: tuple[str, ...],
    series: Mapping[str, Any],
    source: str | os.PathLike[str],
) -> Any:
    from highdicom import ContributingEquipment
    from pydicom.dataset import Dataset
    from pydicom.sr.codedict import codes
    from pydicom.uid import ExplicitVRLittleEndian
    from pydicom.valuerep import DSfloat

    original = open_dataset(source)
    stored = stored_values(original, source)
    if missing := [name for name in ("StudyInstanceUID", "SOPInstanceUID", "SOPClassUID") if not original.get(name)]:
        raise ImageError(f"{source} has no {missing[0]}; expected a complete DICOM file to edit.")
    syntax = original.file_meta.TransferSyntaxUID
    if not syntax.is_little_endian:
        raise ImageError(f"{source} is big endian, which DICOM has retired. Convert it first: dcmconv +te IN OUT.")
    if image.shape != stored.shape:
        raise ImageError(f"image is {image.shape}, its source {source} {stored.shape} (H, W); expected the same size.")
    with quiet():
        dataset = copy.deepcopy(original)
        dataset.remove_private_tags()
    for name in _STALE:
        if name in dataset:
            del dataset[name]
    levels = grey_levels(original, stored, source)
    pixels = _restore(image, stored, levels.lowest, levels.table)
    if levels.found_range is not None:  # an edit may change the range that stood for black and white: write it down
        low, high = levels.found_range
        dataset.VOILUTFunction = "LINEAR_EXACT"
        dataset.WindowCenter = DSfloat((low + high) / 2, auto_format=True)
        dataset.WindowWidth = DSfloat(max(high - low, 1.0), auto_format=True)
    for name in ("ImplementationClassUID", "ImplementationVersionName", "SourceApplicationEntityTitle"):
        if name in dataset.file_meta:  # who wrote the source did not write this file
            del dataset.file_meta[name]
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    if "PixelData" in dataset:
        del dataset["PixelData"]
    dataset.add_new("PixelData", "OW", pixels.tobytes() + b"\0" * (pixels.nbytes % 2))
    if syntax in _LOSSY:
        dataset.LossyImageCompression = "01"
    reference = Dataset()
    reference.ReferencedSOPClassUID = original.SOPClassUID
    reference.ReferencedSOPInstanceUID = original.SOPInstanceUID
    reference.SpatialLocationsPreserved = "YES"
    purpose = codes.DCM.SourceImageForImageProcessingOperation
    reference.PurposeOfReferenceCodeSequence = [_code(purpose)]
    dataset.SourceImageSequence = [reference]
    dataset.ImageType = ["DERIVED", *(list(original.get("ImageType") or [])[1:] or ["PRIMARY"])]
    dataset.SeriesInstanceUID = make_uid("series", *parts, original.SOPInstanceUID)
    dataset.SOPInstanceUID = make_uid("image", *parts, original.SOPInstanceUID)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.InstanceNumber = 1
    now = datetime.datetime.now()
    for event in ("Series", "Content", "InstanceCreation"):
        setattr(dataset, f"{event}Date", now.strftime("%Y%m%d"))
        setattr(dataset, f"{event}Time", now.strftime("%H%M%S"))
    for keyword, value in series.items():
        setattr(dataset, keyword, value)
    made_by = list(original.get("ContributingEquipmentSequence") or [])
    contribution = _contribution(ContributingEquipment, codes.DCM.ModifyingEquipment, weights)
    dataset.ContributingEquipmentSequence = [*made_by, contribution]
    return dataset


def _restore(
    image: npt.NDArray[Any], stored: npt.NDArray[Any], lowest: int, table: npt.NDArray[np.float32]
) -> npt.NDArray[Any]:
    """Find the stored values that look like the image; where it equals the source, the source's own."""
    image = image.astype(np.float32)
    places = stored.astype(np.int32) - lowest
    changed = image != table[places]
    candidates = np.arange(places.min(), places.max() + 1)
    candidates = candidates[np.argsort(table[candidates], kind="stable")]
    levels = table[candidates]
    above = np.searchsorted(levels, image[changed]).clip(1 if levels.size > 1 else 0, levels.size - 1)
    below = np.maximum(above - 1, 0)
    nearer = np.where(image[changed] - levels[below] <= levels[above] - image[changed], below, above)
    restored = stored.copy()
    restored[changed] = (candidates[nearer] + lowest).astype(stored.dtype)
    return restored


def _contribution(kind: Any, purpose: Any, weights: str) -> Any:
    made_by = equipment(weights)
    text = f"Synthetic content by xreal {made_by['software_versions']}, weights {made_by['device_serial_number']}"
    return kind(purpose_of_reference=purpose, contribution_description=text, **made_by)


def _code(code: Any) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept.from_code(code)
