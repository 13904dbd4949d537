"""Masks as a Segmentation: every pixel and its meaning come back, and they refer to their image."""

from collections.abc import Callable
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset
from pydicom.sr.codedict import codes

from xreal.data.phantom import Phantom
from xreal.dicom import is_segmentation, read_dicom, read_organ_segmentation, write_dicom, write_segmentation
from xreal.dicom.codes import FINDINGS, ORGANS
from xreal.errors import FindingError, ImageError, MaskError
from xreal.masks import read_organ_mask
from xreal.vocabulary import Finding, Organ

XRay = Callable[..., FileDataset]
Written = Callable[..., Path]


@pytest.fixture
def image(tmp_path: Path, phantoms: list[Phantom]) -> Path:
    write_dicom(tmp_path / "image.dcm", phantoms[0].image, {"seed": 1, "weights": "abc"})
    return tmp_path / "image.dcm"


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    return tmp_path / "masks.dcm"


def soft(phantoms: list[Phantom], top: int, height: float = 1) -> np.ndarray:
    mask = np.zeros(phantoms[0].image.shape, np.float32)
    mask[top : top + 8, 10:20], mask[top + 8, 10:20] = height, 0.4 * height
    return mask


def test_organs_come_back_as_an_organ_mask(image: Path, masks: Path, phantoms: list[Phantom]) -> None:
    write_segmentation(masks, image, phantoms[0].organ_mask)
    assert is_segmentation(masks)
    assert not is_segmentation(image)
    for read in (read_organ_segmentation, read_organ_mask):
        np.testing.assert_array_equal(read(masks), phantoms[0].organ_mask)


@pytest.mark.parametrize("organ", list(Organ)[1:], ids=lambda organ: organ.title)
def test_each_organ_alone_comes_back(image: Path, masks: Path, phantoms: list[Phantom], organ: Organ) -> None:
    mask = np.where(soft(phantoms, 5) > 0, organ, 0).astype(np.uint8)
    for lesions in ((), [("Mass", soft(phantoms, 30))]):  # the file is laid out differently for a single segment
        write_segmentation(masks, image, mask, lesions)
        np.testing.assert_array_equal(read_organ_segmentation(masks), mask)


def test_lesions_are_segments_where_they_are_above_half_their_height(
    image: Path, masks: Path, phantoms: list[Phantom]
) -> None:
    lesions = [
        ("Pneumonia", soft(phantoms, 5)),
        ("Pneumonia", soft(phantoms, 8, 0.3)),
        (Finding.MASS, soft(phantoms, 40)),
    ]
    write_segmentation(masks, image, phantoms[0].organ_mask, lesions)
    segmentation = highdicom.seg.segread(masks)
    organs = len(np.unique(phantoms[0].organ_mask)) - 1
    labels = [item.SegmentLabel for item in segmentation.SegmentSequence]
    assert labels[organs:] == ["Pneumonia", "Pneumonia 2", "Mass"]
    planes = segmentation.get_pixels_by_source_instance([pydicom.dcmread(image).SOPInstanceUID])[0]
    for number, (_, mask) in enumerate(lesions, organs):
        np.testing.assert_array_equal(planes[..., number], mask > mask.max() / 2)


def test_it_refers_to_its_image_and_is_marked_as_it(
    image: Path, masks: Path, phantoms: list[Phantom], xray: XRay, written: Written, noise: Callable[..., np.ndarray]
) -> None:
    write_segmentation(masks, image, phantoms[0].organ_mask)
    drawn, segmentation = pydicom.dcmread(image), pydicom.dcmread(masks)
    assert segmentation.StudyInstanceUID == drawn.StudyInstanceUID
    assert segmentation.SeriesInstanceUID != drawn.SeriesInstanceUID
    referred = segmentation.ReferencedSeriesSequence[0]
    assert referred.SeriesInstanceUID == drawn.SeriesInstanceUID
    assert referred.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == drawn.SOPInstanceUID
    assert segmentation[0x0008, 0x001C].value == "YES"
    real = written(xray(noise(12), 12, PixelSpacing=[0.14, 0.14]))
    write_segmentation(masks, real, None, [("Nodule", np.eye(34, 38, dtype=np.float32))])
    segmentation = pydicom.dcmread(masks)
    assert segmentation[0x0008, 0x001C].value == "NO"
    assert segmentation.PatientID == "p1"


