"""Pictures and small files: read chest X-rays, write results with their provenance, fit to a square.

X-rays are PNG, JPEG, TIFF or DICOM; which of them is told by a file's content, not by its name. Everything is written
whole or not at all (:mod:`xreal.files`).
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError

from xreal.dicom import is_dicom, is_segmentation, read_dicom, read_organ_segmentation
from xreal.errors import ImageError, InputError, OutputError
from xreal.files import temporary_path, write_bytes

__all__ = [
    "check_output_folder",
    "fit_square",
    "fit_square_mask",
    "open_picture",
    "pad_square",
    "prepare_output_folder",
    "read_image",
    "read_jpeg_steps",
    "through_jpeg",
    "write_bytes",
    "write_image",
    "write_json",
]

_FORMATS = ("PNG", "JPEG", "TIFF")
_EIGHT_BIT = ("L", "LA", "RGB", "RGBA")
_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_WHITE_16 = 65535
_TIFF_BITS_PER_SAMPLE, _TIFF_PHOTOMETRIC, _TIFF_WHITE_IS_ZERO = 258, 262, 0  # TIFF 6.0 baseline tags
_SYNTHETIC_KEY = "xreal:synthetic"
_SYNTHETIC_VALUE = "true; not for diagnosis"


def open_picture(path: str | os.PathLike[str]) -> Image.Image:
    """Open and decode a whole PNG, JPEG, TIFF or DICOM file, pictures turned upright by their EXIF orientation.

    Returns:
        The decoded picture, in the mode that the file has. Of a DICOM X-ray 16-bit grey, as ``read_dicom`` reads it;
        of a DICOM Segmentation its organs, 8-bit ``Organ`` labels.

    Raises:
        ImageError: the file is missing, of another kind, damaged, cut short, or holds several pictures.
        MaskError: a DICOM Segmentation without organs.
    """
    path = Path(path)
    if not path.is_file():
        missing = "is a folder" if path.is_dir() else "does not exist"
        raise ImageError(f"{path} {missing}; expected a PNG, JPEG, TIFF or DICOM file. Check the path.")
    if _holds_dicom(path):
        if is_segmentation(path):
            return Image.fromarray(read_organ_segmentation(path))
        return Image.fromarray(np.rint(read_dicom(path) * _WHITE_16).astype(np.uint16))
    # Another library in the same process may have told Pillow to fill what is missing with grey.
    tolerant, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=_FORMATS) as unchecked:
            unchecked.verify()  # PNG: the checksum of every chunk; decoding alone skips them
        picture = Image.open(io.BytesIO(data), formats=_FORMATS)
        frames = getattr(picture, "n_frames", 1)
        picture.load()
        ImageOps.exif_transpose(picture, in_place=True)
    # Decoders of damaged files raise nearly anything: OSError, SyntaxError, struct.error, KeyError, bomb errors.
    except Exception as error:
        # Pillow would name the buffer, by an address that is another in each process.
        what = "it is none of these" if isinstance(error, UnidentifiedImageError) else str(error)
        raise ImageError(
            f"{path} cannot be read as PNG, JPEG, TIFF or DICOM ({what}). The file is damaged, cut short or "
            "of another kind: copy it again, or convert it to PNG."
        ) from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = tolerant
    if frames > 1:
        raise ImageError(f"{path} holds {frames} pictures; expected one. Save the wanted one as its own file.")
    return picture


def _holds_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(256))
    except OSError as error:
        raise ImageError(f"{path} cannot be read ({error}). Check its rights.") from error


def read_image(path: str | os.PathLike[str]) -> npt.NDArray[np.float32]:
    """Read a chest X-ray from a PNG, JPEG, TIFF or DICOM file.

    DICOM is shown as ``xreal.dicom.read_dicom`` says: rescale, VOI LUT or window, air dark. For the others:

    The range of the file's type becomes [0, 1]: 8 bits are divided by 255, 16 bits by 65,535, whatever values occur.
    A 12-bit X-ray stored in 16 bits is therefore dark; rescale it before. Colour becomes luminance (ITU-R 601) at
    8 bits, alpha is ignored, TIFF "white is zero" is turned to air dark.

    Args:
        path: 8- or 16-bit, grey, RGB or RGBA; DICOM grey only.

    Returns:
        (H, W) float32 in [0, 1].

    Raises:
        ImageError: the file is missing, damaged, cut short, or neither 8- nor 16-bit grey or RGB(A); or it is DICOM
            and no X-ray, or the extra ``dicom`` is not installed.
    """
    path = Path(path)
    if path.is_file() and _holds_dicom(path):
        return read_dicom(path)
    picture = open_picture(path)
    tags: Mapping[int, Any] = getattr(picture, "tag_v2", {})
    if picture.mode in _EIGHT_BIT:
        return np.asarray(picture.convert("L"), dtype=np.float32) / np.float32(255)
    bits = tags.get(_TIFF_BITS_PER_SAMPLE, (16,))[0]
    if picture.mode not in _SIXTEEN_BIT or bits != 16:
        names = {"1": "1-bit", "P": "palette"} | dict.fromkeys(_SIXTEEN_BIT, f"{bits}-bit")
        kind = names.get(picture.mode, f"mode {picture.mode!r}")
        raise ImageError(
            f"{path} is a {kind} picture; expected 8- or 16-bit grey, RGB or RGBA. Convert it to grey PNG from the "
            "original image (a mask is read with read_organ_mask)."
        )
    values = np.asarray(picture, dtype=np.int64)
    if values.min() < 0 or values.max() > _WHITE_16:
        raise ImageError(
            f"{path} holds values {values.min()} to {values.max()}; expected 0 to {_WHITE_16} (16 bits, unsigned). "
            "Rescale it and save it as 16-bit grey PNG."
        )
    if tags.get(_TIFF_PHOTOMETRIC) == _TIFF_WHITE_IS_ZERO:  # Pillow inverts 8 bits itself, but not 16
        values = _WHITE_16 - values
    return (values / _WHITE_16).astype(np.float32)


def read_jpeg_steps(path: str | os.PathLike[str]) -> tuple[int, ...]:
    """Return the 64 quantisation steps of a JPEG file's grey levels, in Pillow's order; () for any other file."""
    try:
        with Image.open(path, formats=("JPEG",)) as picture:
            tables: Mapping[int, list[int]] = getattr(picture, "quantization", {})
    except OSError:  # of another kind
        return ()
    return tuple(tables.get(0, ()))


def through_jpeg(image: npt.NDArray[Any], steps: Sequence[int]) -> npt.NDArray[np.float32]:
    """Return what is left of an image, (H, W) floats in [0, 1], in a JPEG file with these 64 quantisation steps."""
    file = io.BytesIO()
    grey = Image.fromarray(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))
    grey.save(file, "JPEG", qtables=[list(steps)])
    return np.asarray(Image.open(file), np.float32) / np.float32(255)


def write_image(
    path: str | os.PathLike[str],
    image: npt.NDArray[Any],
    metadata: Mapping[str, str] | None = None,
    *,
    bits: Literal[8, 16] = 8,
) -> None:
    """Write a grey PNG with its provenance in text chunks.

    Args:
        path: ends in ".png"; the folder exists.
        image: (H, W) floats in [0, 1].
        metadata: PNG keyword (1 to 79 Latin-1 characters) to text. When given, "xreal:synthetic" is added and says
            that the image is not for diagnosis; None writes no text, for images that are not synthetic.
        bits: per pixel. What ``read_image`` read from as many bits is written as it was.

    Raises:
        ImageError: the image has another shape, dtype or range.
        InputError: a metadata key or value is not text that PNG can hold.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise OutputError(f"{path} does not end in .png; images are written as PNG only. Change the name.")
    image = _check_image(image)
    if not np.issubdtype(image.dtype, np.floating):
        raise ImageError(f"image is {image.dtype}; expected floats in [0, 1]. Divide 8-bit values by 255.")
    if image.min() < 0 or image.max() > 1:
        raise ImageError(f"image holds values {image.min()} to {image.max()}; expected [0, 1]. Rescale or clip it.")
    chunks = PngImagePlugin.PngInfo()
    texts = {} if metadata is None else {**metadata, _SYNTHETIC_KEY: _SYNTHETIC_VALUE}
    for key, value in texts.items():
        _check_text(key, value)
        chunks.add_text(key, value)
    buffer = io.BytesIO()
    stored = np.rint(image * 255).astype(np.uint8) if bits == 8 else np.rint(image * _WHITE_16).astype(np.uint16)
    Image.fromarray(stored).save(buffer, "PNG", pnginfo=chunks)
    write_bytes(path, buffer.getvalue())


