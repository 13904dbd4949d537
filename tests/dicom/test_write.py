"""Writing: a file says that it is synthetic, names what made it, and is the same again for the same provenance."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import FileDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSNearLossless,
    generate_uid,
)

import xreal
from xreal.data.phantom import Phantom
from xreal.dicom import read_dicom, write_dicom, write_segmentation
from xreal.errors import ImageError, InputError, OutputError

XRay = Callable[..., FileDataset]
Written = Callable[..., Path]

PROVENANCE = {"seed": 7, "weights": "0123456789abcdef", "solver": "dpm++", "prompt": "PA view, η"}
IDENTIFIERS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


def identifiers(path: Path) -> list[str]:
    dataset = pydicom.dcmread(path)
    return [dataset[name].value for name in IDENTIFIERS]


def test_what_is_written_is_read_to_half_a_step_of_12_bits(tmp_path: Path, phantoms: list[Phantom]) -> None:
    write_dicom(tmp_path / "a.dcm", phantoms[0].image, PROVENANCE)
    np.testing.assert_allclose(read_dicom(tmp_path / "a.dcm"), phantoms[0].image, atol=0.501 / 4095)


def test_it_says_that_it_is_synthetic_and_what_made_it(tmp_path: Path, phantoms: list[Phantom]) -> None:
    write_dicom(tmp_path / "a.dcm", phantoms[0].image, PROVENANCE)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    assert dataset[0x0008, 0x001C].value == "YES"
    assert dataset.ImageType[0] == "DERIVED"
    assert dataset.ConversionType == "SYN"
    assert dataset.BurnedInAnnotation == "NO"
    assert "not for diagnosis" in dataset.DerivationDescription
    assert "seed 7" in dataset.DerivationDescription
    made_by = dataset.ContributingEquipmentSequence[0]
    assert (made_by.Manufacturer, made_by.DeviceSerialNumber) == ("xreal", PROVENANCE["weights"])
    assert made_by.SoftwareVersions == xreal.__version__
    assert made_by.PurposeOfReferenceCodeSequence[0].CodeMeaning == "Synthesizing Equipment"
    assert dataset.ImageComments.startswith('{"prompt": "PA view, \\u03b7", "seed": 7')


def test_no_patient_unless_given(tmp_path: Path, phantoms: list[Phantom]) -> None:
    write_dicom(tmp_path / "a.dcm", phantoms[0].image, PROVENANCE)
    patient = [element for element in pydicom.dcmread(tmp_path / "a.dcm") if element.tag.group == 0x0010]
    assert [element.value or None for element in patient] == [None] * 4
    given_patient = {"PatientID": "S1", "PatientName": "Müller^Ada", "PatientBirthDate": "19700131", "PatientSex": "F"}
    write_dicom(tmp_path / "b.dcm", phantoms[0].image, PROVENANCE, patient=given_patient)
    dataset = pydicom.dcmread(tmp_path / "b.dcm")
    assert {name: str(dataset[name].value) for name in given_patient} == given_patient


def test_identifiers_follow_from_the_provenance_alone(tmp_path: Path, phantoms: list[Phantom]) -> None:
    write_dicom(tmp_path / "a.dcm", phantoms[0].image, PROVENANCE)
    write_dicom(tmp_path / "again.dcm", phantoms[1].image, dict(reversed(PROVENANCE.items())))
    assert identifiers(tmp_path / "again.dcm") == identifiers(tmp_path / "a.dcm")
    write_dicom(tmp_path / "other.dcm", phantoms[0].image, PROVENANCE | {"seed": 8})
    assert not set(identifiers(tmp_path / "other.dcm")) & set(identifiers(tmp_path / "a.dcm"))
    write_dicom(tmp_path / "twin.dcm", phantoms[0].image, PROVENANCE, series_number=2)
    study, *rest = identifiers(tmp_path / "twin.dcm")
    assert study == identifiers(tmp_path / "a.dcm")[0]
    assert not set(rest) & set(identifiers(tmp_path / "a.dcm"))
    assert all(len(uid) <= 64 and pydicom.uid.UID(uid).is_valid for uid in identifiers(tmp_path / "a.dcm"))


@given(rows=st.tuples(st.integers(0, 16), st.integers(17, 33)), shift=st.floats(-0.5, 0.5), data=st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_edit_leaves_every_other_stored_value_as_it_was(
    xray: XRay,
    written: Written,
    noise: Callable[..., np.ndarray],
    rows: tuple[int, int],
    shift: float,
    data: st.DataObject,
) -> None:
    bits = data.draw(st.sampled_from([8, 10, 12, 16]))
    photometric = data.draw(st.sampled_from(["MONOCHROME1", "MONOCHROME2"]))
    half = 2 ** (bits - 1)
    sigmoid = {"WindowCenter": half, "WindowWidth": 2 * half, "VOILUTFunction": "SIGMOID"}
    narrow = {"WindowCenter": half // 2, "WindowWidth": half // 2, "RescaleSlope": 2, "RescaleIntercept": 5}
    window = data.draw(st.sampled_from([{}, sigmoid, narrow]))
    source = written(xray(noise(bits), bits, photometric, **window))
    image = read_dicom(source)
    edited = image.copy()
    edited[slice(*rows)] = (edited[slice(*rows)] + shift).clip(image.min(), image.max())
    target = source.with_name("edited.dcm")
    write_dicom(target, edited, PROVENANCE, source=source)
    before, after = pydicom.dcmread(source).pixel_array, pydicom.dcmread(target).pixel_array
    same = edited == image
    np.testing.assert_array_equal(after[same], before[same])
    largest_step = np.diff(np.unique(image)).max(initial=0)
    assert np.abs(read_dicom(target) - edited).max() <= largest_step / 2 + 1e-6


def test_an_edit_keeps_study_and_patient_and_records_its_source(
    xray: XRay, written: Written, noise: Callable[..., np.ndarray]
) -> None:
    dataset = xray(noise(12), 12, StudyDate="20200101", IconImageSequence=[], BurnedInAnnotation="YES")
    dataset.add_new(0x00091001, "LO", "private")
    source = written(dataset)
    target = source.with_name("edited.dcm")
    write_dicom(target, read_dicom(source), PROVENANCE, source=source, series_number=5)
    before, after = pydicom.dcmread(source), pydicom.dcmread(target)
    for name in ("StudyInstanceUID", "StudyDate", "PatientID", "PatientName", "SOPClassUID", "Modality"):
        assert after[name] == before[name], name
    for name in ("SeriesInstanceUID", "SOPInstanceUID"):
        assert after[name] != before[name], name
    reference = after.SourceImageSequence[0]
    assert reference.ReferencedSOPInstanceUID == before.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == before.SOPClassUID
    assert list(after.ImageType) == ["DERIVED", "PRIMARY"]
    assert after[0x0008, 0x001C].value == "YES"
    assert after.BurnedInAnnotation == "YES"
    assert after.file_meta.MediaStorageSOPInstanceUID == after.SOPInstanceUID
    assert (
        after.ContributingEquipmentSequence[-1].PurposeOfReferenceCodeSequence[0].CodeMeaning == "Modifying Equipment"
    )
    assert "IconImageSequence" not in after
    assert (0x0009, 0x1001) not in after
    write_dicom(source.with_name("again.dcm"), read_dicom(source), PROVENANCE, source=source, series_number=5)
    assert identifiers(source.with_name("again.dcm")) == identifiers(target)


@pytest.mark.parametrize(("syntax", "lossy"), [(JPEG2000Lossless, None), (JPEGLSNearLossless, "01")])
def test_an_edit_of_a_compressed_source_is_not_compressed_and_stays_marked_lossy(
    xray: XRay, written: Written, noise: Callable[..., np.ndarray], syntax: Any, lossy: str | None
) -> None:
    dataset = xray(noise(12), 12)
    dataset.compress(syntax, generate_instance_uid=False, **({"jls_error": 2} if lossy else {}))
    if "LossyImageCompression" in dataset:
        del dataset.LossyImageCompression
    source = written(dataset)
    target = source.with_name("edited.dcm")
    write_dicom(target, read_dicom(source), PROVENANCE, source=source)
    after = pydicom.dcmread(target)
    assert not after.file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(after.pixel_array, pydicom.dcmread(source).pixel_array)
    assert after.get("LossyImageCompression") == lossy


def test_an_edit_of_an_implicitly_encoded_source_is_explicit(
    xray: XRay, written: Written, noise: Callable[..., np.ndarray]
) -> None:
    dataset = xray(noise(12), 12)
    source = written(dataset)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    pydicom.dcmwrite(source, dataset, force_encoding=True, implicit_vr=True, little_endian=True)
    target = source.with_name("edited.dcm")
    write_dicom(target, read_dicom(source), PROVENANCE, source=source)
    assert pydicom.dcmread(target).file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    np.testing.assert_array_equal(read_dicom(target), read_dicom(source))


GOOD = np.full((4, 5), 0.5, np.float32)


@pytest.mark.parametrize(
    ("image", "extra", "error", "message"),
    [
        (GOOD[0], {}, ImageError, r"shape \(5,\)"),
        ((GOOD * 255).astype(np.uint8), {}, ImageError, "uint8"),
        (GOOD * 4, {}, ImageError, "2.0; expected"),
        (GOOD * np.nan, {}, ImageError, "nan"),
        (GOOD, {"patient": {"PatientAge": "030Y"}}, InputError, "PatientAge; expected of PatientID"),
        (GOOD, {"patient": {"PatientBirthDate": "31.1.1970"}}, InputError, "cannot hold PatientBirthDate"),
        (GOOD, {"patient": {"PatientSex": "female"}}, InputError, "expected one of M, F, O"),
        (GOOD, {"patient": {"PatientID": 7}}, InputError, "cannot hold PatientID 7"),
        (GOOD, {"series_number": 0}, InputError, "series 0"),
        (GOOD, {"series_description": "x" * 65}, InputError, "1 to 64 characters"),
        (GOOD, {"patient": {}, "source": "a.dcm"}, InputError, "patient and source"),
        (GOOD, {"source": "nothing.dcm"}, ImageError, "nothing.dcm does not exist"),
    ],
)
def test_what_cannot_be_written_is_refused(
    tmp_path: Path, image: np.ndarray, extra: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        write_dicom(tmp_path / "a.dcm", image, PROVENANCE, **extra)
    assert not any(tmp_path.iterdir())


def test_bad_provenance_names_and_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="provenance is not JSON"):
        write_dicom(tmp_path / "a.dcm", GOOD, {"seed": object()})
    with pytest.raises(InputError, match="DICOM holds 10240"):
        write_dicom(tmp_path / "a.dcm", GOOD, {"prompt": "x" * 11000})
    with pytest.raises(OutputError, match=r"does not end in \.dcm"):
        write_dicom(tmp_path / "a.png", GOOD, PROVENANCE)
    with pytest.raises(OutputError, match="cannot be written"):
        write_dicom(tmp_path / "no" / "a.dcm", GOOD, PROVENANCE)


def test_an_edit_of_another_size_is_refused(xray: XRay, written: Written, noise: Callable[..., np.ndarray]) -> None:
    source = written(xray(noise(12), 12))
    with pytest.raises(ImageError, match=r"image is \(4, 5\), its source .* \(34, 38\)"):
        write_dicom(source.with_name("b.dcm"), GOOD, PROVENANCE, source=source)


# Checked by tools that know nothing of this project -----------------------------------------------------------------


@pytest.fixture
def study(tmp_path: Path, phantoms: list[Phantom], xray: XRay, written: Written) -> list[Path]:
    """Write an image with masks, and an edit of it with masks."""
    chest = phantoms[0]
    lesion = np.zeros(chest.image.shape, np.float32)
    lesion[20:30, 12:20] = 1
    names = [tmp_path / f"{name}.dcm" for name in ("image", "image-seg", "edit", "edit-seg")]
    write_dicom(names[0], chest.image, PROVENANCE)
    write_segmentation(names[1], names[0], chest.organ_mask, [("Pneumonia", lesion), ("Support Devices", lesion)])
    write_dicom(names[2], (read_dicom(names[0]) + lesion / 4).clip(0, 1), PROVENANCE, source=names[0])
    write_segmentation(names[3], names[2], None, [("Pneumonia", lesion)])
    return names


def tool(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed (Debian: apt install dicom3tools dcmtk)")
    return subprocess.run([name, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_dciodvfy_finds_no_error(study: list[Path]) -> None:
    """Debian 12's copy is of 2022 and does not know Synthetic Data (0008,001C), which came later."""
    for path in study:
        errors = [line for line in tool("dciodvfy", path).stderr.splitlines() if line.startswith("Error")]
        unknown = "Error - Attribute with an even group number is not a recognized standard attribute - (0x0008,0x001c)"
        assert [line for line in errors if not line.startswith(unknown)] == [], path.name


