"""Reading: what is read is what a viewer shows, whatever the device wrote; what is no X-ray is refused."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_rescale, apply_windowing
from pydicom.uid import (
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

import xreal.dicom.dataset
from xreal.dicom import read_dicom
from xreal.errors import ImageError, MaskError
from xreal.images import open_picture, read_image
from xreal.masks import read_organ_mask

XRay = Callable[..., FileDataset]
Written = Callable[..., Path]

# 12 bits, 16 × 16, (17 x + 5 y) mod 256 stretched to 4095, as dcmtk's dcmcjpeg wrote them (no encoder is in Python).
LOSSLESS = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/wwALEAAQABABAREA/8QAFwABAQEBAAAAAAAAAAAAAAAACQcMEP/aAAgBAQABAADkRRFEURRFEURRFEURRF"
    "EURRFEagiKIoiiKIoiiKIoiiKIoiiKI4QGooiiKIoiiKIoiiKIoiiKIoiiOEBqCIoiiKIoiiKIoiiKIoiiKIojhAagiKIoiiKIoiiKIoiiKIoi"
    "iOEBRGoIiiKIoiiKIoiiKIoiiKIojhAURqKIoiiKIoiiKIoiiKIoiiKI4QFEagiKIoiiKIoiiKIoiiKIojhAURRGoIiiKIoiiKIoiiKIoiiKI4"
    "QFEURqKIoiiKIoiiKIoiiKIoiiOEBRFEagiKIoiiKIoiiKIoiiKIojhAURRGoIiiKIoiiKIoiiKIoiiOEBRFEURqKIoiiKIoiiKIoiiKIojhAE"
    "RRFEagiKIoiiKIoiiKIoiiKI4QFEURRGoIiiKIoiiKIoiiKIojhAURRFEURqCIoiiKIoiiKIoiiKI4QFEURRFEf//9k="
)
EXTENDED = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsLEBYQERMUFRUVDA8XGB"
    "YUGBIUFRT/wQALDAAQABABAREA/8QAFQABAQAAAAAAAAAAAAAAAAAADAr/xAAoEAAABgACCwEBAAAAAAAAAAADBAUGBwgJCgACCwwYJjhEVWFy"
    "DRv/2gAIAQEAAD8APF7skZSTpR5M8Z23x60dc7WKzyP8LHdTDOVZgavFheErGetNTELCKwp1uMr4cHFiC1qLMDhREgSDA7yJADuBQkmJG053vP"
    "ZNEaoQa0YTILXzAKi3ixI65EY/vuyRlJOlHkzxnbfHrSgL9IBzikRMfCv2ZHstStSpX6Qp5k+Z3RmYL/x05IWkMGYIibjXQ3fXaqSq2nzrClmQ"
    "ZbTxNvO5gC2ghArDgLnYtZ5sYRtkDZfVdX//2Q=="
)


@pytest.mark.parametrize("bits", range(8, 17))
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_full_windows_show_the_stored_values(
    xray: XRay, written: Written, noise: Callable[..., np.ndarray], bits: int, photometric: str
) -> None:
    stored = noise(bits)
    window = {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits}
    image = read_dicom(written(xray(stored, bits, photometric, **window)))
    wanted = stored / (2**bits - 1)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, wanted if photometric == "MONOCHROME2" else 1 - wanted, atol=1e-6)


COMPRESSED = [RLELossless, JPEGLSLossless, JPEG2000Lossless]


@pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda uid: uid.name)
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_lossless_compression_changes_nothing(
    xray: XRay, written: Written, noise: Callable[..., np.ndarray], syntax: Any, bits: int, photometric: str
) -> None:
    dataset = xray(noise(bits), bits, photometric, WindowCenter=2 ** (bits - 1), WindowWidth=2**bits)
    plain = read_dicom(written(dataset))
    dataset.compress(syntax, generate_instance_uid=False)
    np.testing.assert_array_equal(read_dicom(written(dataset, "compressed.dcm")), plain)


def test_jpeg_baseline_is_read_up_to_its_loss(xray: XRay, written: Written) -> None:
    stored = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1))
    dataset, buffer = xray(stored, 8), io.BytesIO()
    Image.fromarray(stored).save(buffer, "JPEG", quality=95)
    _encapsulate(dataset, buffer.getvalue(), JPEGBaseline8Bit)
    np.testing.assert_allclose(read_dicom(written(dataset)), stored / 255, atol=0.03)


@pytest.mark.parametrize(
    ("stream", "syntax", "loss"), [("LOSSLESS", JPEGLosslessSV1, 0), ("EXTENDED", JPEGExtended12Bit, 12)]
)
def test_jpeg_of_12_bits_is_read(xray: XRay, written: Written, stream: str, syntax: Any, loss: int) -> None:
    y, x = np.mgrid[:16, :16]
    stored = np.rint((17 * x + 5 * y) % 256 / 255 * 4095).astype(np.uint16)
    dataset = xray(stored, 12, WindowCenter=2048, WindowWidth=4096)
    _encapsulate(dataset, base64.b64decode(globals()[stream]), syntax)
    np.testing.assert_allclose(read_dicom(written(dataset)), stored / 4095, atol=(loss + 0.01) / 4095)


def test_jpeg_ls_near_lossless_is_read_up_to_its_loss(
    xray: XRay, written: Written, noise: Callable[..., np.ndarray]
) -> None:
    stored = noise(12)
    dataset = xray(stored, 12, WindowCenter=2048, WindowWidth=4096)
    dataset.compress(JPEGLSNearLossless, jls_error=3, generate_instance_uid=False)
    np.testing.assert_allclose(read_dicom(written(dataset)), stored / 4095, atol=3.01 / 4095)


def _encapsulate(dataset: FileDataset, stream: bytes, syntax: Any) -> None:
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].is_undefined_length = True


def _encode(dataset: FileDataset, syntax: Any, path: Path) -> Path:
    dataset.file_meta.TransferSyntaxUID = syntax
    encoding = {"implicit_vr": syntax.is_implicit_VR, "little_endian": syntax.is_little_endian}
    pydicom.dcmwrite(path, dataset, force_encoding=True, **encoding)
    return path


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian], ids=lambda uid: uid.name)
def test_old_byte_orders_change_nothing(
    xray: XRay, written: Written, noise: Callable[..., np.ndarray], syntax: Any
) -> None:
    stored = noise(12)
    dataset = xray(stored, 12, VOILUTSequence=[_lut(np.arange(4096)[::-1], 0, 12)])
    plain = read_dicom(written(dataset))
    if not syntax.is_little_endian:
        dataset.PixelData = stored.astype(">u2").tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.VOILUTSequence[0].LUTData = np.arange(4096)[::-1].astype(">u2").tobytes()
    path = _encode(dataset, syntax, written(dataset).with_name("old.dcm"))
    np.testing.assert_array_equal(read_dicom(path), plain)


@given(
    center=st.floats(-500, 4500),
    width=st.floats(50, 6000),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
    slope=st.sampled_from([0.5, 1.0, 1.7]),
    intercept=st.sampled_from([-1024.0, 0.0, 300.0]),
    photometric=st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_windows_are_those_of_pydicom(
    xray: XRay, written: Written, center: float, width: float, function: str, slope: float, intercept: float,
    photometric: str,
) -> None:  # fmt: skip
    stored = np.linspace(0, 4095, 120).astype(np.uint16).reshape(10, 12)
    center, width = round(center, 2), round(width, 2)
    window = {"WindowCenter": center, "WindowWidth": width, "VOILUTFunction": function}
    path = written(xray(stored, 12, photometric, RescaleSlope=slope, RescaleIntercept=intercept, **window))
    image = read_dicom(path)
    dataset = pydicom.dcmread(path)
    black, white = intercept, 4095 * slope + intercept
    shown = (apply_windowing(apply_rescale(stored, dataset), dataset) - black) / (white - black)
    np.testing.assert_allclose(image, shown if photometric == "MONOCHROME2" else 1 - shown, atol=1e-5)
    assert (np.diff(image.ravel()) <= 0).all() if photometric == "MONOCHROME1" else (np.diff(image.ravel()) >= 0).all()


def _lut(data: np.ndarray, first: int, bits: int) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(data) % 65536, first, bits])
    item.add_new("LUTData", "OW", data.astype("<u2").tobytes())
    return item


@pytest.mark.parametrize("bits", [8, 10, 16])
def test_a_voi_lut_goes_before_the_window_and_its_ends_hold_beyond_it(xray: XRay, written: Written, bits: int) -> None:
    stored = np.array([[0, 99, 100, 150, 299, 300, 4095]], np.uint16)
    data = np.linspace(5, 2**bits - 1, 200).astype(np.uint16)
    path = written(xray(stored, 12, VOILUTSequence=[_lut(data, 100, bits)], WindowCenter=10, WindowWidth=5))
    wanted = data[[0, 0, 0, 50, 199, 199, 199]] / (2**bits - 1)
    np.testing.assert_allclose(read_dicom(path)[0], wanted, atol=1e-6)


def test_a_modality_lut_comes_before_the_window(xray: XRay, written: Written) -> None:
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    data = np.arange(256)[::-1] * 16
    path = written(xray(stored, 8, ModalityLUTSequence=[_lut(data, 0, 12)], WindowCenter=2048, WindowWidth=4096))
    np.testing.assert_allclose(read_dicom(path), data.reshape(16, 16) / 4095, atol=1e-6)


def test_without_window_8_bits_are_as_stored_and_more_bits_fill_the_range(xray: XRay, written: Written) -> None:
    eight = np.array([[50, 100]], np.uint8)
    np.testing.assert_allclose(read_dicom(written(xray(eight, 8)))[0], [50 / 255, 100 / 255], atol=1e-6)
    twelve_in_sixteen = np.array([[100, 1100, 2100]], np.uint16)
    assert read_dicom(written(xray(twelve_in_sixteen, 16))).tolist() == [[0, 0.5, 1]]
    assert read_dicom(written(xray(np.full((2, 2), 7, np.uint16), 12))).tolist() == [[0, 0], [0, 0]]


def test_of_several_windows_the_first_is_used(xray: XRay, written: Written) -> None:
    stored = np.array([[0, 1000, 4000]], np.uint16)
    path = written(xray(stored, 12, WindowCenter=[500.5, 3000], WindowWidth=[1001, 50]))
    assert read_dicom(path).tolist() == [[0, 1, 1]]


def test_signed_values(xray: XRay, written: Written) -> None:
    path = written(xray(np.array([[-1000, 0, 1000]], np.int16), 12, WindowCenter=0.5, WindowWidth=2001))
    np.testing.assert_allclose(read_dicom(path), [[0, 0.5, 1]], atol=1e-6)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_stretch_the_range(xray: XRay, written: Written, photometric: str) -> None:
    stored = np.array([[0, 1, 2000, 3000]], np.uint16)
    path = written(xray(stored, 12, photometric, PixelPaddingValue=0, PixelPaddingRangeLimit=1))
    assert read_dicom(path).tolist() == [[0, 0, 0, 1] if photometric == "MONOCHROME2" else [0, 0, 1, 0]]


def test_bits_above_those_stored_are_ignored(xray: XRay, written: Written) -> None:
    path = written(xray(np.array([[0xF000, 0xFFFF]], np.uint16), 12, WindowCenter=2048, WindowWidth=4096))
    assert read_dicom(path).tolist() == [[0, 1]]


def test_files_without_header_are_known_by_their_first_element(xray: XRay, written: Written) -> None:
    dataset = xray(np.array([[0, 255]], np.uint8), 8)
    path = _encode(dataset, ImplicitVRLittleEndian, written(dataset))
    data = path.read_bytes()
    path.write_bytes(data[data.index(b"\x08\x00\x08\x00") :])  # from Image Type on
    assert read_image(path).tolist() == [[0, 1]]


def test_a_file_s_content_counts_and_not_its_name(xray: XRay, written: Written) -> None:
    path = written(xray(np.array([[0, 51, 255]], np.uint8), 8), "chest.png")
    np.testing.assert_array_equal(read_image(path), read_dicom(path))
    picture = open_picture(path)
    assert picture.mode == "I;16"
    assert np.asarray(picture).tolist() == [[0, 51 * 257, 65535]]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"Modality": "CT"}, "has Modality CT; expected a chest X-ray"),
    ({"NumberOfFrames": 2}, "holds 2 frames; expected one"),
    ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "is in colour"),
    ({"PhotometricInterpretation": "PALETTE COLOR"}, "is in colour"),
    ({"BitsAllocated": 32}, "32 bits allocated"),
    ({"WindowCenter": 10, "WindowWidth": 0}, "window width 0; expected 1 or more"),
    ({"WindowCenter": 10, "WindowWidth": 9, "VOILUTFunction": "CUBIC"}, "window function CUBIC"),
    ({"VOILUTSequence": [_lut(np.arange(4), 0, 12)], "PixelData": b"\0"}, "cannot be decoded"),
    ({"VOILUTSequence": [_lut(np.arange(4), 0, 7)]}, "LUT of 4 entries of 7 bits"),
]


@pytest.mark.parametrize(("elements", "message"), REFUSED)
def test_what_is_no_x_ray_is_refused(xray: XRay, written: Written, elements: dict[str, Any], message: str) -> None:
    path = written(xray(np.zeros((2, 2), np.uint16), 12, **elements))
    with pytest.raises(ImageError, match=message):
        read_dicom(path)


@pytest.mark.parametrize(
    ("name", "message"), [("rtplan.dcm", "Modality RTPLAN"), ("SC_rgb_rle.dcm", "is in colour"), ("MR_small.dcm", "MR")]
)
def test_files_of_other_kinds_are_refused(name: str, message: str) -> None:
    path = get_testdata_file(name, download=False)
    assert path is not None
    with pytest.raises(ImageError, match=message):
        read_image(str(path))


def test_damaged_files_are_refused_wherever_they_end(
    xray: XRay, written: Written, noise: Callable[..., np.ndarray]
) -> None:
    path = written(xray(noise(12), 12))
    data = path.read_bytes()
    for end in range(132, len(data) - 2, 37):
        path.write_bytes(data[:end])
        with pytest.raises(ImageError):
            read_image(path)


def test_missing_files_folders_and_other_kinds(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_text("no DICOM at all, but long enough")
    for path, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "b.dcm", "does not exist"),
        (tmp_path / "a.dcm", "is not"),
    ):
        with pytest.raises(ImageError, match=message):
            read_dicom(path)


def test_without_the_extra_the_message_says_what_to_install(
    xray: XRay, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(xray(np.zeros((2, 2), np.uint8), 8))
    monkeypatch.setattr(xreal.dicom.dataset, "find_spec", lambda name: None)
    for read in (read_image, open_picture, read_dicom):
        with pytest.raises(ImageError, match=r'pip install "xreal-cxr\[dicom\]"'):
            read(path)


def test_an_x_ray_is_no_organ_mask(xray: XRay, written: Written, noise: Callable[..., np.ndarray]) -> None:
    with pytest.raises(MaskError, match="holds values"):
        read_organ_mask(written(xray(noise(8), 8)))