def _check_image(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    image = np.asarray(image)
    if image.ndim != 2 or image.size == 0:
        raise ImageError(f"image has shape {image.shape}; expected (H, W), one grey picture.")
    if not np.issubdtype(image.dtype, np.number) or np.iscomplexobj(image):
        raise ImageError(f"image is {image.dtype}; expected numbers.")
    if not np.isfinite(image).all():
        raise ImageError("image holds NaN or infinity; expected finite numbers.")
    return image


def _check_text(key: str, value: str) -> None:
    if not isinstance(key, str) or not isinstance(value, str) or "\0" in key + value:
        raise InputError(f"metadata {key!r}: {value!r} is not text that PNG can hold; expected strings without NUL.")
    if not 1 <= len(key) <= 79 or not key.isprintable() or any(ord(character) > 255 for character in key):
        raise InputError(f"metadata key {key!r} is not a PNG keyword; expected 1 to 79 Latin-1 characters.")


def pad_square(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Pad the shorter side with zeros (air, background) to a square, the picture centred.

    Args:
        image: (H, W), any dtype.

    Returns:
        (S, S) with S = max(H, W), same dtype. An odd surplus row or column goes to the bottom or the right.
    """
    height, width = image.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return np.pad(image, ((top, side - height - top), (left, side - width - left)))


def fit_square(image: npt.NDArray[Any], size: int) -> npt.NDArray[np.float32]:
    """Pad to a square with zeros, then resize with an antialiased triangle filter.

    Args:
        image: (H, W), finite numbers of any dtype; values are not rescaled.
        size: pixels a side of the result.

    Returns:
        (size, size) float32, never outside the range of the padded image; an image of that size is unchanged.

    Raises:
        ImageError: the image is not a finite (H, W) array.
        InputError: the size is below 1.
    """
    _check_size(size)
    square = pad_square(_check_image(image)).astype(np.float32)
    if square.shape[0] == size:
        return square
    resized = Image.fromarray(square).resize((size, size), Image.Resampling.BILINEAR)
    values: npt.NDArray[np.float32] = np.clip(np.asarray(resized), square.min(), square.max())
    return values


def fit_square_mask(mask: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Pad to a square with zeros, then resize by nearest neighbour: the geometry of :func:`fit_square` for labels.

    Args:
        mask: (H, W) labels, integer or bool.
        size: pixels a side of the result.

    Returns:
        (size, size), same dtype, no label that was not there before except 0 from padding.

    Raises:
        ImageError: the mask is not an (H, W) array of integers.
        InputError: the size is below 1.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.size == 0 or mask.dtype.kind not in "biu":
        raise ImageError(f"mask is {mask.dtype} of shape {mask.shape}; expected (H, W) integers, one label a pixel.")
    _check_size(size)
    square = pad_square(mask)
    if len(square) == size:
        return square
    nearest = (2 * np.arange(size) + 1) * square.shape[0] // (2 * size)  # the source pixel under each pixel's centre
    return square[np.ix_(nearest, nearest)]


def _check_size(size: int) -> None:
    if size < 1:
        raise InputError(f"size is {size}; expected at least 1 pixel.")


def prepare_output_folder(path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Create the folder that results go to, before long work starts, and try that it can be written to.

    Args:
        path: the folder; its parents are created too.
        overwrite: allow a folder that already holds files. Nothing is deleted; files of the same name are replaced.

    Returns:
        The folder.

    Raises:
        OutputError: it is a file, cannot be created or written to, or holds files and ``overwrite`` is False.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; expected a folder for the results. Choose another name.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        holds_files = any(folder.iterdir())
        probe = temporary_path(folder / "probe")
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise OutputError(f"{folder} cannot be written to ({error}). Choose another folder or its rights.") from error
    if holds_files and not overwrite:
        raise OutputError(f"{folder} already holds files; choose an empty folder, or use --overwrite to write into it.")
    return folder


def check_output_folder(path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Refuse, without creating anything, a folder that ``prepare_output_folder`` would refuse.

    Raises:
        OutputError: as there.
    """
    folder = Path(path)
    if folder.exists():
        prepare_output_folder(folder, overwrite)
        return
    parent = next(parent for parent in folder.absolute().parents if parent.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise OutputError(
            f"{folder} cannot be written to: {parent} is no folder, or not writable. Choose another folder."
        )


def write_json(path: str | os.PathLike[str], payload: Any) -> None:
    """Write JSON (indented, UTF-8, keys in the given order) through a temporary file.

    Raises:
        InputError: the payload holds something that JSON cannot, NaN and infinity included.
        OutputError: the file cannot be written.
    """
    try:
        text = json.dumps(payload, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: content is not JSON ({error}). Convert it to plain numbers and text.") from error
    write_bytes(path, (text + "\n").encode())