def test_dciodvfy_would_find_errors(study: list[Path]) -> None:
    dataset = pydicom.dcmread(study[0])
    del dataset.ConversionType
    dataset.save_as(study[0])
    assert "Missing attribute Type 1 Required Element=<ConversionType>" in tool("dciodvfy", study[0]).stderr


def test_dcmtk_opens_everything_and_shows_the_same(study: list[Path]) -> None:
    for path in study:
        assert (dump := tool("dcmdump", path)).returncode == 0
        assert "(0008,001c) CS [YES]" in dump.stdout
    for path in (study[0], study[2]):
        assert tool("dcm2pnm", path, path.with_suffix(".pgm")).returncode == 0
        shown = np.asarray(Image.open(path.with_suffix(".pgm"))) / 255
        np.testing.assert_allclose(read_dicom(path), shown, atol=1 / 255)


def test_highdicom_opens_everything(study: list[Path]) -> None:
    for path in (study[0], study[2]):
        shown = highdicom.imread(path).get_frame(1, apply_voi_transform=True)
        np.testing.assert_allclose(read_dicom(path), shown, atol=1e-6)
    for image, masks in (study[:2], study[2:]):
        segmentation = highdicom.seg.segread(masks)
        uids = {str(uid) for _, _, uid in segmentation.get_source_image_uids()}
        assert uids == {str(pydicom.dcmread(image).SOPInstanceUID)}


def test_dcmtk_s_view_of_a_device_s_x_ray_is_ours(
    xray: XRay, written: Written, noise: Callable[..., np.ndarray]
) -> None:
    window = {"WindowCenter": 1800, "WindowWidth": 1500, "RescaleSlope": 1, "RescaleIntercept": 100}
    path = written(xray(noise(12), 12, "MONOCHROME1", RescaleType="US", SeriesInstanceUID=generate_uid(), **window))
    assert tool("dcm2pnm", "+Wi", 1, path, path.with_suffix(".pgm")).returncode == 0
    shown = np.asarray(Image.open(path.with_suffix(".pgm"))) / 255
    np.testing.assert_allclose(read_dicom(path), shown, atol=1 / 255)
