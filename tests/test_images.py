"""Pictures: what is read is what the file means, what is written is whole, and what is wrong is said."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageFile

from xreal.errors import ImageError, InputError, OutputError
from xreal.images import (
    fit_square,
    fit_square_mask,
    pad_square,
    prepare_output_folder,
    read_image,
    read_jpeg_steps,
    through_jpeg,
    write_bytes,
    write_image,
    write_json,
)


def _noise(height: int = 20, width: int = 24, dtype: type = np.uint8) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, np.iinfo(dtype).max, (height, width), dtype=dtype, endpoint=True)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535)])
def test_lossless_files_are_read_exactly(tmp_path: Path, name: str, dtype: type, white: int) -> None:
    values = _noise(dtype=dtype)
    values[0, :2] = 0, white
    Image.fromarray(values).save(tmp_path / name)
    image = read_image(tmp_path / name)
    assert image.dtype == np.float32
    assert image[0, 0] == 0
    assert image[0, 1] == 1
    np.testing.assert_allclose(image, values / white, atol=1e-7)


def test_a_dark_16_bit_file_is_not_stretched(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 4095, np.uint16)).save(tmp_path / "a.png")
    np.testing.assert_allclose(read_image(tmp_path / "a.png"), 4095 / 65535, atol=1e-7)


def test_jpeg_is_read_up_to_its_loss(tmp_path: Path) -> None:
    values = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1))
    Image.fromarray(values).save(tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(read_image(tmp_path / "a.jpg"), values / 255, atol=0.03)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_through_jpeg_leaves_what_the_file_itself_would(tmp_path: Path, mode: str) -> None:
    values = _noise()
    Image.fromarray(values).convert(mode).save(tmp_path / "a.jpg", quality=80)
    steps = read_jpeg_steps(tmp_path / "a.jpg")
    assert len(steps) == 64
    left = through_jpeg(values / 255, steps)
    assert left.dtype == np.float32
    np.testing.assert_allclose(left, read_image(tmp_path / "a.jpg"), atol=1.01 / 255)
    assert np.abs(left - values / 255).max() > 0.02


def test_what_is_no_jpeg_has_no_steps(tmp_path: Path) -> None:
    Image.fromarray(_noise()).save(tmp_path / "a.jpg", "PNG")
    assert read_jpeg_steps(tmp_path / "a.jpg") == read_jpeg_steps(tmp_path / "nowhere.jpg") == ()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colour_files_of_a_grey_picture_equal_the_grey_file(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(_noise())
    picture = grey.convert(mode)
    if mode.endswith("A"):
        picture.putalpha(Image.fromarray(_noise()[::-1].copy()))
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.asarray(grey, np.float32) / np.float32(255))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_white_is_zero_becomes_air_dark(tmp_path: Path, dtype: type) -> None:
    white = np.iinfo(dtype).max
    stored = np.full((4, 4), white, dtype)
    stored[0] = 0
    Image.fromarray(stored).save(tmp_path / "a.tif")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    at = bytes(data).index(struct.pack("<HHI", 262, 3, 1))  # PhotometricInterpretation, one SHORT
    data[at + 8 : at + 10] = struct.pack("<H", 0)
    (tmp_path / "a.tif").write_bytes(data)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), 1 - stored.astype(np.float32) / white)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    values = np.zeros((16, 32), np.uint8)
    values[:, 16:] = 255
    exif = Image.Exif()
    exif[0x0112] = 2  # mirrored left to right
    Image.fromarray(values).save(tmp_path / "a.jpg", exif=exif)
    image = read_image(tmp_path / "a.jpg")
    assert image[:, :12].min() > 0.9
    assert image[:, 20:].max() < 0.1


@pytest.mark.parametrize(
    ("mode", "name", "said"),
    [
        ("1", "a.png", "1-bit"),
        ("P", "a.png", "palette"),
        ("F", "a.tif", "mode 'F'"),
        ("I", "a.tif", "32-bit"),
        ("CMYK", "a.jpg", "mode 'CMYK'"),
    ],
)
def test_other_modes_are_refused_by_name(tmp_path: Path, mode: str, name: str, said: str) -> None:
    Image.new(mode, (8, 8)).save(tmp_path / name)
    with pytest.raises(ImageError, match=f"{said}.*expected 8- or 16-bit"):
        read_image(tmp_path / name)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's on damaged metadata, before it fails
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "progressive.jpg", "a.tif", "lzw.tif"])
@pytest.mark.parametrize("kept", [0, 0.1, 0.5, 0.9, 0.97])
@pytest.mark.parametrize("tolerant", [False, True])
def test_truncated_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kept: float, tolerant: bool
) -> None:
    options = {"progressive.jpg": {"progressive": True}, "lzw.tif": {"compression": "tiff_lzw"}}.get(name, {})
    Image.fromarray(_noise(40, 40)).save(tmp_path / name, **options)
    read_image(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * kept)])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", tolerant)
    with pytest.raises(ImageError, match="cut short"):
        read_image(tmp_path / name)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is tolerant


def test_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    Image.fromarray(_noise()).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[data.index(b"IEND") - 8] ^= 0xFF  # in the checksum of the last IDAT chunk
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ImageError, match="damaged"):
        read_image(tmp_path / "a.png")


def test_missing_folder_and_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    for name, said in (("none.png", "does not exist"), ("", "is a folder"), ("text.png", "cannot be read")):
        with pytest.raises(ImageError, match=said):
            read_image(tmp_path / name)


def test_several_pictures_in_a_file_are_refused(tmp_path: Path) -> None:
    first, second = Image.fromarray(_noise()), Image.fromarray(_noise()[::-1].copy())
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    with pytest.raises(ImageError, match="holds 2 pictures"):
        read_image(tmp_path / "a.tif")


def test_16_bit_colour_is_read(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + struct.pack(">12H", *[40000] * 12)
    header = struct.pack(">IIBBBBB", 4, 3, 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * 3)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    np.testing.assert_allclose(read_image(tmp_path / "a.png"), 40000 / 65535, atol=1 / 255)


@settings(max_examples=20, deadline=None)
@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.floats(0, 1, width=32)))
def test_write_then_read_is_within_half_a_grey_level(
    tmp_path_factory: pytest.TempPathFactory, image: np.ndarray
) -> None:
    path = tmp_path_factory.getbasetemp() / "round.png"
    write_image(path, image)
    np.testing.assert_allclose(read_image(path), image, atol=0.5 / 255 + 1e-6)


def test_metadata_comes_back_and_always_says_synthetic(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_image(path, np.zeros((4, 4)), {"xreal:prompt": "Œdema, größer", "xreal:synthetic": "false"})
    with Image.open(path) as picture:
        assert picture.text == {"xreal:prompt": "Œdema, größer", "xreal:synthetic": "true; not for diagnosis"}
        assert picture.mode == "L"
    write_image(path, np.zeros((4, 4)))
    with Image.open(path) as picture:
        assert picture.text == {}


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((4, 4, 3)), "shape"),
        (np.zeros((0, 4)), "shape"),
        (np.full((4, 4), 1.01), "expected \\[0, 1\\]"),
        (np.full((4, 4), -0.01), "expected \\[0, 1\\]"),
        (np.full((4, 4), np.nan), "NaN"),
        (np.full((4, 4), np.inf), "infinity"),
        (np.zeros((4, 4), np.uint8), "uint8"),
        (np.zeros((4, 4), complex), "complex"),
    ],
)
def test_bad_images_are_not_written(tmp_path: Path, image: np.ndarray, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        write_image(tmp_path / "a.png", image)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("metadata", [{"": "x"}, {"k" * 80: "x"}, {"鍵": "x"}, {"k": "a\0b"}, {"k": 3}])
def test_metadata_that_png_cannot_hold_is_refused(tmp_path: Path, metadata: dict[str, str]) -> None:
    with pytest.raises(InputError, match="metadata"):
        write_image(tmp_path / "a.png", np.zeros((4, 4)), metadata)


def test_places_that_take_no_file_are_output_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "file" / "a.png", tmp_path / "none" / "a.png", tmp_path / "a.jpg"):
        with pytest.raises(OutputError, match=path.name):
            write_image(path, np.zeros((4, 4)))
    assert (tmp_path / "file").read_text() == "kept"


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def refuse(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OutputError, match="disk full"):
        write_bytes(path, b"new")
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_json_round_trip_and_refusal(tmp_path: Path) -> None:
    payload = {"b": [1, 2.5, None], "a": {"größe": "Œ"}}
    write_json(tmp_path / "a.json", payload)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == payload
    assert list(json.loads(text)) == ["b", "a"]
    for bad in ({"score": float("nan")}, {"score": np.float32(1)}):
        with pytest.raises(InputError, match="JSON"):
            write_json(tmp_path / "a.json", bad)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == payload


@pytest.mark.parametrize("fit", [fit_square, fit_square_mask])
def test_fit_of_that_size_changes_nothing(fit: object) -> None:
    values = _noise(16, 16)
    np.testing.assert_array_equal(fit(values, 16), values)  # type: ignore[operator]


@pytest.mark.parametrize(("height", "width"), [(20, 11), (11, 20), (1, 6), (7, 7)])
def test_padding_is_centred_and_black(height: int, width: int) -> None:
    values = np.ones((height, width), np.int16)
    square = pad_square(values)
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    assert square.shape == (side, side)
    assert square.dtype == np.int16
    assert square.sum() == height * width
    np.testing.assert_array_equal(square[top : top + height, left : left + width], values)


def test_image_and_mask_keep_one_geometry() -> None:
    mask = np.zeros((60, 90), np.uint8)
    mask[10:40, 20:60] = 1
    image, small = fit_square(mask.astype(np.float32), 30), fit_square_mask(mask, 30)
    np.testing.assert_array_equal(image > 0.5, small == 1)
    rows, columns = np.nonzero(small)
    # (60, 90) gets 15 rows on top, then everything is divided by 3.
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 17, 7, 19)


def test_shrinking_is_antialiased() -> None:
    stripes = np.tile(np.array([0, 1], np.float32), (64, 32))
    np.testing.assert_allclose(fit_square(stripes, 16)[:, 1:-1], 0.5, atol=0.02)


@settings(max_examples=30, deadline=None)
@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.integers(0, 9)),
    st.integers(1, 24),
)
def test_fit_invents_no_label_and_leaves_no_range(mask: np.ndarray, size: int) -> None:
    small = fit_square_mask(mask, size)
    assert small.shape == (size, size)
    assert small.dtype == mask.dtype
    assert set(np.unique(small)) <= set(np.unique(mask)) | {0}
    image = fit_square(mask, size)
    assert image.shape == (size, size)
    assert image.dtype == np.float32
    assert image.min() >= 0
    assert image.max() <= mask.max()


@pytest.mark.parametrize(
    ("values", "size", "error"),
    [
        (np.zeros((4, 4, 1)), 4, ImageError),
        (np.full((4, 4), np.nan), 4, ImageError),
        (np.zeros((4, 4)), 0, InputError),
        (np.array([["a"]]), 4, ImageError),
    ],
)
def test_bad_input_to_fit(values: np.ndarray, size: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        fit_square(values, size)
    with pytest.raises(error):
        fit_square_mask(values if values.dtype.kind != "f" or size else values.astype(int), size)


def test_float_masks_are_not_label_maps() -> None:
    with pytest.raises(ImageError, match="float64"):
        fit_square_mask(np.ones((4, 4)), 4)


def test_output_folder_is_created_and_guarded(tmp_path: Path) -> None:
    folder = prepare_output_folder(tmp_path / "a" / "b")
    assert folder.is_dir()
    assert not list(folder.iterdir())
    assert prepare_output_folder(folder) == folder  # empty: fine again
    (folder / "kept.txt").write_text("kept")
    with pytest.raises(OutputError, match="--overwrite"):
        prepare_output_folder(folder)
    prepare_output_folder(folder, overwrite=True)
    assert (folder / "kept.txt").read_text() == "kept"
    with pytest.raises(OutputError, match="is a file"):
        prepare_output_folder(folder / "kept.txt")
    with pytest.raises(OutputError, match="cannot be written to"):
        prepare_output_folder(folder / "kept.txt" / "below")


def test_output_folder_without_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(OutputError, match="read-only"):
        prepare_output_folder(tmp_path / "a")