def test_identifiers_follow_from_image_and_masks(image: Path, masks: Path, phantoms: list[Phantom]) -> None:
    written = []
    for chest in (phantoms[0], phantoms[0], phantoms[1]):
        write_segmentation(masks, image, chest.organ_mask)
        written.append(pydicom.dcmread(masks).SOPInstanceUID)
    assert written[0] == written[1] != written[2]


def test_every_organ_and_finding_that_can_be_seen_has_a_meaning() -> None:
    assert ORGANS.keys() == set(Organ) - {Organ.BACKGROUND}
    assert FINDINGS.keys() == set(Finding) - {Finding.NO_FINDING}
    assert len({(meaning.kind, meaning.laterality) for meaning in ORGANS.values()}) == len(ORGANS)


@pytest.mark.parametrize(
    ("ours", "name"),
    [
        (ORGANS[Organ.LEFT_LUNG].kind, "Lung"),
        (ORGANS[Organ.LEFT_LUNG].laterality, "Left"),
        (ORGANS[Organ.RIGHT_LUNG].laterality, "Right"),
        (ORGANS[Organ.LEFT_LUNG].category, "AnatomicalStructure"),
        (ORGANS[Organ.HEART].kind, "Heart"),
        (ORGANS[Organ.AORTA].kind, "Aorta"),
        (FINDINGS[Finding.CARDIOMEGALY].kind, "Cardiomegaly"),
        (FINDINGS[Finding.EDEMA].kind, "PulmonaryEdema"),
        (FINDINGS[Finding.LUNG_LESION].kind, "Lesion"),
        (FINDINGS[Finding.PLEURAL_EFFUSION].kind, "PleuralEffusion"),
        (FINDINGS[Finding.PNEUMOTHORAX].kind, "Pneumothorax"),
        (FINDINGS[Finding.MASS].kind, "Mass"),
        (FINDINGS[Finding.NODULE].kind, "Nodule"),
        (FINDINGS[Finding.NODULE].category, "MorphologicallyAbnormalStructure"),
        (FINDINGS[Finding.SUPPORT_DEVICES].category, "PhysicalObject"),
        (FINDINGS[Finding.PLEURAL_OTHER].region, "Pleura"),
        (FINDINGS[Finding.ENLARGED_CARDIOMEDIASTINUM].region, "Mediastinum"),
    ],
)
def test_codes_are_those_of_the_standard_s_context_groups(ours: tuple[str, ...], name: str) -> None:
    assert ours[:2] == tuple(getattr(codes.SCT, name))[:2]


def test_the_opacity_is_dicom_s_own_code() -> None:
    assert FINDINGS[Finding.LUNG_OPACITY].kind[:2] == tuple(codes.DCM.Opacity)[:2]


def test_masks_that_do_not_fit_are_refused(image: Path, masks: Path, phantoms: list[Phantom]) -> None:
    organs, lesion = phantoms[0].organ_mask, soft(phantoms, 5)
    cases = [
        ((organs[1:], ()), MaskError, r"mask of .* is \(63, 64\), image .* \(64, 64\)"),
        ((organs + 3, ()), MaskError, "expected .* labels 0 to 4"),
        ((organs * 0, ()), MaskError, "neither organ_mask nor lesions"),
        ((None, [("Mass", lesion * 0)]), MaskError, "lesion mask of Mass"),
        ((None, [("Mass", lesion * 2)]), MaskError, "lesion mask of Mass"),
        ((None, [("No Finding", lesion)]), MaskError, "'No Finding' has no place"),
        ((None, [("Masss", lesion)]), FindingError, "Did you mean 'Mass'"),
    ]
    for arguments, error, message in cases:
        with pytest.raises(error, match=message):
            write_segmentation(masks, image, *arguments)
    with pytest.raises(ImageError, match="does not exist"):
        write_segmentation(masks, image.with_name("b.dcm"), organs)
    assert not masks.exists()


def test_segmentations_that_are_no_organ_mask_are_refused(image: Path, masks: Path, phantoms: list[Phantom]) -> None:
    write_segmentation(masks, image, None, [("Mass", soft(phantoms, 5))])
    with pytest.raises(MaskError, match="has no organ, but Mass; expected lungs, heart or aorta"):
        read_organ_mask(masks)
    with pytest.raises(ImageError, match="is a segmentation, not an X-ray"):
        read_dicom(masks)
    with pytest.raises(MaskError, match="is no Segmentation"):
        read_organ_segmentation(image)
    dataset = pydicom.dcmread(masks)
    dataset.PixelData = dataset.PixelData[:-8]
    dataset.save_as(masks)
    with pytest.raises(ImageError, match="cannot be read as a Segmentation"):
        read_organ_segmentation(masks)
